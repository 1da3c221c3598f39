"""``python -m pacs_tasks.embedded.lifeline MODULE ...``: run a module that ends with the process that started it.

Standard input is a pipe whose other end only that process holds. When it ends, even by ``kill -9``, the system closes
the pipe and the module gets a SIGTERM: a worker finishes its tasks and accepts no more. Whatever has not ended after
:data:`LIMIT` seconds is killed, with its children: nobody is left to do so.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

#: Seconds for the module to end after its starter, as long as a starter that lives waits for it.
LIMIT = 20.0


def _end_with_the_pipe() -> None:
    while os.read(0, 1024):
        pass
    if sys.platform == "win32":
        # os.kill would end this process at once.
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(LIMIT)
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with_the_pipe, name="lifeline", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
