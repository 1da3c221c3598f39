"""C-STORE: send instances unchanged (PS3.4 annex B, PS3.7 section 9.1.1)."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO
from types import TracebackType
from typing import Any, Self

from pydicom.config import IGNORE
from pydicom.uid import UID

from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    SERIES_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.files.part10 import StoredInstance, own_uids
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.negotiation import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    NO_REASON,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
)
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, StatusCategory

#: Blocks that may wait for the digest: memory stays constant where the network is faster than SHA-256.
_MAX_PENDING = 3


class DataSetFile:
    """The data set of a file as a sequence of bytes; it is a context manager that closes the file.

    Each slice reads the file. Request slices in order and once each, because the digest covers them as they are read.
    The file is not mapped: if it becomes shorter, a read reports that, where touching a map would end the process.

    Parameters
    ----------
    digest
        Compute the SHA-256 of what is read, from the second slice on in a thread.

    Raises
    ------
    UnreadableInputError
        If the file cannot be opened, its size has changed, or its data set has an odd length.
    """

    def __init__(self, instance: StoredInstance, *, digest: bool = False) -> None:
        self._instance = instance
        self._digest = _Digest() if digest else None
        self._first = b""
        try:
            self._file = FileIO(instance.path)
        except (OSError, ValueError) as error:
            raise _unreadable(error) from None
        try:
            self._padding = self._check(os.fstat(self._file.fileno()).st_size)
        except BaseException:
            self._file.close()
            raise

    def _check(self, size: int) -> bytes:
        """Check the size of the file, and give the byte that makes its data set even."""
        instance = self._instance
        if size != instance.size:
            raise UnreadableInputError(
                f"The size of the file changed from {instance.size} to {size} bytes. Send it again."
            )
        self._length = size - instance.data_offset
        if self._length <= 0:
            raise UnreadableInputError("The file has no data set to send. Export it again.")
        # Every value has an even length (PS3.5 section 7.1.1), so every data set and every fragment of it does. DCMTK,
        # and with it Orthanc, aborts the association at an odd fragment, at the cost of the other instances.
        if self._length % 2 == 0:
            return b""
        if instance.padding is not None:
            return instance.padding.more
        if instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            # The Standard itself pads a deflated stream with this byte (PS3.5 section A.5).
            return b"\0"
        raise UnreadableInputError(
            "The data set has an odd number of bytes, which no complete data set has (PS3.5 section 7.1.1): it is "
            "truncated or damaged. Fetch or export it again."
        )

    def __len__(self) -> int:
        """Bytes to send, always an even number."""
        return self._length + len(self._padding)

    def __getitem__(self, wanted: slice) -> bytes:
        """Read the next bytes.

        Raises
        ------
        UnreadableInputError
            If the file became shorter or can no longer be read.
        """
        instance = self._instance
        start, stop, _ = wanted.indices(len(self))
        end = min(stop, self._length)
        try:
            self._file.seek(instance.data_offset + start)
            content = self._file.read(end - start)
        except OSError as error:
            raise _unreadable(error) from None
        if len(content) != end - start:
            raise UnreadableInputError("The file became shorter while it was sent. Send it again.")
        if instance.padding is not None:
            content = _replaced(content, instance.padding.length, instance.padding.at - instance.data_offset - start)
        if stop > end:
            content += self._padding
        if start == 0:
            self._first = content
        if self._digest is not None:
            self._digest.update(content)
        return content

    def sha256(self) -> str:
        """Give the digest of all bytes that were read, hexadecimal; empty if none was requested."""
        return "" if self._digest is None else self._digest.hexdigest()

    def series(self) -> dict[str, str]:
        """Give the UIDs of study and series, by which a PACS is later queried; nothing if they cannot be read."""
        wanted = (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
        found: Mapping[int, str] = {}
        with suppress(MalformedError):
            found = read_uids(self._first, self._instance.transfer_syntax_uid, wanted)
        if len(found) < len(wanted) and len(self._first) < self._length:
            # A long element precedes them.
            with suppress(OSError):
                found = own_uids(self._file, self._instance, wanted)
        return {"study_uid": found.get(STUDY_INSTANCE_UID, ""), "series_uid": found.get(SERIES_INSTANCE_UID, "")}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._digest is not None:
            self._digest.close()


def _replaced(content: bytes, part: bytes, position: int) -> bytes:
    """Put ``part`` in the place of as many bytes at a position, as far as they are within ``content``."""
    first, last = max(position, 0), min(position + len(part), len(content))
    if first >= last:
        return content
    return content[:first] + part[first - position : last - position] + content[last:]


def _unreadable(error: Exception) -> UnreadableInputError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return UnreadableInputError(f"The file can no longer be read ({why}). Check it, then send it again.")


class _Digest:
    """SHA-256 of successive blocks. From the second block on a thread computes it, for which hashlib frees the GIL.

    A gigabyte takes about a second, as long as its sending; a single block is faster without a thread.
    """

    def __init__(self) -> None:
        self._sha256 = sha256()
        self._first = b""
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def update(self, block: bytes) -> None:
        if not self._first:
            self._first = block
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sha256")
            self._pending.append(self._thread.submit(self._sha256.update, self._first))
        if len(self._pending) >= _MAX_PENDING:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._sha256.update, block))

    def hexdigest(self) -> str:
        if self._thread is None:
            self._sha256.update(self._first)
            self._first = b""
        while self._pending:
            self._pending.popleft().result()
        return self._sha256.hexdigest()

    def close(self) -> None:
        """End the thread, after the block at work at most."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


