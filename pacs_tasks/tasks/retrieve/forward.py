"""One try at a part that goes straight from one PACS to another: C-MOVE, then the destination is asked what it holds.

Nothing comes through here, so the source's word is all there would be. Only what the destination lists counts as sent
(C-FIND at IMAGE level, PS3.4 section C.4.1); where it cannot be asked, nothing does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from contextlib import suppress

from celery import Task

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.retrieve import c_move
from pacs_tasks.errors import AssociationError, JobCancelledError, PeerBusyError, PeerUnavailableError
from pacs_tasks.fleet.refusals import Method
from pacs_tasks.ledger.manifest import CountedLine, RetrieveLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, MoveOutcome, Status, StatusCategory
from pacs_tasks.request import MoveRequest, RetrieveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.retrieve.attempt import Said
from pacs_tasks.tasks.verify.inventory import Inquiry, Series

_DESTINATION_UNKNOWN = 0xA801
_UNABLE = 0xC000
#: Seconds for which the destination may list nothing new, although the source says that it has sent more: some
#: databases take their time. Also how long it may have no association for us. Less at the first try, since what is not
#: listed then is only asked for again; and the least of it for each request.
_QUIET_AT_FIRST, _QUIET, _LEAST = 4.0, 10.0, 1.0
#: How often a destination is asked that answers, and says that it cannot tell.
_MOST_REFUSALS = 3
#: Seconds between two looks at the first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
#: UIDs in one request: of the first one by name, and from the second on, since some peers take one only.
_LISTS = (500, 1)
#: Requests in a row that bring nothing until a try ends.
_MOST_IN_VAIN = 12


class Forwarding:
    """One try at a part.

    Parameters
    ----------
    destination
        Where the instances go: its AE title is the move destination, and it is asked at its host and port.
    whole_series
        Whether the part is all that there is of its series.
    tries
        How often it has been tried before.
    """

    def __init__(
        self,
        part: Part[RetrieveLine],
        request: RetrieveRequest,
        destination: RemoteAE,
        *,
        whole_series: bool,
        tries: int,
    ) -> None:
        self._part, self._request, self._to, self._tries = part, request, destination, tries
        first = next(iter(part.left.values()))
        self._series_uid, self._study_uid = first.series_uid, first.study_uid
        self._counted = any(isinstance(line, CountedLine) for line in part.left.values())
        self._index_of: dict[str, int] = {}
        if not self._counted:
            self._index_of = {line.sop_instance_uid: index for index, line in part.left.items()}
        self._whole_series = whole_series
        self._inquiry = Inquiry(request, destination, part.must_end)
        #: Why the destination cannot be asked, if it cannot.
        self._unasked = "the former has counted its instances and not named them" if self._counted else ""
        #: How often it has said so itself, and when it was last seen to have more.
        self._refusals = 0
        self._since = time.monotonic()

    def record_present(self) -> None:
        """Record what the destination holds before anything is asked for.

        Raises
        ------
        PeerBusyError
            If there is no association with it now.
        """
        if not self._counted:
            try:
                self._record(self._held(), InstanceCategory.PRESENT)
            except PeerBusyError:
                raise
            except AssociationError as error:
                self._unasked = error.message

    def ask(self, _: Task) -> Said:
        """Have the source send, and ask the destination."""
        if self._tries and not self._request.overwrite:
            # What came late.
            self._record(self._look(), InstanceCategory.SUCCESS)
        size = _LISTS[min(max(self._tries - 1, 0), len(_LISTS) - 1)]
        left = list(self._left())
        whole = self._counted or (self._whole_series and len(left) == self._part.size and not self._tries)
        asked = [()] if whole else [tuple(left[start : start + size]) for start in range(0, len(left), size)]
        said, in_vain = Said("it was not asked"), 0
        self._since = time.monotonic()
        for uids in asked:
            before = len(self._part.left)
            outcome = self._moved(uids)
            unknown = _is_unknown(outcome.status)
            if not unknown and not self._counted:
                self._await(outcome, uids or left)
            brought = len(self._part.left) < before
            in_vain = 0 if brought else in_vain + 1
            said = _said(outcome, brought=brought)
            if self._unasked and not unknown and not self._part.must_end():
                self._record_unproven(said)
            over = unknown or not self._part.left or outcome.status.category is StatusCategory.TRANSIENT
            if over or in_vain >= _MOST_IN_VAIN or self._part.must_end():
                break
        return said

    def worth_another_try(self, said: Said) -> bool:
        """Whether what did not come now, although nothing did, may come the next time."""
        if said.transient:
            return True
        status = said.status
        # Cxxx may be anything (PS3.4 table C.4-2).
        permanent = status is not None and status.category is StatusCategory.PERMANENT
        return not self._tries and (status is None or not permanent or status.code & 0xF000 == _UNABLE)

    def record_missing(self, said: Said) -> None:
        """What the source lists and the destination does not, by name."""
        source, destination = self._request.remote, self._to
        if said.status is not None and _is_unknown(said.status):
            reason = said.told
        elif self._request.overwrite:
            reason = f"{source} lists it and did not send it to {destination} once more ({said.told}); retry the job"
        else:
            reason = (
                f"{source} lists it, and {destination} does not, after the former was asked to send it there "
                f"({said.told}); retry the job"
            )
        self._fail(InstanceCategory.MISSING, reason, said.status)

    def _left(self) -> dict[str, int]:
        return {uid: index for uid, index in self._index_of.items() if index in self._part.left}

    def _moved(self, uids: tuple[str, ...]) -> MoveOutcome:
        request = self._request
        asked = MoveRequest(
            remote=request.remote,
            move_aet=self._to.ae_title,
            study_uid=self._study_uid,
            series_uid=self._series_uid or None,
            sop_instance_uids=uids,
        )
        try:
            with leased(request.remote, self._part.must_end, one_of_many=True) as stop:
                outcome = c_move.move(asked, local_ae(request), timeouts(request), stop)
        except PeerBusyError:
            raise
        except PeerUnavailableError:
            # Some of it may be there all the same.
            if not request.overwrite and not self._counted:
                self._record(self._look(), InstanceCategory.SUCCESS)
            raise
        if outcome.suboperations.completed + outcome.suboperations.warning:
            ledger().studies.record_method(self._part.job_id, self._study_uid, Method.MOVE)
        if not _is_unknown(outcome.status):
            return outcome
        meaning = (
            f"{request.remote} does not know the move destination {self._to.ae_title!r}: destinations are configured "
            f"there; ask its administrator to add {self._to}"
        )
        return outcome.model_copy(update={"status": outcome.status.model_copy(update={"meaning": meaning})})

    def _await(self, outcome: MoveOutcome, asked: Collection[str]) -> None:
        """Record what the destination lists, and wait as long as it lists more of what the source says it has sent."""
        counts, refused = outcome.suboperations, set(outcome.failed_sop_instance_uids)
        claimed, brought = counts.completed + counts.warning, 0
        # What it had before, it has in any case: that it has it anew is what the source says, if it says so of each.
        told_of_each = claimed + len(refused) >= len(asked) and counts.failed <= len(refused)
        clock, pause, enough = threading.Event(), _FIRST_PAUSE, time.monotonic() + _LEAST
        quiet = _QUIET if self._tries else _QUIET_AT_FIRST
        while True:
            proven = self._look()
            if self._request.overwrite:
                proven = (proven & set(asked)) - refused if told_of_each else set()
            self._record(proven, InstanceCategory.SUCCESS)
            if proven:
                self._since, pause, brought = time.monotonic(), _FIRST_PAUSE, brought + len(proven)
            left = max(self._since + quiet, enough) - time.monotonic()
            if not self._part.left or left <= 0 or self._refusals >= _MOST_REFUSALS or self._part.must_end():
                return
            # It tells, and there is nothing more to come.
            if not self._unasked and (brought >= claimed or (self._request.overwrite and not told_of_each)):
                return
            clock.wait(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _look(self) -> set[str]:
        """What the destination lists of all that is left; nothing where it cannot be asked."""
        try:
            return self._held()
        except PeerUnavailableError as error:
            self._unasked = error.message
        except AssociationError as error:
            self._unasked, self._refusals = error.message, _MOST_REFUSALS
        return set()

    def _held(self) -> set[str]:
        self._unasked = ""
        series = Series(self._study_uid, self._series_uid, self._left())
        # Who ends sees why, and what is known counts.
        with suppress(JobCancelledError):
            self._inquiry.ask_for([series])
        if series.unknown:
            self._unasked = next(iter(series.unknown.values()))
            self._refusals += 1
        return series.held

    def _record(self, held: set[str], category: InstanceCategory) -> None:
        for uid in sorted(held):
            index = self._index_of[uid]
            if index in self._part.left:
                self._part.record(
                    index,
                    InstanceOutcome(
                        subject=uid,
                        category=category,
                        sop_class_uid=self._part.left[index].sop_class_uid,
                        sop_instance_uid=uid,
                    ),
                )

    def _record_unproven(self, said: Said) -> None:
        """Nothing that only one side says is a success."""
        reason = (
            f"{self._request.remote} was asked to send it to {self._to} ({said.told}), and whether it is there is not "
            f"proven: {self._unasked}; see to that, then retry the job"
        )
        self._fail(InstanceCategory.FAILED, reason, said.status)

    def _fail(self, category: InstanceCategory, reason: str, status: Status | None) -> None:
        for index, line in list(self._part.left.items()):
            self._part.record(
                index,
                InstanceOutcome(
                    subject=line.subject,
                    category=category,
                    sop_class_uid=line.sop_class_uid,
                    sop_instance_uid=line.sop_instance_uid,
                    status=status,
                    reason=reason,
                ),
            )


def _is_unknown(status: Status) -> bool:
    return status.code == _DESTINATION_UNKNOWN


def _said(outcome: MoveOutcome, *, brought: bool) -> Said:
    """The source's last word, with its counts, which is not always what it means."""
    said, counts = Said.by(outcome, brought=brought), outcome.suboperations
    if _is_unknown(outcome.status):
        return said
    done, failed = counts.completed + counts.warning, counts.failed + counts.remaining
    return said._replace(told=f"{outcome.status}; of its sub-operations {done} completed, {failed} failed")
