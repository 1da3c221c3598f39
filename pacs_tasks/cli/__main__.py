"""The entry point of ``pacs-tasks`` and of ``python -m pacs_tasks.cli``."""

import sys

from pacs_tasks.cli.interrupt import guarded


def run() -> None:
    """Run the command line of this process."""
    sys.exit(guarded(_command))


def _command() -> int:
    from pacs_tasks.cli.program import main

    return main()


if __name__ == "__main__":
    run()
