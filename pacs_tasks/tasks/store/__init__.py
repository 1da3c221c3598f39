"""Tasks that send files (C-STORE), and the preflight of a send. Only the registration of tasks imports from here."""
