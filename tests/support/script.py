"""``pacs-tasks`` of a shell in a test: the nursery forks it, and this process ends as it ends.

:mod:`tests.support.nursery` writes it, with the call of :func:`main`, to a directory of the ``PATH``. It loads little:
a command that is started anew takes half a second of CPU. What is forked has the arguments, directory, variables and
three streams of this process, but not its group, its umask or other open files.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

#: Bytes of what the nursery says: an id, or a status.
_SHORT = 32
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(program: str) -> None:
    """Have ``program`` forked, and end as it ends; start it anew where the nursery declines."""
    order = {
        "command": [program, *sys.argv[1:]],
        "directory": str(Path.cwd()),
        "variables": dict(os.environ),
        "session": False,
    }
    # A signal that comes before anybody knows the fork would end this process alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nursery:
        nursery.connect(str(Path(__file__).with_name("orders")))
        socket.send_fds(nursery, [json.dumps(order).encode()], [0, 1, 2])
        said = nursery.recv(_SHORT)
        if said.startswith(b"id "):
            _pass_on(int(said.removeprefix(b"id ")))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if not said.startswith(b"id "):
            os.execv(program, [program, *sys.argv[1:]])
        code = os.waitstatus_to_exitcode(int(nursery.recv(_SHORT) or signal.SIGKILL))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _pass_on(pid: int) -> None:
    """Send the signals that this process gets, and does not ignore, to another one."""

    def handle(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
