"""The command line: from what people type to requests, and from outcomes to tables and exit codes."""
