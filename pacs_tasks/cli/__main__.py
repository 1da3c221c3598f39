"""The entry point of ``pacs-tasks`` and of ``python -m pacs_tasks.cli``."""

from typing import NoReturn

from pacs_tasks.cli.interrupt import guarded, leave


def run() -> NoReturn:
    """Run the command line of this process."""
    leave(guarded(_command))


def _command() -> int:
    from pacs_tasks.cli.program import main

    return main()


if __name__ == "__main__":
    run()
