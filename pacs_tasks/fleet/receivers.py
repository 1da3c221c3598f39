"""Which receivers run: each announces itself in Redis, and proves to a worker that they share storage.

A receiver writes a random token to the file :data:`MARKER` in its directory and announces the same token; a worker
that reads it there sees the same storage, so a C-MOVE to that receiver ends up where the worker can compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import redis
from pydantic import BaseModel, ConfigDict

from pacs_tasks.ae import AETitle

MARKER = ".pacs-tasks-receiver"
#: Below a receiver's directory: what jobs expect, which they take from there, and what nobody asked for.
INCOMING = "incoming"
UNSOLICITED = "unsolicited"
_PREFIX = "pacs_tasks:receiver:"
#: Seconds that an announcement lives; a receiver repeats it every third of that.
LIFETIME = 15


class Receiver(BaseModel):
    """A running Storage SCP. Below ``directory`` it puts instances, as the receiver's machine names it.

    ``tls`` says that it takes nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    ae_title: AETitle
    host: str
    port: int
    directory: str
    token: str
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}{' over TLS' if self.tls else ''}"

    @property
    def incoming(self) -> Path:
        """Where it puts what jobs expect, as ``<study>/<series>/<instance>.dcm``."""
        return Path(self.directory) / INCOMING

    @property
    def shared(self) -> bool:
        """Whether this machine sees the receiver's storage."""
        try:
            return (Path(self.directory) / MARKER).read_text(encoding="ascii").strip() == self.token
        except (OSError, UnicodeDecodeError):
            return False


def announce(client: redis.Redis, receiver: Receiver) -> None:
    """Say that the receiver runs, for the next ``LIFETIME`` seconds."""
    client.set(_PREFIX + receiver.ae_title, receiver.model_dump_json(), ex=LIFETIME)


def withdraw(client: redis.Redis, receiver: Receiver) -> None:
    """Say that the receiver has ended."""
    client.delete(_PREFIX + receiver.ae_title)


def running(client: redis.Redis) -> list[Receiver]:
    """The receivers that run now, by AE title."""
    keys = sorted(cast("list[str]", list(client.scan_iter(match=f"{_PREFIX}*"))))
    if not keys:
        return []
    return [
        Receiver.model_validate_json(text) for text in cast("list[str | None]", client.mget(keys)) if text is not None
    ]
