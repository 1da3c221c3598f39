"""The receiver makes itself known: by a token in its directory, and by an announcement in Redis with the same token."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from pathlib import Path

import redis

from pacs_tasks.connection import connect
from pacs_tasks.errors import ConfigurationError, PacsTasksError
from pacs_tasks.fleet.receivers import LIFETIME, MARKER, Receiver, announce, withdraw

logger = logging.getLogger("pacs_tasks.receiver")

#: Seconds between two announcements.
BEAT = LIFETIME / 3


class Announcer:
    """Keeps the receiver's announcement in Redis alive."""

    def __init__(self, redis_url: str, timeout: float, receiver: Receiver) -> None:
        self._url = redis_url
        self._timeout = timeout
        self._receiver = receiver
        self._client: redis.Redis | None = None
        self._lost = False

    def beat(self) -> None:
        """Announce; if Redis is away, say so once and try again at the next beat."""
        try:
            if self._client is None:
                self._client = connect(self._url, self._timeout)
            announce(self._client, self._receiver)
        except (PacsTasksError, redis.RedisError) as error:
            if not self._lost:
                logger.warning("receiving goes on unannounced: %s", error)
            self._lost = True
            self._close()
        else:
            if self._lost:
                logger.info("announced again")
            self._lost = False

    def end(self) -> None:
        with contextlib.suppress(PacsTasksError, redis.RedisError):
            if self._client is not None:
                withdraw(self._client, self._receiver)
        self._close()

    def _close(self) -> None:
        if self._client is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._client.close()
            self._client = None


def mark(directory: Path) -> str:
    """The token in the directory's marker file, written if there is none.

    Receivers that share a directory share the token, since it tells storages apart, not receivers.

    Raises
    ------
    ConfigurationError
        If the directory cannot be written.
    """
    path = directory / MARKER
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / f"{MARKER}.{os.getpid()}"
        token = secrets.token_hex(16)
        fresh.write_text(token, encoding="ascii")
        try:
            # A link fails if the marker is there, so two receivers that start at once agree on one token.
            os.link(fresh, path)
        except FileExistsError:
            token = path.read_text(encoding="ascii").strip()
        except OSError:
            # A file system without links.
            fresh.replace(path)
        fresh.unlink(missing_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its marker is unreadable"
        raise ConfigurationError(
            f"the receiver cannot write to its directory ({reason}); "
            "set PACS_TASKS_RECEIVER_DIR to one that this user may write",
            str(directory),
        ) from None
    return token


def reachable_address(host: str) -> str:
    """The address at which other machines find a socket that listens at ``host``."""
    if host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # A datagram socket sends nothing to connect; it only picks the interface. The address is for
            # documentation (RFC 5737), so nobody has it.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
