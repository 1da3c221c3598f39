"""C-MOVE and C-GET with the bytes as they are.

pynetdicom's own service takes data sets from its caller and encodes them again, so that what arrives differs from what
is held. Here the C-STORE sub-operations carry the encoded data sets themselves (PS3.4 sections C.4.2 and C.4.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context, build_role

from pacs_tasks.testing.connections import let_go
from pacs_tasks.testing.faults import Faults
from pacs_tasks.testing.instances import StoredBytes

PENDING: Final = 0xFF00
CANCELLED: Final = 0xFE00
UNKNOWN_DESTINATION: Final = 0xA801
NOTHING_DONE: Final = 0xA702
SOME_NOT_DONE: Final = 0xB000
#: Presentation contexts of one association: odd ids up to 255 (PS3.8 section 9.3.2.2).
MOST_CONTEXTS: Final = 128
#: Seconds that a destination may take for an answer, and between two looks whether it is still there.
_PATIENCE: Final = 30.0
_SLICE: Final = 0.1
#: Seconds between two pending responses that mean nothing.
_PENDING_PAUSE: Final = 0.1


@dataclass
class Retrieval:
    """One C-MOVE or C-GET while it is served: answers and counts.

    ``pause`` waits so many seconds and tells whether to go on. ``holds_back`` tells, whenever it is asked, whether the
    instance that follows on so many has to wait. ``dropped`` are the SOP Instance UIDs that are counted as completed
    without being sent.
    """

    assoc: Association
    request: C_MOVE | C_GET
    context: PresentationContext
    faults: Faults
    pause: Callable[[Association, float], bool]
    holds_back: Callable[[int], bool]
    dropped: Collection[str] = ()
    remaining: int = 0
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def cancelled(self) -> bool:
        """Whether a C-CANCEL for this request has come, and is heeded."""
        return not self.faults.ignore_cancel and self.request.MessageID in self.assoc.dimse.cancel_req

    def await_turn(self) -> bool:
        """Wait while the next instance is held back; false when the PACS stops or the one who asked is gone."""
        while self.holds_back(self.completed + self.warning + len(self.failed)) and not self.cancelled:
            if not self.pause(self.assoc, _SLICE):
                return False
        return True

    def record(self, instance: StoredBytes, status: int | None) -> None:
        """Count the answer to one C-STORE sub-operation, None where there was none."""
        self.remaining -= 1
        if status == 0x0000:
            self.completed += 1
        elif status is not None and status >> 12 == 0xB:
            self.warning += 1
        else:
            self.failed.append(instance.sop_instance_uid)

    def answer(self, status: int) -> None:
        """Send a response with the counts so far (PS3.7 section 9.1.4.1)."""
        if not self.pause(self.assoc, self.faults.delay):
            return
        response = type(self.request)()
        response.MessageIDBeingRespondedTo = self.request.MessageID
        response.AffectedSOPClassUID = self.request.AffectedSOPClassUID
        response.Status = status
        if status in {PENDING, CANCELLED}:
            response.NumberOfRemainingSuboperations = self.remaining
        response.NumberOfCompletedSuboperations = self.completed
        response.NumberOfFailedSuboperations = len(self.failed)
        response.NumberOfWarningSuboperations = self.warning
        if self.failed and status != PENDING:
            identifier = Dataset()
            identifier.FailedSOPInstanceUIDList = self.failed
            syntax = self.context.transfer_syntax[0]
            encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
            response.Identifier = BytesIO(encoded or b"")
        self.assoc.dimse.send_msg(response, self.context.context_id or 0)

    def finish(self) -> None:
        """Send the final response (PS3.4 sections C.4.2.1.5 and C.4.3.1.4)."""
        if not self.failed and not self.warning:
            self.answer(0x0000)
        elif self.completed or self.warning:
            self.answer(SOME_NOT_DONE)
        else:
            self.answer(NOTHING_DONE)

    def run(self, instances: Sequence[StoredBytes], carrier: Association) -> bool:
        """Send the instances over ``carrier``; false when it was cancelled, or the one who asked is gone."""
        accepted = {
            (str(cx.abstract_syntax), str(cx.transfer_syntax[0])): cx.context_id or 0
            for cx in carrier.accepted_contexts
            if cx.as_scu
        }
        for instance in instances:
            if not self.await_turn():
                return False
            if self.cancelled:
                self.answer(CANCELLED)
                return False
            self.record(instance, self._store(instance, carrier, accepted))
            if not self.assoc.is_established or self.assoc.acse.is_aborted():
                return False
            if self.remaining:
                self.answer(PENDING)
        return True

    def never_end(self, *, pending: bool) -> None:
        """Say nothing, or ``pending`` again and again, until it is cancelled or nobody listens any more."""
        while self.pause(self.assoc, _PENDING_PAUSE):
            if self.cancelled:
                self.answer(CANCELLED)
                return
            if pending:
                self.answer(PENDING)

    def _store(self, instance: StoredBytes, carrier: Association, accepted: dict[tuple[str, str], int]) -> int | None:
        if instance.sop_instance_uid in self.dropped:
            return 0x0000
        context_id = accepted.get((instance.sop_class_uid, instance.transfer_syntax_uid))
        if instance.sop_instance_uid in self.faults.unsent or context_id is None or _is_lost(carrier):
            return None
        message = C_STORE()
        message.MessageID = (self.request.MessageID or 0) % 0xFFFF + 1
        message.AffectedSOPClassUID = UID(instance.sop_class_uid)
        message.AffectedSOPInstanceUID = UID(instance.sop_instance_uid)
        message.Priority = 0
        if isinstance(self.request, C_MOVE):
            message.MoveOriginatorApplicationEntityTitle = self.assoc.requestor.ae_title
            message.MoveOriginatorMessageID = self.request.MessageID
        message.DataSet = BytesIO(instance.data_set)
        carrier.dimse.send_msg(message, context_id)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            _, response = carrier.dimse.get_msg(block=True)
            if isinstance(response, C_STORE):
                return response.Status
            if _is_lost(carrier):
                break
        return None


def _is_lost(carrier: Association) -> bool:
    """Whether the destination has gone: nobody else looks, since the carrier's reactor is held."""
    return not carrier.is_established or carrier.acse.is_aborted()


