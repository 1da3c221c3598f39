"""Callers from loopback addresses of their own, and crowds of them that never get to the point."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice

from pacs_tasks.dimse.c_echo import VERIFICATION
from pacs_tasks.dimse.upper_layer import negotiation as acse
from tests.support import scripted

IMPLICIT = "1.2.840.10008.1.2"
#: Result, source and reason of an A-ASSOCIATE-RJ; none if the association was accepted.
Numbers = tuple[int, int, int]


def request(calling: str, called: str = "PACS_TASKS") -> bytes:
    """Encode an association request for Verification."""
    proposed = (acse.ProposedContext(1, VERIFICATION, (IMPLICIT,)),)
    return acse.encode_request(acse.AssociateRequest(called, calling, proposed))


def connected(port: int, source: str, first: bytes = b"") -> socket.socket:
    """Connect from one of the addresses of this machine, and send some bytes."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=15, source_address=(source, 0))
    with suppress(ConnectionError):
        sock.sendall(first)
    return sock


def answered(sock: socket.socket) -> Numbers | None:
    """Read the answer to an association request."""
    kind, content = scripted.receive_pdu(sock)
    if kind == 2:
        return None
    assert kind == 3, kind
    return content[1], content[2], content[3]


def called(port: int, source: str, calling: str, title: str = "PACS_TASKS") -> Numbers | None:
    """Request an association, and end it if it is accepted."""
    with connected(port, source, request(calling, title)) as sock:
        return answered(sock)


@contextmanager
def crowd(port: int, count: int, addresses: list[str], first: bytes, rest: bytes = b"") -> Iterator[None]:
    """Keep many connections open that have sent these bytes, and open others for those that are closed.

    ``rest`` is sent byte by byte.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + 500), hard), hard))
    sources = cycle(addresses)
    socks = [connected(port, source, first) for source in islice(sources, count)]
    ending = threading.Event()

    def renew() -> None:
        for number in cycle(range(count)):
            if number % 20 == 0 and ending.wait(0.005):
                return
            sock = socks[number]
            if _is_open(sock):
                with suppress(OSError):
                    sock.send(rest[number % len(rest) :][:1] if rest else b"")
            else:
                sock.close()
                socks[number] = connected(port, next(sources), first)

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ending.set()
        renewing.join(20)
        for each in socks:
            each.close()


def _is_open(sock: socket.socket) -> bool:
    """Whether the other side has neither hung up nor rejected the association."""
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"\2"
    except BlockingIOError:
        return True
    except OSError:
        return False
