"""Tasks that query (C-FIND). Only the registration of tasks imports from here."""
