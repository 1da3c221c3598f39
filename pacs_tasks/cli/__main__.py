"""``python -m pacs_tasks.cli`` is ``pacs-tasks``."""

import sys

from pacs_tasks.cli.program import main

sys.exit(main())
