"""The commands, one file for each group, and how each is made."""
