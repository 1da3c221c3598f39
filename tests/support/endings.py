"""How the other side ends an association, and how long it may take until that is noticed."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support import messages, scripted

#: Well below the time-outs of those who notice it.
AT_ONCE = 20.0
#: So long an answer to a release is waited for.
RELEASE = 5.0


def release(sock: socket.socket) -> bytes:
    sock.sendall(messages.RELEASE)
    return scripted.wait_for_end(sock)


def abort(sock: socket.socket) -> None:
    sock.sendall(messages.ABORT)
    scripted.wait_for_end(sock)


def close(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)
    scripted.wait_for_end(sock)


#: It gives what came until we hung up, if it heard that.
Ending = Callable[[socket.socket], bytes | None]
#: Between two PDUs.
ENDINGS: tuple[Ending, ...] = (release, abort, close, reset, half_close)
#: In the middle of one.
BREAKS: tuple[Ending, ...] = (close, reset, half_close)


def name(value: object) -> str:
    return getattr(value, "__name__", str(value)).strip("_")


@contextmanager
def at_once(limit: float = AT_ONCE) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit


def boundaries(stream: bytes) -> list[int]:
    """Where the PDUs of a stream begin and end."""
    found = [0]
    for _, content in messages.pdus(stream):
        found.append(found[-1] + 6 + len(content))
    return found


def whole(stream: bytes) -> dict[str, bytes]:
    """The instances that are whole at the beginning of a stream, by the name that their files get."""
    return {f"{uid}.dcm": content for uid, content in messages.data_sets(stream).items()}
