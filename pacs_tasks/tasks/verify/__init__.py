"""Tasks that prove what a job has sent (C-FIND, storage commitment)."""
