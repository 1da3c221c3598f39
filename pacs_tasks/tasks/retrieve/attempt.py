"""One attempt at a part of a retrieve, whether the instances come here or go to another PACS.

:class:`~pacs_tasks.tasks.retrieve.fetch.Fetch` and :class:`~pacs_tasks.tasks.retrieve.forward.Forward` are the two
kinds. They share what this module holds: the lists of UIDs in a request, the end of an attempt that brings nothing, the
decision about another attempt, and the outcome of what did not come.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pacs_tasks.fleet.leases import name_of
from pacs_tasks.journal import tracing
from pacs_tasks.ledger.manifest import CountedLine, RetrieveLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, MoveOutcome, Status, StatusCategory
from pacs_tasks.request import MoveRequest, RetrieveRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.pace import UNPACED
from pacs_tasks.tasks.engine.part import Part

#: Cxxx, "Failed: Unable to process" (PS3.4 tables C.4-2 and C.4-3).
_UNABLE = 0xC000
#: Requests in a row that bring nothing until an attempt ends. Halving the longest list down to one UID takes ten.
_MOST_IN_VAIN = 12

#: The SOP Instance UIDs of one request; none stands for the whole series or study.
UIDs = tuple[str, ...]
#: Sends one request and waits for its end.
RequestOnce = Callable[[UIDs], MoveOutcome]


class Answer(NamedTuple):
    """The remote's last answer about what did not come.

    ``transient``: the remote may just be busy. ``destination_unknown``: it does not know the move destination.
    """

    text: str
    status: Status | None = None
    transient: bool = False
    destination_unknown: bool = False

    @classmethod
    def of(cls, outcome: MoveOutcome, *, brought: bool) -> Answer:
        """Read a final response. ``brought``: its request brought at least one instance."""
        status, counts = outcome.status, outcome.suboperations
        if status.category is not StatusCategory.SUCCESS:
            return cls(str(status), status, status.category is StatusCategory.TRANSIENT)
        if not counts.total and not brought:
            # IMPAX answers so when it is busy.
            return cls("it answered Success with 0 of 0 sub-operations", transient=True)
        lost = counts.failed + counts.remaining
        if lost:
            # GE, Synapse and Orthanc answer so even if every sub-operation failed.
            return cls(f"it answered Success, and {lost} of {counts.total} sub-operations failed")
        return cls("it answered Success")


class Attempt(ABC):
    """One attempt at what is left of a part.

    Parameters
    ----------
    whole_series
        Whether the part is all of its series.
    """

    def __init__(self, part: Part[RetrieveLine], request: RetrieveRequest, *, whole_series: bool) -> None:
        self._part, self._request, self._tries = part, request, part.tries
        self._whole_series = whole_series
        #: The last request was a C-MOVE whose destination the remote does not know.
        self._destination_unknown = False
        first = next(iter(part.left.values()))
        self._series_uid, self._study_uid = first.series_uid, first.study_uid
        #: The remote gave a number of instances instead of their UIDs.
        self._counted = any(isinstance(line, CountedLine) for line in part.left.values())

    @abstractmethod
    def run(self) -> Answer:
        """Request what is left, and record what comes."""

    @abstractmethod
    def record_missing(self, answer: Answer) -> None:
        """Record what did not come as missing."""

    @property
    @abstractmethod
    def _number(self) -> int:
        """How many instances this attempt has brought."""

    @abstractmethod
    def _missing_of(self, uids: UIDs) -> Sequence[str]:
        """What a request for these UIDs should have brought and did not."""

    def worth_another_try(self, answer: Answer) -> bool:
        """Whether another attempt may bring what this one, which brought nothing, did not."""
        if answer.transient:
            return True
        if self._tries:
            return False
        # Cxxx has many causes: Orthanc answers so when the receiver closes the association.
        status = answer.status
        return status is None or status.category is not StatusCategory.PERMANENT or status.code & 0xF000 == _UNABLE

    def _request_lists(self, lists: Sequence[UIDs], request_once: RequestOnce, *, halve: bool = False) -> Answer:
        """Request the instances list by list.

        ``halve`` divides a list that brings less than it should. Orthanc refuses all of a list that names one instance
        which it does not know, and some remotes read the first UID of a list only, or none.
        """
        answer, in_vain, waiting = Answer("nothing was requested"), 0, list(reversed(lists))
        # At a pace the lists are short, and each is to be requested.
        most = _MOST_IN_VAIN + (len(lists) if self._part.pacing is not UNPACED else 0)
        while waiting and in_vain < most and not self._part.must_end():
            uids, before = waiting.pop(), self._number
            about: dict[str, str | int] = {"remote": name_of(self._request.remote), "instances": len(uids)}
            with tracing.span(settings().traces, "C-MOVE or C-GET", **about):
                outcome = request_once(uids)
            brought = self._number > before
            in_vain = 0 if brought else in_vain + 1
            latest, missing = self._read(outcome, brought=brought), self._missing_of(uids)
            if missing or not uids:
                answer = latest
            if not self._may_continue(latest):
                break
            if halve and _is_read_in_part(uids, outcome):
                waiting += _halves(missing)
        return answer

    def _read(self, outcome: MoveOutcome, *, brought: bool) -> Answer:
        answer = Answer.of(outcome, brought=brought)
        return answer._replace(destination_unknown=self._destination_unknown and not brought)

    def _may_continue(self, answer: Answer) -> bool:
        """Whether to send the next list after this answer."""
        busy = answer.status is not None and answer.status.category is StatusCategory.TRANSIENT
        return bool(self._part.left) and not busy and not answer.destination_unknown

    def _fail_rest(self, category: InstanceCategory, reason: str, status: Status | None) -> None:
        """Record one outcome for all that is left."""
        self._record(list(self._part.left), category, reason, status)

    def _record(
        self, indices: Iterable[int], category: InstanceCategory, reason: str = "", status: Status | None = None
    ) -> None:
        """Record one outcome for instances as the remote has listed them."""
        for index in indices:
            line = self._part.left[index]
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


def _is_read_in_part(uids: UIDs, outcome: MoveOutcome) -> bool:
    """Whether the remote may have read a part of a list only: one that accounts for each UID has read all of it."""
    return len(uids) > 1 and outcome.suboperations.total < len(uids)


def _halves(missing: Sequence[str]) -> list[UIDs]:
    """Divide what a list has not brought into up to two lists. The last one is the first to be requested."""
    half = (len(missing) + 1) // 2
    return [tuple(each) for each in (missing[half:], missing[:half]) if each]


def move_request(request: RetrieveRequest, move_aet: str, study_uid: str, series_uid: str, uids: UIDs) -> MoveRequest:
    """The C-MOVE of instances, of a series, or of a study where the series is empty, for a retrieve."""
    return MoveRequest(
        remote=request.remote,
        query_model=request.query_model,
        move_aet=move_aet,
        study_uid=study_uid,
        series_uid=series_uid or None,
        sop_instance_uids=uids,
        priority=request.priority,
    )


def lists_of(uids: Sequence[str], size: int) -> list[UIDs]:
    """Cut SOP Instance UIDs into lists of at most ``size``."""
    return [tuple(uids[start : start + size]) for start in range(0, len(uids), size)]
