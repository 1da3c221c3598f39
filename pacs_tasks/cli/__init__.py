"""The command line: from what people type to requests, and from outcomes to tables and exit codes."""

from pacs_tasks.cli.invocation import Program
from pacs_tasks.cli.program import main

__all__ = ["Program", "main"]
