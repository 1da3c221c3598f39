"""``python -m pacs_tasks.embedded.lifeline``: Celery, which ends when the one who started it is gone.

Standard input is a pipe whose other end only the supervisor holds. When the supervisor ends, even by ``kill -9``, the
kernel closes that end, and the worker shuts down as it does on SIGTERM: it finishes what it runs, and takes no more.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_the_pipe() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    threading.Thread(target=_end_with_the_pipe, name="lifeline", daemon=True).start()
    sys.argv[0] = "celery"
    runpy.run_module("celery", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
