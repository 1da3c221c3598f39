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
    PATIENT_ID,
    QUERY_RETRIEVE_LEVEL,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    MalformedError,
    encode_implicit,
    read_uids,
)
from pacs_tasks.dimse.status import ended_early
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.errors import PeerStalledError
from pacs_tasks.outcome import Status, StatusCategory, Suboperations
from pacs_tasks.request import GetRequest, Level, MoveRequest

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

    def responses(
        self, request: MoveRequest | GetRequest, on_store: Callable[[int, Command], bool] | None
    ) -> Iterator[tuple[Command, int]]:
        """Receive responses without end, each with its status, and C-STORE requests between them."""
        assoc = self._assoc
        field = _request_field(request)
        awaited = "the C-MOVE response" if field == command.C_MOVE_RQ else "the next instance or the C-GET response"
        while True:
            found_id, message = assoc.receive_command(awaited)
            if on_store is not None and message.field == command.C_STORE_RQ:
                self._receiving = True
                if on_store(found_id, message):
                    self._since = time.monotonic()
                self._receiving = False
                continue
            code = assoc.check_response(found_id == self._context_id, message, self._message_id, field)
            yield message, code

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
    status_of: Callable[[int, str], Status],
    *,
    check_arrived: CheckArrived | None,
    patient_id: bytes | None = None,
    on_store: Callable[[int, Command], bool] | None = None,
    on_counts: Callable[[Suboperations], None] | None = None,
    message_id: int = 0,
) -> FinalResponse:
    """Send a C-MOVE or C-GET request and follow it to its end.

    Parameters
    ----------
    status_of
        Returns the status for a code and an error comment.
    check_arrived
        Reports the arrived instances. While more arrive, the remote is not silent. Once all are here, the final
        response is not awaited for long: without it, the status is pending.
    patient_id
        Only for a context of the Patient Root model.
    on_store
        Called with the presentation context id and the command set of each C-STORE request (C-GET). Returns whether
        the instance is one that has not come before.
    on_counts
        Called with the counts of each pending response.
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
    with (
        suppress(_AllArrivedError),
        assoc.exchange(_request_field(request), message_id) as used_id,
        _Delivery(assoc, context_id, used_id, check_arrived) as delivery,
    ):
        sop_class_uid, _ = assoc.contexts_by_id[context_id]
        assoc.send(context_id, _command_set(request, sop_class_uid, used_id), encode_identifier(request, patient_id))
        for response, code in delivery.responses(request, on_store):
            found = status_of(code, response.text(command.ERROR_COMMENT))
            final = final._replace(suboperations=suboperations(response))
            if found.category is not StatusCategory.PENDING:
                failed = _failed_uids_of(assoc, context_id, response) if response.has_data_set else ()
                found = found if delivery.cancelled else ended_early(found)
                return final._replace(status=found, failed_sop_instance_uids=failed)
            delivery.count(final.suboperations)
            if on_counts is not None:
                on_counts(final.suboperations)
    return final


def _request_field(request: MoveRequest | GetRequest) -> int:
    return command.C_MOVE_RQ if isinstance(request, MoveRequest) else command.C_GET_RQ


def _command_set(request: MoveRequest | GetRequest, sop_class_uid: str, message_id: int) -> bytes:
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: sop_class_uid,
        command.COMMAND_FIELD: _request_field(request),
        command.MESSAGE_ID: message_id,
        command.PRIORITY: command.PRIORITIES[request.priority],
    }
    if isinstance(request, MoveRequest):
        elements[command.MOVE_DESTINATION] = request.move_aet
    return command.encode(elements, data_set=True)


def _unfinished(remote: object) -> Status:
    """The status of a complete delivery without a final response."""
    meaning = f"All promised instances have arrived, but {remote} did not send its final response."
    return Status(code=0xFF00, category=StatusCategory.PENDING, meaning=meaning)


def encode_identifier(request: MoveRequest | GetRequest, patient_id: bytes | None = None) -> bytes:
    """Encode the level and its unique keys in Implicit VR Little Endian (PS3.4 section C.4.2.1.4).

    Only Patient Root has a ``patient_id``.
    """
    level = Level.STUDY
    values: dict[int, str | bytes] = {STUDY_INSTANCE_UID: request.study_uid}
    if patient_id is not None:
        values[PATIENT_ID] = patient_id
    if request.series_uid:
        level, values[SERIES_INSTANCE_UID] = Level.SERIES, request.series_uid
    if request.sop_instance_uids:
        level, values[SOP_INSTANCE_UID] = Level.IMAGE, "\\".join(request.sop_instance_uids)
    return encode_implicit({**values, QUERY_RETRIEVE_LEVEL: level.encode()})


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
