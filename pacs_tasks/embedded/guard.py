"""``python -I -S guard.py DESCRIPTOR PROGRAM ARGUMENT ...``: run a server that ends with the process that started it.

Standard input is a pipe whose other end only that process holds. It brings the configuration, up to an empty line,
which goes on to the program. The line ``end`` ends the program. A pipe that closes without it shows that the other
process was killed: its worker has :data:`GRACE` seconds to record what it does, and then the program ends.

Nothing here depends on a file, so that the program ends even if its directory was removed. This script imports nothing
of this package, so that it starts in 20 ms.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

#: Seconds in which the worker of a supervisor that was killed ends.
GRACE = 10.0
#: Seconds for the program to write its files.
_STOP = 5.0


def read_configuration() -> bytes:
    """Read standard input up to an empty line. Ends this process if there is none."""
    text = b""
    while not text.endswith(b"\n\n"):
        # Not through sys.stdin: a thread that waits there for its lock breaks the end of the interpreter.
        if not (byte := os.read(0, 1)):
            sys.exit(1)
        text += byte
    return text


def await_end() -> None:
    """Return when this process must end, according to its standard input."""
    while data := os.read(0, 1024):
        if b"end" in data:
            return
    threading.Event().wait(GRACE)


def _follow() -> None:
    """Have the program end with this process, even by ``kill -9``, where the system can (PR_SET_PDEATHSIG)."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        from ctypes import CDLL

        CDLL(None).prctl(1, signal.SIGTERM)


def main() -> int:
    descriptor, *command = sys.argv[1:]
    configuration = read_configuration()
    follow = _follow if sys.platform == "linux" else None
    program = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[int(descriptor)], preexec_fn=follow)  # noqa: PLW1509 - there is one thread yet

    def end() -> None:
        await_end()
        program.terminate()
        try:
            program.wait(_STOP)
        except subprocess.TimeoutExpired:
            program.kill()

    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    threading.Thread(target=end, daemon=True).start()
    program.communicate(configuration)
    return program.returncode


if __name__ == "__main__":
    sys.exit(main())
