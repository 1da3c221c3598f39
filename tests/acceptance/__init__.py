"""The commands as people type them, against PACS that others wrote."""
