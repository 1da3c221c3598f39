"""``python -m pacs_tasks.embedded.lifeline MODULE ...``: run a module that ends with the process that started it.

Standard input is a pipe whose other end only that process holds. When it ends, even by ``kill -9``, the kernel closes
the pipe and the module gets a SIGTERM: a worker finishes its tasks and accepts no more.
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
