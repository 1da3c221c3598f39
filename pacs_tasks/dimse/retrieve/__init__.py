"""C-MOVE and C-GET (PS3.4 annex C): ask a remote to deliver instances."""
