"""C-MOVE and C-GET (PS3.4 annex C): the remote delivers instances.

``c_move`` and ``c_get`` are the two services, ``delivery`` follows either to its end.
"""
