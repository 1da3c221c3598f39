"""Which of these instances does a peer hold? One question to a peer, an answer for each instance: yes, no, unknown.

It is asked for all instances of a series at once, which costs one query for each series and which every peer must
support. What it does not list it is asked for again, by name: some peers end their answers at a limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from pydantic import TypeAdapter, ValidationError

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.find.c_find import INSTANCES_CONTEXT, list_instances
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck
from pacs_tasks.errors import ContextRejectedError, JobCancelledError
from pacs_tasks.outcome import Status, StatusCategory
from pacs_tasks.request import UID, Request
from pacs_tasks.tasks.engine.associations import kept_association
from pacs_tasks.tasks.engine.session import Loss, Session

#: UIDs in one query by name.
_NAMED = 100
#: So many queries for one instance each, all in vain, and the rest of the series is believed to be missing as well.
_IN_VAIN = 20
#: A series at which the association was lost this often is left alone.
_LOSSES = 2

_uid = TypeAdapter(UID)


class Series:
    """The instances of one series that are asked for, and what has been found out about them."""

    def __init__(self, study_uid: str, series_uid: str, asked: Collection[str] = ()) -> None:
        # What is no UID would be a wrong query, not a wrong answer.
        known = _is_uid(study_uid) and _is_uid(series_uid)
        self.study_uid, self.series_uid = (study_uid, series_uid) if known else ("", "")
        self.known = known
        #: SOP Instance UIDs.
        self.asked = set(asked)
        self.held: set[str] = set()
        self.missing: set[str] = set()
        #: SOP Instance UID to reason.
        self.unknown: dict[str, str] = {}
        self.losses = 0

    def open(self) -> list[str]:
        """What is neither known to be held nor to be missing."""
        return sorted(self.asked - self.held - self.missing)

    def give_up(self, reason: str) -> None:
        """Of what is open nobody will know."""
        self.unknown.update(dict.fromkeys(self.open(), reason))


def _is_uid(text: str) -> bool:
    try:
        return bool(_uid.validate_python(text))
    except ValidationError:
        return False


class Inquiry:
    """One look at a peer.

    Parameters
    ----------
    request
        Says who asks, and how patiently.
    remote
        Who is asked.
    stop
        Says whether to end.

    Attributes
    ----------
    queries
        How many it took.
    """

    def __init__(self, request: Request, remote: RemoteAE, stop: StopCheck) -> None:
        asked = request.model_copy(update={"remote": remote})
        self._session = Session(lambda: kept_association(asked, [INSTANCES_CONTEXT], stop))
        self._remote, self._stop = remote, stop
        self.queries = 0

    def ask_for(self, series: Collection[Series]) -> None:
        """Find out about each series, over one association as long as it lasts.

        Raises
        ------
        AssociationError
            If there is none to be had.
        JobCancelledError
            If it was told to end.
        """
        waiting = deque(series)

        def step(assoc: Association) -> None:
            self._look(assoc, waiting[0])
            waiting.popleft()

        def lost(loss: Loss) -> None:
            if not loss.opened:
                raise loss.error
            waiting[0].losses += 1
            if waiting[0].losses >= _LOSSES:
                waiting.popleft().give_up(loss.error.message)

        try:
            with self._session:
                while waiting:
                    if self._stop():
                        raise JobCancelledError("cancelled before the PACS had answered for everything")
                    self._session.attempt(step, lost)
        except ContextRejectedError as error:
            for each in waiting:
                each.give_up(error.message)

    def _look(self, assoc: Association, series: Series) -> None:
        if not series.known:
            for uids in _slices(series.open()):
                self._ask(assoc, series, uids, by_name=True)
            series.give_up("its data set names no study and series, and the PACS did not list it without these")
            return
        asked = series.open()
        if len(asked) == 1:
            self._ask_singly(assoc, series, asked[0])
            return
        said = self._ask(assoc, series, asked, by_name=False)
        for uids in _slices(series.open()):
            self._look_again(assoc, series, uids, complete=said.category is StatusCategory.SUCCESS)

    def _look_again(self, assoc: Association, series: Series, uids: list[str], *, complete: bool) -> None:
        """Ask by name for what was not listed. ``complete``: the peer said that it had listed the whole series."""
        # One that it holds shows whether it understands lists of UIDs, which it need not.
        witness = set(sorted(series.held)[:1])
        said = self._ask(assoc, series, [*uids, *witness], by_name=True)
        rest = [uid for uid in uids if uid not in series.held]
        if witness and said.category is StatusCategory.SUCCESS and witness <= self._listed:
            series.missing.update(rest)
            return
        for count, uid in enumerate(rest):
            if complete and count >= _IN_VAIN:
                series.missing.add(uid)
            elif not self._ask_singly(assoc, series, uid):
                return
            elif uid in series.held:
                # It has one after all: then its earlier answers mean nothing.
                complete = False

    def _ask_singly(self, assoc: Association, series: Series, uid: str) -> bool:
        """Ask for one instance; false if the peer cannot answer even that, so that all the rest is unknown."""
        said = self._ask(assoc, series, [uid], by_name=True)
        if uid in series.held:
            return True
        if said.category is StatusCategory.SUCCESS:
            series.missing.add(uid)
            return True
        series.give_up(f"{self._remote} cannot answer at IMAGE level ({said})")
        return False

    def _ask(self, assoc: Association, series: Series, uids: Collection[str], *, by_name: bool) -> Status:
        self.queries += 1
        said, self._listed = list_instances(assoc, series.study_uid, series.series_uid, set(uids), by_uid=by_name)
        series.held |= self._listed
        return said


def _slices(uids: list[str]) -> list[list[str]]:
    return [uids[start : start + _NAMED] for start in range(0, len(uids), _NAMED)]
