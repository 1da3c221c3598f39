"""What this worker does for whoever may enqueue: who did, and the directories, certificates and remotes to be named.

The name of who enqueued a job counts where this worker has verified a signature. Without settings that limit it, a
request may name what the worker's user may read and write. Each check comes before anything else is done with a path,
so that its answer is the same whether that path exists or not.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import cast

from celery import Task, current_task

from pacs_tasks.ae import TLS, RemoteAE
from pacs_tasks.dimse.files.storage import make_directory
from pacs_tasks.dimse.scp.limits import Limits, Space
from pacs_tasks.errors import InvalidRequestError, MessageError, UnreadableInputError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.messages.signature import (
    VERIFIED,
    Signed,
    enqueuer_of_record,
    keys,
    own_signature,
    sign_record,
    verified,
)
from pacs_tasks.request import (
    AnyRequest,
    GetRequest,
    MoveRequest,
    PreflightRequest,
    RetrieveRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
)
from pacs_tasks.settings import Settings, settings
from pacs_tasks.source import WEB, is_below, is_url
from pacs_tasks.tasks.engine.base import ledger

#: The fields of a job that have the name of who enqueued it, and the signature of a worker that verified it.
_ENQUEUER, _SIGNATURE = "enqueuer", "enqueuer_signature"
#: What opens the receiver to callers, and what limits a remote. Of these, a request may leave out what settings say.
_CALLERS = ("receive_from", "receive_from_ae_titles", "receive_from_certificates")
_LIMITS = ("max_associations", "max_matches", "max_answer_bytes", "max_match_elements")


def enqueuer_of(record: Ledger, job_id: str, request: AnyRequest) -> str:
    """The name of who enqueued a job, as a signature proves it; empty where none does.

    The name alone proves nothing: whoever may write to Redis may write it.
    """
    name, signed = cast("list[str | None]", record.client.hmget(job_key(job_id), [_ENQUEUER, _SIGNATURE]))
    if name and signed:
        with suppress(MessageError):
            verified(signed, Signed(_ENQUEUER, job_id, name), settings())
            return name
    with suppress(MessageError):
        return enqueuer_of_record(record, job_id, request, settings(), bulk=False)
    return ""


def note_enqueuer(task: Task, request: AnyRequest, *, opened: bool) -> None:
    """Record who sent the message with a request, and sign the record: the job's later messages do not hold it.

    Raises
    ------
    MessageError
        If this message began a job before, whose record is gone.
    """
    job_id, name = task.request.id, task.request.get(VERIFIED)
    if not opened or not name:
        return
    seen = f"pacs_tasks:accepted:{job_id}"
    if not ledger().client.set(seen, 1, nx=True, ex=settings().signature_lifetime):
        raise MessageError("This signed message was sent before, and its job is gone. Enqueue the request anew.")
    proof = own_signature(settings(), Signed(_ENQUEUER, job_id, name))
    ledger().client.hset(job_key(job_id), mapping={_ENQUEUER: name, **({_SIGNATURE: proof} if proof else {})})
    sign_record(ledger(), job_id, request, settings())


def check_record(job_id: str, request: AnyRequest, *, bulk: bool) -> None:
    """Verify who recorded the request of a job, and record the name.

    Parameters
    ----------
    bulk
        The request has its large field.

    Raises
    ------
    MessageError
        If its signature is not valid, or lacks although this worker requires one.
    """
    if keys(settings()):
        name = enqueuer_of_record(ledger(), job_id, request, settings(), bulk=bulk)
        if name:
            ledger().client.hsetnx(job_key(job_id), _ENQUEUER, name)


def check_request(request: AnyRequest) -> None:
    """Raise :class:`InvalidRequestError` if this worker may not serve a request."""
    config = settings()
    for remote in _remotes(request):
        _check_remote(remote, config)
    if isinstance(request, MoveRequest):
        _check_destination(request.move_aet, config)
    for path in _sources(request):
        check_source(path)
    if isinstance(request, RetrieveRequest | GetRequest) and request.output_dir is not None:
        output_directory(request.output_dir)


def check_source(source: str) -> None:
    """Raise :class:`UnreadableInputError` unless a path or a URL may be sent."""
    if not is_url(source):
        check_file(source)
        return
    config = settings()
    web = source.startswith(f"{WEB}://")
    # Whoever limits the directories has not yet thought of buckets.
    anywhere = not (config.source_urls or config.source_roots or web)
    if not anywhere and not is_below(source, config.source_urls):
        raise UnreadableInputError(
            "This worker does not send from this URL. Name one below PACS_TASKS_SOURCE_URLS of the worker.", source
        )


def check_file(path: str) -> None:
    """Raise :class:`UnreadableInputError` unless a file or directory, its links followed, may be sent."""
    roots = settings().source_roots
    if roots and not ((found := _resolved(path)) and _is_below(found, roots)):
        raise UnreadableInputError(
            "The path is outside the directories that this worker sends from. Name one below PACS_TASKS_SOURCE_ROOTS.",
            path,
        )


def output_directory(path: str) -> Path:
    """Give a directory without links if files may be written below it, else raise :class:`UnreadableInputError`.

    What writes there refuses links that come into this path later.
    """
    roots, found = settings().output_roots, _resolved(path)
    if roots and (found is None or not _is_below(found, roots)):
        raise UnreadableInputError(
            "The path is outside the directories that this worker writes to. Name one below PACS_TASKS_OUTPUT_ROOTS.",
            path,
        )
    return found or Path(path)


def writable_directory(path: str) -> Path:
    """Create ``path`` if necessary; where it is without links.

    Raises
    ------
    UnreadableInputError
        If files cannot or must not be written there.
    """
    directory = output_directory(path)
    try:
        make_directory(directory)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError as error:
        raise UnreadableInputError(
            f"{here()} cannot write to the directory ({error.strerror}). "
            "Check its permissions and free space, or mount its storage on the worker's machine.",
            path,
        ) from None


@lru_cache(maxsize=64)
def limits_in(directory: str) -> Limits:
    """What a remote may write to a directory by C-GET."""
    config = settings()
    return Limits(config.max_instance_bytes, space=Space(Path(directory), config.keep_free_bytes))


def here() -> str:
    """The name of the worker in `celery inspect` and Flower."""
    return f"Worker {current_task.request.hostname if current_task else socket.gethostname()}"


def _remotes(request: AnyRequest) -> Iterator[RemoteAE]:
    yield request.remote
    if isinstance(request, RetrieveRequest) and request.to is not None:
        yield request.to


def _sources(request: AnyRequest) -> Iterator[str]:
    if isinstance(request, StoreRequest):
        yield request.path
    if isinstance(request, StoreDirectoryRequest | PreflightRequest) and request.directory is not None:
        yield request.directory
    if isinstance(request, StorePathsRequest | PreflightRequest):
        yield from request.paths


def _known(config: Settings) -> list[RemoteAE]:
    """The remotes that the worker's settings name."""
    default = [config.default_remote] if config.model_fields_set & {"ip", "port", "pacs_ae_title"} else []
    return [*default, *config.remotes.values()]


