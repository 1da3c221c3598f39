"""The Storage SCP (PS3.4 annex B): instances that come in."""
