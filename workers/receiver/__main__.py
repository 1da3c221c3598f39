"""``python -m workers.receiver``: run the receiver of this machine."""

import sys

from workers.receiver.service import main

sys.exit(main())
