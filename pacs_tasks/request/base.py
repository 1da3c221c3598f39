"""The fields of every request, and the request for C-ECHO."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pacs_tasks.ae import LocalAE, RemoteAE

#: The validation context of a request that is read without its bulk, which would otherwise be invalid.
BULK_APART: Mapping[str, bool] = MappingProxyType({"bulk_apart": True})


class Request(BaseModel):
    """A request to a remote."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    #: The name of the public task that serves it.
    task: ClassVar[str]
    #: A field that may be large, or "". The ledger keeps it apart, since each progress reads the others.
    bulk: ClassVar[str] = ""

    remote: RemoteAE = RemoteAE()
    local: LocalAE | None = None
    #: Seconds that the remote may stay silent: to connect, to accept the association, between two messages.
    timeout: float | None = Field(default=None, gt=0, le=86_400)


class EchoRequest(Request):
    """Verify that the remote answers and accepts an association (C-ECHO, PS3.4 annex A)."""

    task: ClassVar[str] = "pacs_tasks.echo"


class TransferRequest(Request):
    """A request whose job waits while the remote is down."""

    #: Seconds to wait. None: as in the settings of the worker.
    give_up_after: float | None = Field(default=None, ge=0, le=30 * 86_400)
