"""One try at a part of a retrieve: ask, by name for what is missing, and say what did not come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from celery import Task

from pacs_tasks.dimse.retrieve import c_get
from pacs_tasks.dimse.upper_layer.contexts import COMMON_STORAGE_CLASSES
from pacs_tasks.errors import ContextRejectedError, PeerStalledError
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.fleet.refusals import Method
from pacs_tasks.layout import Layout
from pacs_tasks.ledger.manifest import CountedLine, RetrieveLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, MoveOutcome, Status, StatusCategory
from pacs_tasks.request import GetRequest, RetrieveMethod, RetrieveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.retrieve.arrivals import Arrivals
from pacs_tasks.tasks.retrieve.by_c_move import Moving, NoReceiverError, listens
from pacs_tasks.tasks.retrieve.method import Choice

#: "Move destination unknown" (PS3.4 table C.4-2).
_DESTINATION_UNKNOWN = 0xA801
_UNABLE = 0xC000
#: UIDs in one request. Orthanc and dcmqrscp take 1,200; as one value of VR UI, 1,008 of the longest would be too many
#: for a peer that keeps identifiers in an explicit VR; databases take 1,000 values in a list.
_LONGEST_LIST = 500
#: Requests in a row that bring nothing until a try ends: halving the longest list down to a single one takes ten.
_MOST_IN_VAIN = 12

#: Asks once for these UIDs; none stands for the whole series or study.
_AskOnce = Callable[[tuple[str, ...]], MoveOutcome]


class Said(NamedTuple):
    """The peer's last word about what did not come."""

    told: str
    status: Status | None = None
    #: It may be busy, whatever it calls that.
    transient: bool = False

    @classmethod
    def by(cls, outcome: MoveOutcome, *, brought: bool) -> Said:
        """What a final response says, which is not always what it means."""
        status, counts = outcome.status, outcome.suboperations
        if status.category is not StatusCategory.SUCCESS:
            return cls(str(status), status, status.category is StatusCategory.TRANSIENT)
        lost, all_of_them = counts.failed + counts.remaining, counts.total
        if not all_of_them and not brought:
            # IMPAX says so when it is busy.
            return cls("it answered Success with 0 of 0 sub-operations", transient=True)
        if lost:
            # GE, Synapse and Orthanc say so although every sub-operation failed.
            return cls(f"it answered Success, and {lost} of {all_of_them} sub-operations failed")
        return cls("it answered Success")


