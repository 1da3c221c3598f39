"""C-MOVE and C-GET of a :class:`~pacs_tasks.testing.TestPACS` (PS3.4 sections C.4.2 and C.4.3).

pynetdicom's own service receives data sets from its caller and encodes them again, so that the bytes that arrive differ
from those held. Here the C-STORE sub-operations carry the encoded data sets themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context

from pacs_tasks.testing.association import Caller, association_to, is_lost
from pacs_tasks.testing.faults import Faults, is_warning
from pacs_tasks.testing.find import select, text
from pacs_tasks.testing.instances import StoredBytes

_SUCCESS: Final = 0x0000
_PENDING: Final = 0xFF00
_CANCELLED: Final = 0xFE00
_NOTHING_DONE: Final = 0xA702
_SOME_NOT_DONE: Final = 0xB000
#: Presentation contexts of one association: odd ids up to 255 (PS3.8 section 9.3.2.2).
_MOST_CONTEXTS: Final = 128
#: Seconds that a destination may take for a response.
_PATIENCE: Final = 30.0
#: Seconds between two pending responses that mean nothing.
_PENDING_PAUSE: Final = 0.1
_SOP_INSTANCE_UID: Final = Tag("SOPInstanceUID")


@dataclass
class Retrieval:
    """One C-MOVE or C-GET while it is served: responses and counts."""

    assoc: Association
    request: C_MOVE | C_GET
    context: PresentationContext
    faults: Faults
    #: Waits so many seconds; returns False once the PACS stops or the caller is gone.
    pause: Callable[[Association, float], bool]
    #: Waits while a condition is true of the faults; returns as ``pause``.
    wait_while: Callable[[Association, Callable[[Faults], bool]], bool]
    #: SOP Instance UIDs that are counted as completed without being sent.
    dropped: Collection[str] = ()
    remaining: int = 0
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)
    #: SOP Instance UIDs of what was sent.
    sent: list[str] = field(default_factory=list)

    @property
    def cancelled(self) -> bool:
        """Whether C-CANCEL for this request has arrived and is heeded."""
        return not self.faults.ignore_cancel and self.request.MessageID in self.assoc.dimse.cancel_req

    def await_turn(self) -> bool:
        """Wait while the faults hold the next instance back; return as ``pause``."""
        done = self.completed + self.warning + len(self.failed)
        return self.wait_while(self.assoc, lambda faults: faults.holds_instance(done) and not self.cancelled)

    def finish(self) -> None:
        """Send the final response (PS3.4 sections C.4.2.1.5 and C.4.3.1.4)."""
        if not self.failed and not self.warning:
            self.respond(_SUCCESS)
        elif self.completed or self.warning:
            self.respond(_SOME_NOT_DONE)
        else:
            self.respond(_NOTHING_DONE)

    def respond(self, status: int) -> None:
        """Send a response with the counts so far (PS3.7 section 9.1.4.1)."""
        if not self.pause(self.assoc, self.faults.delay):
            return
        response = type(self.request)()
        response.MessageIDBeingRespondedTo = self.request.MessageID
        response.AffectedSOPClassUID = self.request.AffectedSOPClassUID
        response.Status = status
        if status in {_PENDING, _CANCELLED}:
            response.NumberOfRemainingSuboperations = self.remaining
        response.NumberOfCompletedSuboperations = self.completed
        response.NumberOfFailedSuboperations = len(self.failed)
        response.NumberOfWarningSuboperations = self.warning
        if self.failed and status != _PENDING:
            identifier = Dataset()
            identifier.FailedSOPInstanceUIDList = self.failed
            syntax = self.context.transfer_syntax[0]
            encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
            response.Identifier = BytesIO(encoded or b"")
        self.assoc.dimse.send_msg(response, self.context.context_id or 0)

    def run(self, instances: Sequence[StoredBytes], carrier: Association) -> bool:
        """Send the instances over ``carrier``; return False if it was cancelled or the caller is gone."""
        accepted = {
            (str(cx.abstract_syntax), str(cx.transfer_syntax[0])): cx.context_id or 0
            for cx in carrier.accepted_contexts
            if cx.as_scu
        }
        for instance in instances:
            if not self.await_turn():
                return False
            if self.cancelled:
                self.respond(_CANCELLED)
                return False
            self._count(instance, self._store(instance, carrier, accepted))
            if is_lost(self.assoc):
                return False
            if self.remaining:
                self.respond(_PENDING)
            elif self.faults.repeats_for_ever:
                self._repeat(instance, carrier, accepted)
        return True

    def _repeat(self, instance: StoredBytes, carrier: Association, accepted: dict[tuple[str, str], int]) -> None:
        """Send an instance again and again, uncounted, until C-CANCEL arrives or the caller is gone."""
        while self.pause(self.assoc, self.faults.delay) and not self.cancelled:
            if self._store(instance, carrier, accepted) is None:
                return

    def never_end(self, *, pending: bool) -> None:
        """Stay silent, or respond ``pending`` again and again, until C-CANCEL arrives or the caller is gone."""
        while self.pause(self.assoc, _PENDING_PAUSE):
            if self.cancelled:
                self.respond(_CANCELLED)
                return
            if pending:
                self.respond(_PENDING)
                self.remaining ^= self.faults.changing_counts

    def _count(self, instance: StoredBytes, status: int | None) -> None:
        """Count the response to one C-STORE sub-operation; None means there was none."""
        self.remaining -= 1
        if status == _SUCCESS:
            self.completed += 1
        elif status is not None and is_warning(status):
            self.warning += 1
        else:
            self.failed.append(instance.sop_instance_uid)

    def _store(self, instance: StoredBytes, carrier: Association, accepted: dict[tuple[str, str], int]) -> int | None:
        if instance.sop_instance_uid in self.dropped:
            return _SUCCESS
        context_id = accepted.get((instance.sop_class_uid, instance.transfer_syntax_uid))
        if context_id is None and self.faults.any_context:
            of_class = [number for (sop_class, _), number in accepted.items() if sop_class == instance.sop_class_uid]
            context_id = next(reversed([*accepted.values(), *of_class]), None)
        if instance.sop_instance_uid in self.faults.unsent or context_id is None or is_lost(carrier):
            return None
        message = C_STORE()
        message.MessageID = (self.request.MessageID or 0) % 0xFFFF + 1
        message.AffectedSOPClassUID = UID(instance.sop_class_uid)
        message.AffectedSOPInstanceUID = UID(instance.sop_instance_uid)
        message.Priority = 0
        originator = self.assoc.requestor.ae_title if self.faults.originator is None else self.faults.originator
        if isinstance(self.request, C_MOVE) and originator:
            message.MoveOriginatorApplicationEntityTitle = originator
            message.MoveOriginatorMessageID = self.request.MessageID
        message.DataSet = BytesIO(instance.data_set)
        self.sent.append(instance.sop_instance_uid)
        carrier.dimse.send_msg(message, context_id)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            _, response = carrier.dimse.get_msg(block=True)
            if isinstance(response, C_STORE):
                return response.Status
            if is_lost(carrier):
                break
        return None


class RetrieveService:
    """The service, and its memory from one request to the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._requested: set[str] = set()

    def serve(
        self,
        retrieval: Retrieval,
        keys: Dataset,
        held: Mapping[str, StoredBytes],
        destinations: Mapping[str, tuple[str, int]],
    ) -> None:
        """Serve one request."""
        faults, request = retrieval.faults, retrieval.request
        with self._lock:
            self._requests += 1
            number = self._requests
        if number <= faults.zero_suboperations:
            retrieval.finish()
            return
        wanted = [*faults.also_sent, *select(held.values(), _first_uid(keys) if faults.first_uid_only else keys)]
        retrieval.remaining = len(wanted)
        if faults.retrieve_status is not None:
            retrieval.respond(faults.retrieve_status)
        elif isinstance(request, C_MOVE) and _destination(request) not in destinations:
            retrieval.respond(faults.unknown_destination_status)
        elif faults.pending_for_ever:
            retrieval.never_end(pending=True)
        else:
            retrieval.dropped = {*faults.lost, *self._dropped(wanted, faults.drop_every)}
            if isinstance(request, C_MOVE):
                whole = _move(retrieval, request, wanted, destinations)
            else:
                whole = retrieval.run(wanted, retrieval.assoc)
            if whole and faults.never_finish:
                retrieval.never_end(pending=False)
            elif whole:
                retrieval.finish()

    def _dropped(self, wanted: Sequence[StoredBytes], every: int | None) -> set[str]:
        """Every n-th of those instances that are requested for the first time."""
        dropped = set()
        with self._lock:
            for uid in (each.sop_instance_uid for each in wanted):
                if uid not in self._requested:
                    self._requested.add(uid)
                    if every is not None and len(self._requested) % every == 0:
                        dropped.add(uid)
        return dropped


