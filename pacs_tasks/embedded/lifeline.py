"""``python -m pacs_tasks.embedded.lifeline MODULE ...``: a module that ends when the one who started it is gone.

Standard input is a pipe whose other end only the starter holds. When the starter ends, even by ``kill -9``, the kernel
closes that end, and the module gets a SIGTERM: a worker finishes what it runs, and takes no more.
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
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
