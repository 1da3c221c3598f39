"""Signatures of enqueuers: an HMAC by which a worker knows who enqueued a task, and that nobody changed it since.

Each enqueuer has a name and a key of its own; workers know the keys of all. A signature covers the name, the time, the
task, its id, when it is due and expires, and its arguments with what follows it. The header of a message has it as
``NAME:TIME:MAC``; a job of our own client has it in its record. :func:`pacs_tasks.tasks.engine.permissions.enqueuer_of`
gives the name that was verified.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from pacs_tasks.errors import MessageError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import dump_request, job_key
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import Settings, settings

if TYPE_CHECKING:
    from pacs_tasks.messages.envelope import Envelope

#: The header of a message that has its signature, and the one that a worker adds once it is verified.
HEADER: Final = "pacs_tasks_signature"
VERIFIED: Final = "pacs_tasks_enqueuer"
#: Seconds by which the clock of an enqueuer may be ahead.
_AHEAD: Final = 300
_LONGEST_STAMP: Final = 12
#: The fields of a job that have the signature of its request, and of the large field that few read.
_SIGNATURE, _BULK_SIGNATURE = "signature", "bulk_signature"


class Signed(NamedTuple):
    """What a signature covers beside the name and the time."""

    task: str
    job_id: str
    #: The body of a message, or the text of a request in the ledger.
    content: Any
    eta: Any = None
    expires: Any = None


def signature(name: str, key: str, stamp: int, signed: Signed) -> str:
    """Sign a task at a time in seconds since 1970."""
    covered = [name, stamp, signed.task, signed.job_id, signed.eta, signed.expires, signed.content]
    value = json.loads(json.dumps(covered, default=_as_sent))
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"{name}:{stamp}:{hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()}"


def _as_sent(value: object) -> object:
    """Encode what JSON does not know as a message does. Clients, which may lack kombu, have no such value."""
    from kombu.utils.json import JSONEncoder

    return JSONEncoder().default(value)


def own_signature(config: Settings, signed: Signed) -> str:
    """Sign a task by the key of this enqueuer; empty without one."""
    name, _, key = (config.signing_key or "").partition(":")
    return signature(name, key, int(time.time()), signed) if name else ""


def sign_published() -> None:
    """Have this process sign each task that it publishes, if it has a key."""
    from celery.signals import before_task_publish

    before_task_publish.connect(_sign, dispatch_uid="pacs_tasks.messages.signature")


def _sign(headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
    # Protocol 1 has no headers, and no signature.
    if headers is not None and "id" in headers:
        signed = own_signature(settings(), _signed(headers, body))
        if signed:
            headers[HEADER] = signed


def _signed(headers: Mapping[str, Any], body: Any) -> Signed:
    return Signed(str(headers.get("task")), str(headers.get("id")), body, headers.get("eta"), headers.get("expires"))


def keys(config: Settings) -> Mapping[str, str]:
    """The keys that this worker knows, by the names of the enqueuers; its own is one of them."""
    name, _, key = (config.signing_key or "").partition(":")
    return {**({name: key} if name else {}), **config.enqueuer_keys}


def verified(text: str, signed: Signed, config: Settings) -> tuple[str, int]:
    """The name in a signature and its time.

    Raises
    ------
    MessageError
        If no key of that name made it, or for something else.
    """
    name, stamp, _ = (*text.split(":"), "", "")[:3]
    key = keys(config).get(name)
    if key is None or not stamp.isdecimal() or len(stamp) > _LONGEST_STAMP:
        raise _not_valid()
    if not hmac.compare_digest(signature(name, key, int(stamp), signed).encode(), text.encode("utf-8", "replace")):
        raise _not_valid()
    return name, int(stamp)


def _not_valid() -> MessageError:
    return MessageError("The signature of the message is not valid. Check the name and the key of its enqueuer.")


def check_signature(message: Envelope, config: Settings) -> None:
    """Verify the signature of a message, and add the name of its enqueuer to its headers.

    Raises
    ------
    MessageError
        If it is not valid or too old, or lacks although this worker requires one.
    """
    headers = message["headers"]
    text, name = headers.get(HEADER), ""
    if config.require_signatures and not isinstance(text, str):
        raise MessageError("The message is not signed. Set PACS_TASKS_SIGNING_KEY where tasks are enqueued.")
    if isinstance(text, str) and keys(config):
        name, stamp = verified(text, _signed(headers, message.content), config)
        # What workers send among themselves is about a recorded job, whenever it comes.
        if headers.get("task") in OPERATIONS:
            _check_age(stamp, headers.get("eta"), config.signature_lifetime)
    headers[VERIFIED] = name


def _check_age(stamp: int, eta: str | None, lifetime: float) -> None:
    from celery.utils.time import maybe_iso8601

    due = maybe_iso8601(eta) if eta else None
    begins = max(stamp, due.timestamp() if due is not None else 0)
    now = time.time()
    if stamp > now + _AHEAD or begins + lifetime < now:
        raise MessageError(
            "The signature of the message is too old, or from the future. Check the clocks of the machines, and "
            "PACS_TASKS_SIGNATURE_LIFETIME."
        )


def sign_record(ledger: Ledger, job_id: str, request: AnyRequest, config: Settings) -> None:
    """Sign the request of a job in the ledger, which its messages do not hold."""
    text, bulk = dump_request(request)
    if signed := own_signature(config, Signed(request.task, job_id, text)):
        signatures: dict[Any, Any] = {_SIGNATURE: signed}
        if bulk:
            signatures[_BULK_SIGNATURE] = own_signature(config, Signed(request.task, job_id, bulk))
        ledger.client.hset(job_key(job_id), mapping=signatures)


def enqueuer_of_record(ledger: Ledger, job_id: str, request: AnyRequest, config: Settings, *, bulk: bool) -> str:
    """Verify the signature of a request in the ledger; the name in it, or empty where it is not signed.

    Parameters
    ----------
    bulk
        The request has its large field.

    Raises
    ------
    MessageError
        If it is not valid, or lacks although this worker requires one.
    """
    fields = [_SIGNATURE, _BULK_SIGNATURE]
    text, of_bulk = cast("list[str | None]", ledger.client.hmget(job_key(job_id), fields))
    if text and keys(config):
        short, large = dump_request(request)
        name, _ = verified(text, Signed(request.task, job_id, short), config)
        if bulk and large:
            verified(of_bulk or "", Signed(request.task, job_id, large), config)
        return name
    if config.require_signatures:
        raise MessageError("The request of this job is not signed. Set PACS_TASKS_SIGNING_KEY where jobs are enqueued.")
    return ""
