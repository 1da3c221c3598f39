"""Free ports on loopback."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

#: Below the range from which systems take the ports of outgoing connections and of listeners that take any, and above
#: the well-known ones.
_FIRST: Final = 15_000
_LAST: Final = 32_000
#: Each process has a share of them. Those of pytest have other ones than what they start.
_SHARES: Final = 32

_lock = threading.Lock()


def _share() -> list[int]:
    """The ports of this process, in an order of its own: another run of the tests may have the same."""
    each, half = (_LAST - _FIRST) // _SHARES, _SHARES // 2
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    number = int(worker) % half if worker else half + os.getpid() % half
    ports = range(_FIRST + number * each, _FIRST + (number + 1) * each)
    return random.sample(ports, len(ports))


_candidates = itertools.cycle(_share())


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now, for what starts later, dies and comes back, or never comes.

    Nobody else gets it meanwhile: no outgoing connection, and no other test until all ports of this process have had
    their turn. A caller that tries a dead port again and again would otherwise be given it as its own in the end, and
    find itself connected to itself.
    """
    with _lock:
        return next(port for port in _candidates if _free(port))


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


def connections(port: int, processes: Collection[int] | None = None) -> int:
    """Connections to a port of this machine that are established (Linux).

    With ``processes`` those that these have opened, else as the one who listens sees them.
    """
    lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    side = 1 if processes is None else 2
    found = [fields[9] for fields in lines if fields[side].endswith(f":{port:04X}") and fields[3] == "01"]
    if processes is None:
        return len(found)
    sockets = {f"socket:[{inode}]" for inode in found}
    return sum(_open_file(each) in sockets for pid in processes for each in Path(f"/proc/{pid}/fd").glob("*"))


def _open_file(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""
