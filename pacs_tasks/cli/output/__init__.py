"""From outcomes to tables, documents, advice and exit codes."""
