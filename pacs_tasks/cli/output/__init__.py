"""What a person or a program reads of a command: sentences, tables, JSON documents, exit codes and logs."""
