"""``pacs-tasks`` of a shell in a test: the nursery forks it, and this process ends as it ends.

:mod:`tests.support.nursery` writes it, with the call of :func:`main`, to a directory of the ``PATH``. It loads little:
a command that is started anew takes half a second of CPU.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

#: Bytes of what the nursery says: an id, or a status.
_SHORT = 32


def main(program: str) -> None:
    """Have ``program`` forked; become it where the nursery cannot fork what has these variables."""
    order = {
        "command": [program, *sys.argv[1:]],
        "directory": str(Path.cwd()),
        "variables": dict(os.environ),
        "session": False,
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nursery:
        nursery.connect(str(Path(__file__).with_name("orders")))
        socket.send_fds(nursery, [json.dumps(order).encode()], [0, 1, 2])
        said = nursery.recv(_SHORT)
        if not said:
            os.execv(program, [program, *sys.argv[1:]])
        pid = int(said.removeprefix(b"id "))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = os.waitstatus_to_exitcode(int(nursery.recv(_SHORT) or signal.SIGKILL))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
