"""``pacs-tasks``, and ``python -m pacs_tasks.cli``, which is the same."""

import gc
import sys

# What a command reads in at its start is no garbage. To look for some in it, then and at the end, takes a tenth of a
# second, which is a quarter of what a short command takes; `commands.command` goes on to look.
gc.disable()

from pacs_tasks.cli.program import main  # noqa: E402 - the line above is about this one


def run() -> None:
    """Run the command line of this process."""
    sys.exit(main())


if __name__ == "__main__":
    run()