class Fetching:
    """One try at a part.

    Parameters
    ----------
    whole_series
        Whether the part is all that there is of its series.
    tries
        How often it has been tried before.
    """

    def __init__(self, part: Part[RetrieveLine], request: RetrieveRequest, *, whole_series: bool, tries: int) -> None:
        self._part, self._request, self._tries = part, request, tries
        first = next(iter(part.left.values()))
        self._series_uid, self._study_uid = first.series_uid, first.study_uid
        layout = Layout(request.layout, request.remote.charset)
        self._arrivals = Arrivals(part, Path(request.directory), layout, self._counted_before())
        # What is missing is asked for by name; but where nothing came at all, one or the other may be what works.
        nothing_yet = len(part.left) == part.size
        self._whole = self._arrivals.counted or (whole_series and nothing_yet and not tries % 2)
        self._arrivals.whole = self._whole
        classes = {line.sop_class_uid for line in part.left.values()}
        if "" in classes:
            # Not every peer lists them.
            classes = (classes | set(COMMON_STORAGE_CLASSES)) - {""}
        self._classes = sorted(classes)
        self._choice = Choice(request, self._classes)
        #: The receiver that C-MOVE was to deliver to.
        self._asked: Receiver | None = None
        #: Methods by which something has come.
        self._came: set[Method] = set()
        #: How many more instances than were listed or counted have been noted.
        self._more = 0

    def _counted_before(self) -> set[str]:
        """SOP Instance UIDs that have taken lines of this part, where the peer has only counted."""
        if not any(isinstance(line, CountedLine) for line in self._part.left.values()):
            return set()
        mine = self._part.indices
        sent = Instances(ledger(), self._part.job_id).transferred()
        return {outcome.sop_instance_uid for index, outcome in sent if index in mine}

    def ask(self, task: Task) -> Said:
        """Ask for the instances, in the way that the request names or that works.

        Raises
        ------
        NoReceiverError
            If it must be C-MOVE, and there is none to move to.
        ContextRejectedError
            If the peer offers none of the ways.
        """
        said: Said | None = None
        automatic = self._request.method is RetrieveMethod.AUTO
        for way, refused in self._choice.order(get_first=self._tries % 2 == 1):
            if said is not None and (refused or not self._tries or not self._part.left or self._part.must_end()):
                break
            try:
                now = self._by(way, task)
            except (NoReceiverError, ContextRejectedError) as error:
                if not automatic:
                    raise
                self._choice.out(way, error)
                continue
            if not automatic or now.status is None or now.status.code != _DESTINATION_UNKNOWN:
                said = now
        if said is None:
            raise self._choice.no_way(again=self._tries > 0)
        return said

    def _by(self, way: Method, task: Task) -> Said:
        self._arrivals.before_recording = lambda: self._note(way)
        try:
            said = self._moved(task) if way is Method.MOVE else self._fetched(self._get)
        except ContextRejectedError as error:
            self._choice.refused(way, error)
            raise
        except PeerStalledError as error:
            said = Said(error.message)
        return said

    def _moved(self, task: Task) -> Said:
        receiver = self._asked = self._choice.receiver()

        def move(uids: tuple[str, ...]) -> MoveOutcome:
            named = self._study_uid, self._series_uid, uids
            return Moving(self._part, self._request, self._arrivals, receiver, named).move(task)

        said = self._fetched(move)
        if said.status is not None and said.status.code == _DESTINATION_UNKNOWN:
            self._choice.unknown(receiver)
            self._asked = None
        return said

    def _get(self, uids: tuple[str, ...]) -> MoveOutcome:
        """Fetch by C-GET straight into the output directory."""
        request, arrivals = self._request, self._arrivals
        asked = GetRequest(
            remote=request.remote,
            output_dir=request.directory,
            study_uid=self._study_uid,
            series_uid=self._series_uid or None,
            sop_instance_uids=uids,
        )
        try:
            with leased(request.remote, self._part.must_end, one_of_many=True) as stop:
                return c_get.get(
                    asked,
                    local_ae(request),
                    timeouts(request),
                    stop,
                    self._classes,
                    on_instance=arrivals.take,
                    check_arrived=arrivals.here,
                    place=arrivals.place,
                )
        finally:
            arrivals.record()

    def _fetched(self, ask_once: _AskOnce) -> Said:
        """Ask for the whole, or for what is missing by lists of UIDs.

        A list that brings less than it should is halved: Orthanc refuses all of a list that names one instance it does
        not know, and there are peers that answer the first UID of a list only, or none.
        """
        before = self._arrivals.number
        if self._whole:
            return Said.by(ask_once(()), brought=self._arrivals.number > before)
        missing = self._arrivals.missing()
        waiting = [missing[start : start + _LONGEST_LIST] for start in range(0, len(missing), _LONGEST_LIST)][::-1]
        said, in_vain = Said("it was not asked"), 0
        while waiting and in_vain < _MOST_IN_VAIN and not self._part.must_end():
            uids, before = waiting.pop(), self._arrivals.number
            outcome = ask_once(tuple(uids))
            brought = self._arrivals.number > before
            left = [uid for uid in uids if self._arrivals.wants(uid)]
            if left:
                said = Said.by(outcome, brought=brought)
            if outcome.status.code == _DESTINATION_UNKNOWN or outcome.status.category is StatusCategory.TRANSIENT:
                break
            in_vain = 0 if brought else in_vain + 1
            if left and len(uids) > 1 and not _has_understood(outcome, len(uids)):
                half = (len(left) + 1) // 2
                waiting += [each for each in (left[half:], left[:half]) if each]
        return said

    def _note(self, way: Method) -> None:
        """Instances have come this way: have the outcome say so."""
        about = self._part.job_id, self._study_uid
        if way not in self._came:
            self._came.add(way)
            self._choice.works(way)
            ledger().studies.record_method(*about, way, "; ".join(self._choice.remarks()))
        ledger().studies.record_more(*about, self._arrivals.extra - self._more)
        self._more = self._arrivals.extra

    def worth_another_try(self, said: Said) -> bool:
        """Whether what did not come now, although nothing did, may come the next time."""
        if said.transient or (self._asked is not None and not listens(self._asked)):
            return True
        if self._tries:
            return False
        # Cxxx may be anything (PS3.4 tables C.4-2 and C.4-3): Orthanc says so when the receiver hangs up.
        status = said.status
        return status is None or status.category is not StatusCategory.PERMANENT or status.code & 0xF000 == _UNABLE

    def record_missing(self, said: Said) -> None:
        """What the peer listed and did not deliver, by name; of what it counted, how many."""
        refusals = "".join(f" ({way} was no way: {reason})" for way, reason in self._choice.why_not.items())
        left = dict(self._part.left)
        for index, line in left.items():
            what = "the peer lists it but did not deliver it"
            if self._arrivals.counted:
                what = f"{len(left)} of {self._part.size} did not come"
            self._part.record(
                index,
                InstanceOutcome(
                    subject=line.subject,
                    category=InstanceCategory.MISSING,
                    sop_class_uid=line.sop_class_uid,
                    sop_instance_uid=line.sop_instance_uid,
                    status=said.status,
                    reason=f"{what} ({said.told}){refusals}; retry the job",
                ),
            )


def _has_understood(outcome: MoveOutcome, number: int) -> bool:
    """Whether a peer has looked at all of a list: it gives account of each."""
    return outcome.suboperations.total >= number
