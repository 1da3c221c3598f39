"""The course of a C-MOVE or C-GET: its sub-operations until the final response, cancellation, stall or completion."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from pacs_tasks.dimse.cancellation import Cancellation
from pacs_tasks.dimse.files.elements import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.find import models
from pacs_tasks.dimse.find.c_find import patient_of
from pacs_tasks.dimse.status import ended_early, get_status, move_status
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.errors import PeerStalledError
from pacs_tasks.outcome import Status, StatusCategory, Suboperations
from pacs_tasks.request import GetRequest, Level, MoveRequest, QueryModel

#: Seconds that the final response may take after the last promised instance: nothing depends on it.
FINAL_RESPONSE_LIMIT = 5.0
#: Seconds in which an announced list of failed instances has to begin after its response.
_FAILED_LIST_LIMIT = 2.0
_FAILED_SOP_INSTANCE_UID_LIST = 0x0008_0058
#: Failed instances of one request that are read: no count of sub-operations holds more (VR US).
_MOST_FAILED = 65_535


class Arrived(NamedTuple):
    """How many instances have arrived, promised or not, and whether all promised ones have."""

    number: int
    complete: bool


#: Reports the instances that have arrived. It is called about four times a second, and may raise.
CheckArrived = Callable[[], Arrived]


#: Called with the context id and the command set of each C-STORE request; returns whether the instance is new.
OnStore = Callable[[int, Command], bool]


class FinalResponse(NamedTuple):
    """The final response: status, counts, and the Failed SOP Instance UID List."""

    status: Status
    suboperations: Suboperations
    failed_sop_instance_uids: tuple[str, ...] = ()


class _AllArrivedError(Exception):
    """All promised instances are here, and the final response is late."""


class _Delivery(Cancellation):
    """Watches one C-MOVE or C-GET for cancellation, for a stall, and for completion."""

    def __init__(self, assoc: Association, context_id: int, message_id: int, check: CheckArrived | None) -> None:
        super().__init__(assoc, context_id, message_id)
        self._check_arrived = check
        self._arrived = Arrived(0, complete=False) if check is None else check()
        self._before_request = self._arrived.number
        self._counts: Suboperations | None = None
        #: The extremes of the counts: sub-operations that are done, and the fewest and most that remained.
        self._most_done, self._fewest, self._most = 0, math.inf, -1
        self._since = time.monotonic()
        #: An instance is on its way over this association, and may take its time.
        self._receiving = False

    def count(self, counts: Suboperations) -> None:
        """Record the counts of a pending response. Those that only go up and down are no progress."""
        done = counts.total - counts.remaining
        if done > self._most_done or not self._fewest <= counts.remaining <= self._most:
            self._since = time.monotonic()
        self._counts, self._most_done = counts, max(done, self._most_done)
        self._fewest, self._most = min(counts.remaining, self._fewest), max(counts.remaining, self._most)

    def responses(self, field: int, on_store: OnStore | None) -> Iterator[tuple[Command, Status]]:
        """Receive responses without end, each with its status, and C-STORE requests between them."""
        assoc = self._assoc
        awaited, status_of = "the next instance or the C-GET response", get_status
        if field == command.C_MOVE_RQ:
            awaited, status_of = "the C-MOVE response", move_status
        while True:
            found_id, message = assoc.receive_command(awaited)
            if on_store is not None and message.field == command.C_STORE_RQ:
                self._receiving = True
                is_new = on_store(found_id, message)
                self._receiving = False
                if is_new:
                    self._since = time.monotonic()
                elif not self.cancelled:
                    # A remote that repeats quickly leaves no wait in which it would be judged.
                    self._judge(time.monotonic() - self._since)
                continue
            code = assoc.check_response(found_id == self._context_id, message, self._message_id, field)
            found = status_of(code, message.text(command.ERROR_COMMENT))
            yield message, found if self.cancelled else ended_early(found)

    def _check(self) -> None:
        super()._check()
        if self._check_arrived is not None:
            arrived = self._check_arrived()
            if arrived != self._arrived:
                self._arrived, self._since = arrived, time.monotonic()
                self._assoc.wire.note_activity()
        if not self._receiving and not self.cancelled:
            self._judge(time.monotonic() - self._since)

    def _more_to_come(self) -> bool:
        """Whether the remote counts more than has arrived: it may send more than it promised."""
        counts = self._counts
        if counts is None:
            return False
        return counts.total - counts.failed > self._arrived.number - self._before_request

    def _judge(self, seconds: float) -> None:
        """End the wait if nothing has changed for too long."""
        limit = self._assoc.timeouts.progress
        if self._arrived.complete and seconds > (limit if self._more_to_come() else FINAL_RESPONSE_LIMIT):
            raise _AllArrivedError
        if seconds > limit:
            self._assoc.abort()
            raise PeerStalledError(
                f"{self._assoc.remote} stalled: for {limit:g} s no instance arrived and its counts did not change, "
                "although it responds. Check its log, or raise PACS_TASKS_PROGRESS_TIMEOUT."
            )


def retrieve(
    assoc: Association,
    context_id: int,
    request: MoveRequest | GetRequest,
    model: QueryModel,
    *,
    check_arrived: CheckArrived | None,
    on_store: OnStore | None = None,
    message_id: int = 0,
) -> FinalResponse:
    """Send a C-MOVE or C-GET request and follow it to its end.

    Parameters
    ----------
    model
        Of the context. Patient Root also needs the Patient ID, which is queried before.
    check_arrived
        Reports the arrived instances. While more arrive, the remote is not silent. Once all are here, the final
        response is not awaited for long: without it, the status is pending.
    on_store
        Receives the instances of a C-GET.
    message_id
        Of the request; 0 chooses the next one.

    Raises
    ------
    PeerUnavailableError
        If the association is lost before the final response.
    PeerStalledError
        When no instance has arrived and no count has changed for ``timeouts.progress`` seconds. Pending responses
        alone would keep the association alive for ever.
    JobCancelledError
        If ``assoc.stop`` returned True and the remote ignored C-CANCEL. If it heeded C-CANCEL, the status says so.
    """
    final = FinalResponse(_unfinished(assoc.remote), Suboperations())
    field, more = _request_of(request)
    patient_id = patient_of(assoc, request.study_uid) if model is QueryModel.PATIENT_ROOT else None
    with (
        suppress(_AllArrivedError),
        assoc.exchange(field, message_id) as used_id,
        _Delivery(assoc, context_id, used_id, check_arrived) as delivery,
    ):
        assoc.request(context_id, field, used_id, more, encode_identifier(request, patient_id))
        for response, found in delivery.responses(field, on_store):
            final = final._replace(suboperations=suboperations(response))
            if found.category is not StatusCategory.PENDING:
                failed = _failed_uids_of(assoc, context_id, response) if response.has_data_set else ()
                return final._replace(status=found, failed_sop_instance_uids=failed)
            delivery.count(final.suboperations)
    return final


def _request_of(request: MoveRequest | GetRequest) -> tuple[int, dict[int, int | str]]:
    """Give the Command Field and further elements of the command set."""
    priority = command.PRIORITIES[request.priority]
    if isinstance(request, MoveRequest):
        return command.C_MOVE_RQ, {command.PRIORITY: priority, command.MOVE_DESTINATION: request.move_aet}
    return command.C_GET_RQ, {command.PRIORITY: priority}


def _unfinished(remote: object) -> Status:
    """The status of a complete delivery without a final response."""
    meaning = f"All promised instances have arrived, but {remote} did not send its final response."
    return Status(code=0xFF00, category=StatusCategory.PENDING, meaning=meaning)


def encode_identifier(request: MoveRequest | GetRequest, patient_id: bytes | None = None) -> bytes:
    """Encode the level and its unique keys in Implicit VR Little Endian (PS3.4 section C.4.2.1.4).

    Only Patient Root has a ``patient_id``.
    """
    uids = "\\".join(request.sop_instance_uids) or None
    level = Level.IMAGE if uids else Level.SERIES if request.series_uid else Level.STUDY
    return models.encode_keys(level, request.study_uid, request.series_uid or None, uids, patient_id=patient_id)


def suboperations(response: Command) -> Suboperations:
    """Return the counts of a response; a missing count is 0 (PS3.7 section 9.1.4.1)."""
    return Suboperations(
        remaining=response.number(command.REMAINING) or 0,
        completed=response.number(command.COMPLETED) or 0,
        failed=response.number(command.FAILED) or 0,
        warning=response.number(command.WARNING) or 0,
    )


def _failed_uids_of(assoc: Association, context_id: int, response: Command) -> tuple[str, ...]:
    """Receive the list of a final response. Some remotes announce one and send none if nothing has failed."""
    seconds = 0.0 if response.number(command.FAILED) == 0 else _FAILED_LIST_LIMIT
    return failed_uids(assoc.receive_final_data(context_id, seconds))


def failed_uids(content: bytes) -> tuple[str, ...]:
    """Return the Failed SOP Instance UID List (PS3.4 section C.4.2.1.4.2); a malformed one reads as empty."""
    try:
        found = read_uids(content, IMPLICIT_VR_LITTLE_ENDIAN, (_FAILED_SOP_INSTANCE_UID_LIST,))
    except MalformedError:
        return ()
    listed = found.get(_FAILED_SOP_INSTANCE_UID_LIST, "").split("\\", _MOST_FAILED)[:_MOST_FAILED]
    return tuple(uid.strip("\0 ") for uid in listed if uid.strip("\0 "))