_PADDED = (
    "Its last value had an odd length, so it was sent with a padding byte (PS3.5 section 7.1.1). The instance in the "
    "PACS is one byte longer than that in the file."
)
_CATEGORIES = {
    StatusCategory.SUCCESS: InstanceCategory.SUCCESS,
    StatusCategory.WARNING: InstanceCategory.WARNING,
}


def store(assoc: Association, instance: StoredInstance) -> InstanceOutcome:
    """Send one instance; see :func:`store_all`."""
    ((_, outcome),) = store_all(assoc, [instance])
    return outcome


def store_all(
    assoc: Association, instances: Iterable[StoredInstance], *, digest: bool = False
) -> Generator[tuple[StoredInstance, InstanceOutcome]]:
    """Send instances, each as the bytes of its data set, never decoded.

    Up to ``assoc.window`` requests are outstanding at once (PS3.7 section D.3.3.3). The next instance is taken from
    ``instances`` just before it is sent, so that the caller can stop at any time.

    Parameters
    ----------
    digest
        Add the SHA-256 of the bytes that were sent to each outcome. Large instances are hashed in a thread beside the
        sending.

    Yields
    ------
    Each instance with its outcome, in the order of the responses. The outcome is FAILED, with a reason, if the instance
    cannot be sent over this association.

    Raises
    ------
    PeerUnavailableError
        If the association is lost. Whether the remote has the instances without a response is unknown.
    JobCancelledError
        If ``assoc.stop`` returned true during a wait; the association is aborted.
    """
    with assoc.busy():
        requests = _Requests(assoc, digest=digest)
        for instance in instances:
            failed = requests.send(instance)
            if failed is not None:
                yield instance, failed
            # Before the next instance is taken, because these responses may be a reason to stop.
            while requests.full() or requests.answered():
                yield requests.receive()
        while requests.outstanding:
            yield requests.receive()


@dataclass(frozen=True)
class _Request:
    """A request without a response."""

    instance: StoredInstance
    context_id: int
    started: float
    #: Study, series and SHA-256 of the data set.
    known: dict[str, str]


class _Requests:
    """The outstanding requests of one association."""

    def __init__(self, assoc: Association, *, digest: bool) -> None:
        self._assoc, self._digest = assoc, digest
        #: By message id, the oldest first.
        self.outstanding: dict[int, _Request] = {}

    def full(self) -> bool:
        return len(self.outstanding) >= self._assoc.window

    def answered(self) -> bool:
        """Whether a response has already arrived."""
        return bool(self.outstanding) and self._assoc.stream.has_input(0)

    def send(self, instance: StoredInstance) -> InstanceOutcome | None:
        """Send a request; give the outcome if this instance cannot be sent."""
        assoc, started = self._assoc, time.time()
        context_id = assoc.accepted_contexts.get((instance.sop_class_uid, instance.transfer_syntax_uid))
        if context_id is None:
            return _failed(instance, "ContextRejectedError", _rejected_context(assoc, instance))
        message_id = assoc.next_message_id()
        try:
            with DataSetFile(instance, digest=self._digest) as data_set:
                assoc.send(context_id, _request(instance, message_id), data_set)
                # Meanwhile the remote processes the instance.
                known = data_set.series()
                if self._digest:
                    known["sha256"] = data_set.sha256()
        except UnreadableInputError as error:
            return _failed(instance, "UnreadableInputError", error.message)
        self.outstanding[message_id] = _Request(instance, context_id, started, known)
        return None

    def receive(self) -> tuple[StoredInstance, InstanceOutcome]:
        """Receive the next response, to any of the requests."""
        found_id, response = self._assoc.receive_command("the C-STORE response")
        oldest = next(iter(self.outstanding))
        message_id = response.number(command.MESSAGE_ID_RESPONDED_TO)
        message_id = message_id if message_id in self.outstanding else oldest
        request = self.outstanding[message_id]
        code = self._assoc.check_response(found_id == request.context_id, response, message_id, command.C_STORE_RQ)
        del self.outstanding[message_id]
        return request.instance, _outcome(self._assoc, request, response, code)


