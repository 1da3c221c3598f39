"""Tasks that query (C-FIND)."""
