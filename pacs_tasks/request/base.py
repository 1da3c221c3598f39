"""What every request has, and the one that only asks whether the peer is there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pacs_tasks.ae import LocalAE, RemoteAE

#: The context in which a request is read without its bulk, so that it is not taken for one that asks for nothing.
BULK_APART: Mapping[str, bool] = MappingProxyType({"bulk_apart": True})


class Request(BaseModel):
    """What every job asks."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    #: The public task that serves this request.
    task: ClassVar[str]
    #: A field that may be large, if there is one: the ledger keeps it apart, since the others are read at each look.
    bulk: ClassVar[str] = ""

    remote: RemoteAE = RemoteAE()
    local: LocalAE | None = None
    #: Seconds that the peer may stay silent: to connect, to accept the association, between two messages.
    timeout: float | None = Field(default=None, gt=0, le=86_400)


class EchoRequest(Request):
    """Is the peer there, and does it accept us? (C-ECHO, PS3.4 annex A)"""

    task: ClassVar[str] = "pacs_tasks.echo"


class TransferRequest(Request):
    """A request that may wait for a peer that is down."""

    #: Seconds after which it gives up; left out, the worker's settings answer.
    give_up_after: float | None = Field(default=None, ge=0, le=30 * 86_400)