def _request(instance: StoredInstance, message_id: int) -> bytes:
    return command.encode(
        {
            command.AFFECTED_SOP_CLASS_UID: instance.sop_class_uid,
            command.COMMAND_FIELD: command.C_STORE_RQ,
            command.MESSAGE_ID: message_id,
            command.PRIORITY: command.MEDIUM,
            command.AFFECTED_SOP_INSTANCE_UID: instance.sop_instance_uid,
        },
        data_set=True,
    )


_REFUSED = "it names a transfer syntax that was not proposed. Check its log."
#: Why a remote refuses a presentation context and what to do, by the result (PS3.8 table 9-18).
_REFUSALS = {
    USER_REJECTION: (
        "its application rejects it (result 1), perhaps only for now. Retry the job later, and ask its administrator "
        "if it persists."
    ),
    NO_REASON: (
        "it gives no reason (result 2), so this may be only for now. Retry the job later, and ask its administrator if "
        "it persists."
    ),
    ABSTRACT_SYNTAX_NOT_SUPPORTED: (
        "it does not support the SOP class (result 3). Ask its administrator to allow this class."
    ),
    TRANSFER_SYNTAXES_NOT_SUPPORTED: (
        "it does not support the transfer syntax (result 4). Ask its administrator to allow this syntax for the class."
    ),
}


def _rejected_context(assoc: Association, instance: StoredInstance) -> str:
    sop_class, syntax = instance.sop_class_uid, instance.transfer_syntax_uid
    what = f"{_named(sop_class)} in {_named(syntax)}"
    if not assoc.covers([(sop_class, syntax)]):
        return f"This association does not propose {what}. Open one that proposes it."
    others = [_named(accepted) for uid, accepted in assoc.accepted_contexts if uid == sop_class]
    if others:
        return f"{assoc.remote} does not accept {what}. It accepts this class in {', '.join(others)}."
    why = _REFUSALS.get(assoc.refused.get((sop_class, syntax), 0), _REFUSED)
    return f"{assoc.remote} does not accept {what}: {why}"


def _named(uid: str) -> str:
    name = UID(uid, IGNORE).name
    return uid if name == uid else f"{name} ({uid})"


def _outcome(assoc: Association, request: _Request, response: command.Command, code: int) -> InstanceOutcome:
    final = status.store_status(code, response.text(command.ERROR_COMMENT))
    answered = response.text(command.AFFECTED_SOP_INSTANCE_UID)
    category = _CATEGORIES.get(final.category, InstanceCategory.FAILED)
    reason = "" if category is InstanceCategory.SUCCESS else str(final)
    padding = request.instance.padding
    if padding is not None and padding.more and category is not InstanceCategory.FAILED:
        category, reason = InstanceCategory.WARNING, f"{_PADDED} {reason}".strip()
    if answered and answered != request.instance.sop_instance_uid:
        category = InstanceCategory.FAILED
        reason = (
            f"{assoc.remote} sent a response for another instance, so this one does not count as sent. Check its log."
        )
    return _instance_outcome(
        request.instance, category, reason, status=final, begun=request.started, ended=time.time(), **request.known
    )


def _failed(instance: StoredInstance, error: str, reason: str) -> InstanceOutcome:
    return _instance_outcome(instance, InstanceCategory.FAILED, reason, error=error)


def _instance_outcome(
    instance: StoredInstance, category: InstanceCategory, reason: str, **known: Any
) -> InstanceOutcome:
    return InstanceOutcome(
        subject=instance.path,
        category=category,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        reason=reason,
        size=instance.size,
        **known,
    )
