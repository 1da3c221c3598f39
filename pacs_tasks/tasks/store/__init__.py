"""Tasks that send files (C-STORE)."""
