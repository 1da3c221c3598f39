"""C-STORE: send instances (PS3.4 annex B, PS3.7 section 9.1.1).

An instance goes out unchanged where the remote accepts its transfer syntax, which is the usual case.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from pydicom.config import IGNORE
from pydicom.uid import UID

from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.data_set import UNCOMPRESSED, ConvertedFile, DataSetFile, convertible, loss
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, answered
from pacs_tasks.dimse.upper_layer.negotiation import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    NO_REASON,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
)
from pacs_tasks.errors import ContextRejectedError, UnreadableInputError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, StatusCategory
from pacs_tasks.request import Priority, Transcode

_PADDED = (
    "Its last value had an odd length, so it was sent with a padding byte (PS3.5 section 7.1.1). The instance in the "
    "PACS is one byte longer than that in the file."
)
_CATEGORIES = {
    StatusCategory.SUCCESS: InstanceCategory.SUCCESS,
    StatusCategory.WARNING: InstanceCategory.WARNING,
}


def store_all(
    assoc: Association,
    instances: Iterable[StoredInstance],
    *,
    digest: bool = False,
    transcode: Transcode = Transcode.UNCOMPRESSED,
    priority: Priority = Priority.NORMAL,
) -> Generator[tuple[StoredInstance, InstanceOutcome]]:
    """Send instances, each as the bytes of its data set, not decoded where the remote accepts its transfer syntax.

    Up to ``assoc.window`` requests are outstanding at once (PS3.7 section D.3.3.3). The next instance is taken from
    ``instances`` just before it is sent, so that the caller can stop at any time.

    Parameters
    ----------
    digest
        Add the SHA-256 of the bytes that were sent to each outcome. Large instances are hashed in a thread beside the
        sending.
    transcode
        Whether to convert an instance whose transfer syntax the remote does not accept.
    priority
        What the requests ask of the remote.

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
        requests = _Requests(assoc, transcode, command.PRIORITIES[priority], digest=digest)
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
    #: Study, series and SHA-256 of the data set, and the transfer syntax if it is another than that of the file.
    known: dict[str, str]


class _Requests:
    """The outstanding requests of one association."""

    def __init__(self, assoc: Association, transcode: Transcode, priority: int, *, digest: bool) -> None:
        self._assoc, self._transcode, self._priority, self._digest = assoc, transcode, priority, digest
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
        sop_class, own = instance.sop_class_uid, instance.transfer_syntax_uid
        syntax = sent_as(sop_class, own, assoc.accepted_contexts, self._transcode)
        if syntax is None:
            return _failed(instance, "ContextRejectedError", _rejected_context(assoc, instance, self._transcode))
        context_id = assoc.accepted_contexts[sop_class, syntax]
        message_id = assoc.next_message_id()
        more: dict[int, int | str] = {
            command.PRIORITY: self._priority,
            command.AFFECTED_SOP_INSTANCE_UID: instance.sop_instance_uid,
        }
        converted = syntax != own
        try:
            with (
                ConvertedFile(instance, syntax, digest=self._digest)
                if converted
                else DataSetFile(instance, digest=self._digest)
            ) as data_set:
                assoc.request(context_id, command.C_STORE_RQ, message_id, more, data_set)
                # Meanwhile the remote processes the instance.
                known = data_set.series() | ({"sent_as": syntax} if converted else {})
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
        answered(self._assoc.remote, "C-STORE", time.time() - request.started)
        return request.instance, _outcome(self._assoc, request, response, code)


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


def sent_as(sop_class: str, own: str, accepted: Collection[tuple[str, str]], transcode: Transcode) -> str | None:
    """Give the transfer syntax in which an instance of this class and syntax goes out; None if it cannot.

    Parameters
    ----------
    accepted
        The pairs of SOP class and transfer syntax that the remote accepts.
    """
    if (sop_class, own) in accepted:
        return own
    if not convertible(own, transcode):
        return None
    return next((syntax for syntax in UNCOMPRESSED if (sop_class, syntax) in accepted), None)


def may_be_converted(
    assoc: Association, instance: StoredInstance, outcome: InstanceOutcome | None, transcode: Transcode
) -> bool:
    """Whether an instance can be sent over an association that offers another syntax, as this one does not.

    ``outcome`` is what came of it on this association, if it was tried.
    """
    sop_class, own = instance.sop_class_uid, instance.transfer_syntax_uid
    others = [(sop_class, syntax) for syntax in UNCOMPRESSED if syntax != own]
    return (
        (outcome is None or outcome.error == ContextRejectedError.__name__)
        and (sop_class, own) not in assoc.accepted_contexts
        and convertible(own, transcode)
        and assoc.covers([(sop_class, own)])
        and not any(assoc.covers([pair]) for pair in others)
    )


def _rejected_context(assoc: Association, instance: StoredInstance, transcode: Transcode) -> str:
    sop_class, syntax = instance.sop_class_uid, instance.transfer_syntax_uid
    what = f"{_named(sop_class)} in {_named(syntax)}"
    # Where there was no room for the others, its own one was refused on an association before.
    tried = (syntax, *UNCOMPRESSED) if convertible(syntax, transcode) else (syntax,)
    asked = next(((sop_class, each) for each in tried if assoc.covers([(sop_class, each)])), None)
    if asked is None:
        return f"This association does not propose {what}. Open one that proposes it."
    others = [_named(accepted) for uid, accepted in assoc.accepted_contexts if uid == sop_class]
    if others:
        plain = any((sop_class, each) in assoc.accepted_contexts for each in UNCOMPRESSED)
        step = " Send it with --transcode decompress, or convert it first." if plain else ""
        return f"{assoc.remote} does not accept {what}. It accepts this class in {', '.join(others)}.{step}"
    why = _REFUSALS.get(assoc.refused.get(asked, 0), _REFUSED)
    return f"{assoc.remote} does not accept {what}: {why}"


def _named(uid: str) -> str:
    name = UID(uid, IGNORE).name
    return uid if name == uid else f"{name} ({uid})"


def _outcome(assoc: Association, request: _Request, response: command.Command, code: int) -> InstanceOutcome:
    final = status.store_status(code, response.text(command.ERROR_COMMENT))
    answered = response.text(command.AFFECTED_SOP_INSTANCE_UID)
    category = _CATEGORIES.get(final.category, InstanceCategory.FAILED)
    reason = "" if category is InstanceCategory.SUCCESS else str(final)
    if not reason and "sent_as" in request.known:
        reason = loss(request.instance.transfer_syntax_uid)
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
