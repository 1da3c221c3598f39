"""Free ports on loopback."""

from __future__ import annotations

import random
import socket
import threading
from typing import Final

#: Below the range from which systems take the ports of outgoing connections, and above the well-known ones.
_FIRST: Final = 15_000
_LAST: Final = 32_000

_lock = threading.Lock()
_given: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kept_port() -> int:
    """A free port for what dies and comes back: no outgoing connection gets it meanwhile.

    A caller that tries a dead port again and again would otherwise be given it as its own in the end, and find itself
    connected to itself. Each is given once in the life of this process.
    """
    with _lock:
        while True:
            port = random.randint(_FIRST, _LAST)
            if port not in _given and _free(port):
                _given.add(port)
                return port


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether something accepts connections at a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