def _check_remote(remote: RemoteAE, config: Settings) -> None:
    known = _known(config)
    if config.named_remotes_only:
        _check_named(remote, [each for each in known if _address(remote) == _address(each)], config)
    if config.source_roots and remote.tls is not None:
        own = {file for each in known for file in _files(each.tls)}
        for file in set(_files(remote.tls)) - own:
            check_file(file)


def _check_destination(ae_title: str, config: Settings) -> None:
    """Raise :class:`InvalidRequestError` unless a remote may be told to send to an AE title that it knows."""
    known = {config.local.ae_title, *(each.ae_title for each in _known(config))}
    if config.named_remotes_only and ae_title not in known:
        raise InvalidRequestError(
            "This worker has instances sent to itself and to the remotes of its own settings only "
            "(PACS_TASKS_NAMED_REMOTES_ONLY). Name one of them as the move destination."
        )


def _check_named(remote: RemoteAE, same: Sequence[RemoteAE], config: Settings) -> None:
    """Raise :class:`InvalidRequestError` unless a remote is one of the settings, and is allowed no more than there."""
    if not same:
        raise InvalidRequestError(
            "This worker serves only the remotes of its own settings (PACS_TASKS_NAMED_REMOTES_ONLY). Name one of "
            "them, with the AE title, address and TLS that it has there."
        )
    more = any(
        not set(getattr(remote, name) or ()) <= {value for each in same for value in getattr(each, name) or ()}
        for name in _CALLERS
    )
    own = remote.model_copy(update=dict.fromkeys(_LIMITS))
    limits = (config.limit(own), *astuple(config.answer_limits(own)))
    if more or any((getattr(remote, name) or 0) > limit for name, limit in zip(_LIMITS, limits, strict=True)):
        raise InvalidRequestError(
            "The request allows its remote more than the settings of this worker do (PACS_TASKS_NAMED_REMOTES_ONLY). "
            "Leave out what begins with receive_from or max_."
        )


def _address(remote: RemoteAE) -> tuple[object, ...]:
    return remote.ae_title, remote.host.lower(), remote.port, remote.tls


def _files(tls: TLS | None) -> Iterator[str]:
    if tls is not None:
        yield from filter(None, (tls.ca_file, tls.certificate_file, tls.key_file))


def _resolved(path: str) -> Path | None:
    try:
        found = Path(path).resolve()
    except (OSError, RuntimeError, ValueError):
        # A circle of links, or a name that no path can have.
        return None
    # Since Python 3.13, a circle is left as it is.
    circles = sys.version_info >= (3, 13) and any(each.is_symlink() for each in (found, *found.parents))
    return None if circles else found


def _is_below(resolved: Path, roots: Sequence[Path]) -> bool:
    try:
        return any(resolved.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError):
        return False
