"""What is written down about the work, for people and programs outside: log lines, the audit trail, traces."""