def batches(instances: Sequence[StoredBytes]) -> Iterator[tuple[list[PresentationContext], list[StoredBytes]]]:
    """The instances by association, with one presentation context for each SOP class in each transfer syntax."""
    pairs = list(dict.fromkeys((each.sop_class_uid, each.transfer_syntax_uid) for each in instances))
    for start in range(0, len(pairs), MOST_CONTEXTS):
        some = pairs[start : start + MOST_CONTEXTS]
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in some]
        wanted = set(some)
        yield contexts, [each for each in instances if (each.sop_class_uid, each.transfer_syntax_uid) in wanted]


@contextmanager
def association_to(
    ae: ApplicationEntity,
    address: tuple[str, int],
    ae_title: str,
    contexts: list[PresentationContext],
    handlers: list[EventHandlerType],
    *,
    scp_role: str = "",
) -> Iterator[Association]:
    """An association to a move destination; it may not be established. ``scp_role``: the class of which it is the SCP.

    pynetdicom reads an association from a thread of its own, which now and then takes a response that the sender waits
    for. So that thread is held at its checkpoint from before its start until the association is released.
    """
    held: EventHandlerType = (evt.EVT_ESTABLISHED, _hold_reactor)
    roles = [build_role(scp_role, scp_role=True)] if scp_role else []
    assoc = ae.associate(
        *address, contexts=contexts, ae_title=ae_title, ext_neg=list(roles), evt_handlers=[*handlers, held]
    )
    # A wait for an answer looks up so often whether there is still somebody to answer.
    assoc.dimse_timeout = _SLICE
    try:
        yield assoc
    finally:
        if assoc.is_established and not assoc.acse.is_aborted():
            assoc.release()
        elif assoc.is_established:
            assoc.abort()
        assoc.kill()
        if assoc.ident is not None:
            assoc.join(5)
        let_go(assoc)


def _hold_reactor(event: Event) -> None:
    event.assoc._reactor_checkpoint.clear()
