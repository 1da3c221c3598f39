"""Fetch a part to the output directory, by C-MOVE through a receiver or by C-GET."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pacs_tasks.dimse.retrieve import c_get
from pacs_tasks.dimse.retrieve.c_move import refuses_destination
from pacs_tasks.dimse.upper_layer.contexts import COMMON_STORAGE_CLASSES
from pacs_tasks.errors import ContextRejectedError, PeerStalledError
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.fleet.remotes import Method
from pacs_tasks.layout import Layout
from pacs_tasks.ledger.manifest import RetrieveLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceCategory, MoveOutcome
from pacs_tasks.request import GetRequest, RetrieveMethod, RetrieveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.retrieve.arrivals import Arrivals, owner_of
from pacs_tasks.tasks.retrieve.attempt import Answer, Attempt, RequestOnce, UIDs, lists_of
from pacs_tasks.tasks.retrieve.by_c_move import Move, NoReceiverError, accepts_connections
from pacs_tasks.tasks.retrieve.method import MethodChoice, remark

#: UIDs in one request. Orthanc and dcmqrscp accept 1,200. As one value of VR UI, 1,008 of the longest would be too many
#: for a remote that keeps identifiers in an explicit VR; databases accept 1,000 values in a list.
_LONGEST_LIST = 500


class Fetch(Attempt):
    """One attempt to fetch what is left of a part."""

    def __init__(self, part: Part[RetrieveLine], request: RetrieveRequest, *, whole_series: bool) -> None:
        super().__init__(part, request, whole_series=whole_series)
        layout = Layout(request.layout, request.remote.charset, owner_of(part))
        self._arrivals = Arrivals(part, Path(request.directory), layout, self._counted_before())
        # What is missing is requested by name. If nothing at all came, attempts alternate: a remote may serve only
        # whole series, or only lists.
        nothing_yet = len(part.left) == part.size
        self._whole = self._counted or (whole_series and nothing_yet and not self._tries % 2)
        self._arrivals.whole = self._whole
        classes = {line.sop_class_uid for line in part.left.values()}
        if "" in classes:
            # Not every remote lists them.
            classes = (classes | set(COMMON_STORAGE_CLASSES)) - {""}
        self._classes = sorted(classes)
        self._choice = MethodChoice(request, self._classes)
        #: The receiver to which C-MOVE was to deliver.
        self._receiver: Receiver | None = None
        #: Methods by which something has come.
        self._worked: set[Method] = set()
        #: How many of the instances beyond the promise are in the record of the study.
        self._extra_recorded = 0

    def _counted_before(self) -> set[str]:
        """SOP Instance UIDs that have taken lines of this part, if the remote has only counted its instances."""
        if not self._counted:
            return set()
        mine = self._part.indices
        sent = Instances(ledger(), self._part.job_id).transferred()
        return {outcome.sop_instance_uid for index, outcome in sent if index in mine}

    def run(self) -> Answer:
        """Request the instances by the method that the request names, or by each that may work.

        Raises
        ------
        NoReceiverError
            If the method must be C-MOVE and no receiver is available.
        ContextRejectedError
            If the remote offers none of the methods.
        """
        answer: Answer | None = None
        automatic = self._request.method is RetrieveMethod.AUTO
        for method, refused in self._choice.order(get_first=self._tries % 2 == 1):
            if answer is not None and self._is_last_method(next_refused=refused):
                break
            try:
                latest = self._request_by(method)
            except (NoReceiverError, ContextRejectedError) as error:
                if not automatic:
                    raise
                self._choice.exclude(method, error)
                continue
            if not automatic or not latest.destination_unknown:
                answer = latest
        if answer is None:
            raise self._choice.no_method(retried=self._tries > 0)
        return answer

    def _is_last_method(self, *, next_refused: bool) -> bool:
        """Whether the method that was just answered is the last one of this attempt."""
        return next_refused or not self._tries or not self._part.left or self._part.must_end()

    def _request_by(self, method: Method) -> Answer:
        self._arrivals.before_recording = partial(self._record_method, method)
        try:
            return self._request_by_move() if method is Method.MOVE else self._request_all(self._get)
        except ContextRejectedError as error:
            self._choice.record_refusal(method, error)
            raise
        except PeerStalledError as error:
            return Answer(error.message)

    def _request_by_move(self) -> Answer:
        receiver = self._receiver = self._choice.receiver()

        def move(uids: UIDs) -> MoveOutcome:
            named = self._study_uid, self._series_uid, uids
            outcome = Move(self._part, self._request, self._arrivals, receiver, named).run()
            self._destination_unknown = refuses_destination(outcome, uids)
            return outcome

        answer = self._request_all(move)
        self._destination_unknown = False
        if answer.destination_unknown and answer.status is not None:
            self._choice.record_unknown_destination(receiver, answer.status)
            self._receiver = None
        return answer

    def _get(self, uids: UIDs) -> MoveOutcome:
        """Fetch by C-GET straight into the output directory."""
        request, arrivals = self._request, self._arrivals
        get_request = GetRequest(
            remote=request.remote,
            output_dir=request.directory,
            study_uid=self._study_uid,
            series_uid=self._series_uid or None,
            sop_instance_uids=uids,
        )
        try:
            with leased(request.remote, self._part.must_end, one_of_many=True) as stop:
                return c_get.get(
                    get_request,
                    local_ae(request),
                    timeouts(request),
                    stop,
                    self._classes,
                    on_instance=arrivals.add,
                    check_arrived=arrivals.so_far,
                    place=arrivals.place,
                    owner=owner_of(self._part),
                )
        finally:
            arrivals.record()

    def _request_all(self, request_once: RequestOnce) -> Answer:
        """Request the whole series or study, or what is missing by lists of UIDs."""
        lists: list[UIDs] = [()] if self._whole else lists_of(self._arrivals.missing(), _LONGEST_LIST)
        return self._request_lists(lists, request_once, halve=True)

    @property
    def _number(self) -> int:
        return self._arrivals.number

    def _missing_of(self, uids: UIDs) -> Sequence[str]:
        return [uid for uid in uids if self._arrivals.wants(uid)]

    def _record_method(self, method: Method) -> None:
        """Have the outcome of the study name the method by which instances have come."""
        study = self._part.job_id, self._study_uid
        if method not in self._worked:
            self._worked.add(method)
            self._choice.record_success(method)
            ledger().studies.record_method(*study, method, "; ".join(self._choice.remarks()))
        ledger().studies.record_more(*study, self._arrivals.extra - self._extra_recorded)
        self._extra_recorded = self._arrivals.extra

    def worth_another_try(self, answer: Answer) -> bool:
        receiver_gone = self._receiver is not None and not accepts_connections(self._receiver)
        return receiver_gone or super().worth_another_try(answer)

    def record_missing(self, answer: Answer) -> None:
        """Record by name what the remote listed and did not deliver; of what it only counted, record how many."""
        what = "The remote lists this instance but did not deliver it"
        if self._counted:
            what = f"{len(self._part.left)} of {self._part.size} instances did not come"
        refusals = "".join(f" {remark(*each)}." for each in self._choice.excluded.items())
        self._fail_rest(InstanceCategory.MISSING, f"{what} ({answer.text}).{refusals} Retry the job.", answer.status)
