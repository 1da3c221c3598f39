"""``python -m pacs_tasks.embedded``: the supervisor, which :func:`pacs_tasks.embedded.attach` starts."""

from __future__ import annotations

import sys

from pacs_tasks.embedded.supervisor import main

if __name__ == "__main__":
    sys.exit(main())
