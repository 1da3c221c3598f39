"""Ports for what is killed and comes back: nobody else may get them meanwhile."""

from __future__ import annotations

import random
import socket
import threading
from typing import Final

#: Below the range from which Linux takes the ports of outgoing connections, and above the well-known ones.
_FIRST: Final = 15_000
_LAST: Final = 32_000

_lock = threading.Lock()
_given: set[int] = set()


def kept_port() -> int:
    """A free TCP port on loopback, given once in this run and never to an outgoing connection."""
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
