"""Find out which of given instances a remote holds: each is held, missing or unknown.

One query lists all instances of a series, which every remote must support. Queries by UID follow for the instances that
it did not list, since some remotes limit their answers.

An instance that a remote rejects with 0111, duplicate SOP Instance, is already there if its lists do not deny it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from pydantic import TypeAdapter, ValidationError

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.find.c_find import instances_contexts, list_instances
from pacs_tasks.dimse.status import DUPLICATE_SOP_INSTANCE
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck
from pacs_tasks.errors import AssociationError, ContextRejectedError, JobCancelledError, PeerBusyError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory
from pacs_tasks.request import ListedUID, QueryModel, Request
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import Loss, Session, kept_association

#: UIDs in one query by name.
_NAMED = 100
#: After this many queries for one instance each, all in vain, the rest of the series counts as missing.
_IN_VAIN = 20
#: Lost associations after which a series is given up.
_LOSSES = 2

_uid = TypeAdapter(ListedUID)


class Series:
    """The instances of one series that are looked for, and which of them are held, missing or unknown."""

    def __init__(self, study_uid: str, series_uid: str, wanted: Collection[str] = ()) -> None:
        # A remote would reject a query with what is not even nearly a UID.
        known = is_uid(study_uid) and is_uid(series_uid)
        self.study_uid, self.series_uid = (study_uid, series_uid) if known else ("", "")
        self.known = known
        #: SOP Instance UIDs.
        self.wanted = set(wanted)
        self.held: set[str] = set()
        self.missing: set[str] = set()
        #: SOP Instance UID to reason.
        self.unknown: dict[str, str] = {}
        self.losses = 0
        #: A list of UIDs is being queried; the remote has ended the association at one.
        self.in_list = self.refuses_lists = False

    def open(self) -> list[str]:
        """The instances that are neither held nor missing so far."""
        return sorted(self.wanted - self.held - self.missing)

    def give_up(self, reason: str) -> None:
        """Count the open instances as unknown."""
        self.unknown.update(dict.fromkeys(self.open(), reason))


def is_uid(text: str) -> bool:
    """Whether a text can be requested as a UID; it need not follow PS3.5 section 9.1."""
    try:
        return bool(_uid.validate_python(text))
    except ValidationError:
        return False


class Inquiry:
    """Queries one remote for the instances that it holds.

    Parameters
    ----------
    request
        Gives the local AE and the time limits.
    job_id
        The job that asks.
    stop
        Returns whether to end.
    query_model
        The query model of the remote; None: the one that it offers.

    Attributes
    ----------
    queries
        How many queries were sent.
    """

    def __init__(
        self,
        request: Request,
        remote: RemoteAE,
        job_id: str,
        stop: StopCheck,
        query_model: QueryModel | None = None,
    ) -> None:
        to_remote = request.model_copy(update={"remote": remote})
        self._model = query_model
        contexts = instances_contexts(query_model)
        self._session = Session(lambda: kept_association(to_remote, job_id, contexts, stop))
        self._remote, self._stop = remote, stop
        self.queries = 0

    def find(self, series: Collection[Series]) -> None:
        """Find out about each series, over one association as long as it lasts.

        Raises
        ------
        AssociationError
            If there is no association.
        JobCancelledError
            If ``stop`` returned true.
        """
        waiting = deque(series)

        def step(assoc: Association) -> None:
            self._find_series(assoc, waiting[0])
            waiting.popleft()

        def lost(loss: Loss) -> None:
            if not loss.opened:
                raise loss.error
            waiting[0].losses += 1
            if waiting[0].in_list and not waiting[0].refuses_lists:
                # Some remotes hang up at a list of UIDs, and answer for each of them.
                waiting[0].refuses_lists, waiting[0].losses = True, 0
            if waiting[0].losses >= _LOSSES:
                waiting.popleft().give_up(loss.error.message)

        try:
            with self._session:
                while waiting:
                    if self._stop():
                        raise JobCancelledError(
                            "The job was cancelled before the remote had answered for all instances. Retry it."
                        )
                    self._session.attempt(step, lost)
        except ContextRejectedError as error:
            for each in waiting:
                each.give_up(error.message)

    def _find_series(self, assoc: Association, series: Series) -> None:
        if not series.known:
            for uids in _slices(series.open(), 1 if series.refuses_lists else _NAMED):
                self._query(assoc, series, uids, by_uid=True)
            series.give_up(
                "The data set names no study and series, and the remote did not list the instance without them. "
                "Check the file."
            )
            return
        wanted = series.open()
        if len(wanted) == 1:
            self._find_one(assoc, series, wanted[0])
            return
        status = self._query(assoc, series, wanted, by_uid=False)
        for uids in _slices(series.open()):
            self._find_by_uid(assoc, series, uids, complete=status.category is StatusCategory.SUCCESS)

    def _find_by_uid(self, assoc: Association, series: Series, uids: list[str], *, complete: bool) -> None:
        """Query by UID for instances that were not listed. ``complete``: the query for the series succeeded."""
        if series.refuses_lists:
            self._find_singly(assoc, series, uids, complete=complete)
            return
        # An instance that the remote holds shows whether it supports lists of UIDs, which it need not.
        witness = set(sorted(series.held)[:1])
        status = self._query(assoc, series, [*uids, *witness], by_uid=True)
        rest = [uid for uid in uids if uid not in series.held]
        if witness and status.category is StatusCategory.SUCCESS and witness <= self._listed:
            series.missing.update(rest)
        else:
            self._find_singly(assoc, series, rest, complete=complete)

    def _find_singly(self, assoc: Association, series: Series, uids: list[str], *, complete: bool) -> None:
        """Query for instances one by one. If ``complete``, the rest counts as missing after many queries in vain."""
        for count, uid in enumerate(uids):
            if complete and count >= _IN_VAIN:
                series.missing.add(uid)
            elif not self._find_one(assoc, series, uid):
                return
            elif uid in series.held:
                # The remote has one after all, so its earlier answers prove nothing.
                complete = False

    def _find_one(self, assoc: Association, series: Series, uid: str) -> bool:
        """Query for one instance; false if the remote cannot answer even that, so that the rest is unknown."""
        status = self._query(assoc, series, [uid], by_uid=True)
        if uid in series.held:
            return True
        if status.category is StatusCategory.SUCCESS:
            series.missing.add(uid)
            return True
        series.give_up(
            f"{self._remote} cannot answer a query at IMAGE level ({status}). Check with `pacs-tasks query`."
        )
        return False

    def _query(self, assoc: Association, series: Series, uids: Collection[str], *, by_uid: bool) -> Status:
        self.queries += 1
        series.in_list = by_uid and len(uids) > 1
        status, self._listed = list_instances(
            assoc,
            series.study_uid,
            series.series_uid,
            set(uids),
            by_uid=by_uid,
            query_model=self._model,
            limits=settings().answer_limits(self._remote),
        )
        series.in_list = False
        series.held |= self._listed
        return status


def _slices(uids: list[str], size: int = _NAMED) -> list[list[str]]:
    return [uids[start : start + size] for start in range(0, len(uids), size)]


def is_duplicate(outcome: InstanceOutcome) -> bool:
    """Whether the remote rejected an instance because it already holds one with this UID."""
    return outcome.status is not None and outcome.status.code == DUPLICATE_SOP_INSTANCE


def resolve_duplicates(
    outcomes: Mapping[int, InstanceOutcome], request: Request, job_id: str, stop: StopCheck
) -> dict[int, InstanceOutcome]:
    """Query which of these duplicates the remote lists (C-FIND), and return their outcomes.

    Each is present, unless the remote answers that it does not hold it. A remote that cannot be queried is believed.

    Raises
    ------
    PeerBusyError
        If there is no association now.
    JobCancelledError
        If ``stop`` returned true.
    """
    found: dict[tuple[str, str], Series] = {}
    for each in outcomes.values():
        pair = each.study_uid, each.series_uid
        found.setdefault(pair, Series(*pair)).wanted.add(each.sop_instance_uid)
    try:
        if found:
            Inquiry(request, request.remote, job_id, stop).find(found.values())
    except PeerBusyError:
        raise
    except AssociationError as error:
        for series in found.values():
            series.give_up(error.message)
    return {index: _resolved(each, found[each.study_uid, each.series_uid], request) for index, each in outcomes.items()}


def _resolved(outcome: InstanceOutcome, series: Series, request: Request) -> InstanceOutcome:
    uid = outcome.sop_instance_uid
    if uid in series.missing:
        reason = (
            f"{request.remote} rejected this instance as a duplicate (0111) but does not list it. Ask its "
            "administrator what became of it."
        )
        return outcome.model_copy(update={"reason": reason})
    reason = f"{request.remote} already holds an instance with this UID (0111)."
    if uid in series.unknown:
        reason = f"{reason} This could not be confirmed: {series.unknown[uid]}"
    return outcome.model_copy(update={"category": InstanceCategory.PRESENT, "reason": reason})