def _first_uid(keys: Dataset) -> Dataset:
    """The same keys, with only the first of a list of SOP Instance UIDs."""
    first = Dataset()
    first.update(keys)
    if _SOP_INSTANCE_UID in keys:
        first.SOPInstanceUID = text(keys, _SOP_INSTANCE_UID).split("\\")[0]
    return first


def _destination(request: C_MOVE) -> str:
    return str(request.MoveDestination).strip()


def _move(
    retrieval: Retrieval, request: C_MOVE, wanted: Sequence[StoredBytes], destinations: Mapping[str, tuple[str, int]]
) -> bool:
    """Send the instances to the destination; return False if it was cancelled or the caller is gone."""
    move_aet, faults = _destination(request), retrieval.faults
    ae = Caller(ae_title=faults.delivers_as) if faults.delivers_as else retrieval.assoc.ae
    for contexts, some in _batches(wanted):
        with association_to(ae, destinations[move_aet], move_aet, contexts, source=faults.delivers_from) as carrier:
            if not retrieval.run(some, carrier):
                return False
    return True


def _batches(instances: Sequence[StoredBytes]) -> Iterator[tuple[list[PresentationContext], list[StoredBytes]]]:
    """The instances by association, with one presentation context for each SOP class in each transfer syntax."""
    pairs = list(dict.fromkeys((each.sop_class_uid, each.transfer_syntax_uid) for each in instances))
    for start in range(0, len(pairs), _MOST_CONTEXTS):
        some = pairs[start : start + _MOST_CONTEXTS]
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in some]
        wanted = set(some)
        yield contexts, [each for each in instances if (each.sop_class_uid, each.transfer_syntax_uid) in wanted]
