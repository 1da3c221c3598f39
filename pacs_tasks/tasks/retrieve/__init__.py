"""Tasks that retrieve (C-MOVE, C-GET)."""
