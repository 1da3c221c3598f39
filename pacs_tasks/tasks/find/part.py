"""Ask the queries of one part over one association, each to its own outcome."""

from __future__ import annotations

import time

from pacs_tasks.dimse.find.c_find import Finding, context_of
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import (
    AssociationError,
    InvalidRequestError,
    JobCancelledError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
)
from pacs_tasks.outcome import Category, Doubt, FindOutcome, InstanceCategory, InstanceOutcome, StatusCategory
from pacs_tasks.request import FindBatchRequest, FindRequest
from pacs_tasks.tasks.engine.associations import lent
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.chord import Part
from pacs_tasks.tasks.engine.claim import poison
from pacs_tasks.tasks.engine.parking import note_unreachable, park_if_down
from pacs_tasks.tasks.engine.shutdown import WorkerStoppingError, stopping

#: Associations that may be lost in one try of a part before what is left of it goes back on the queue.
_LOSSES_OF_A_TRY = 2
#: Associations that may be lost at one row before it fails: some queries end a peer each time.
_LOSSES_OF_A_ROW = 3
#: Workers that may die with a part, for whatever reason, before all that is left of it fails.
_MOST_DEATHS_OF_A_PART = 10


def ask(part: Part, request: FindBatchRequest, *, last_try: bool) -> bool:
    """Ask what is left of a part; true if something should be tried again later.

    Parameters
    ----------
    last_try
        What would be tried again later fails now.

    Raises
    ------
    PeerBusyError
        If there is no association now, and nothing but that keeps the rest from being asked: it was no try.
    """
    if part.claim.deaths >= _MOST_DEATHS_OF_A_PART:
        raise poison(part.claim.deaths)
    part.quarantine()
    park_if_down(part.job_id, request)
    asking = _Asking(part, request, last_try=last_try)
    try:
        asking.ask()
    except PeerBusyError:
        if not asking.again:
            raise
    return asking.again


class _Asking:
    """One try at a part."""

    def __init__(self, part: Part, request: FindBatchRequest, *, last_try: bool) -> None:
        self._part, self._request, self._last_try = part, request, last_try
        #: Rows that have not been asked in this try.
        self._queue = list(part.left)
        #: Something failed for now, which counts as a try.
        self.again = False
        self._opened = self._progress = False
        #: The query of the row in front: one that is split goes on where it was.
        self._finding: tuple[int, Finding] | None = None

    def ask(self) -> None:
        losses = 0
        while self._queue:
            try:
                self._over_one_association()
            except PeerBusyError:
                raise
            except PeerUnavailableError as error:
                if self._progress:
                    # Some peers end the association after each query, or after some.
                    continue
                if self._opened:
                    losses += 1
                    self._put_aside(error)
                elif isinstance(error, PeerUnreachableError):
                    note_unreachable(self._part.job_id, self._request, error)
                if not self._opened or losses == _LOSSES_OF_A_TRY:
                    if not self._last_try:
                        self.again |= bool(self._queue)
                        return
                    self._part.fail_rest(error)
                    return
            except AssociationError as error:
                self._part.fail_rest(error)
                return

    def _over_one_association(self) -> None:
        """Ask until the queue is empty or the association has ended; the row that met a loss stays in front."""
        part, request = self._part, self._request
        self._opened = self._progress = False
        contexts, limits = [context_of(request)], timeouts(request)
        with lent(local_ae(request), request.remote, contexts, limits, part.must_end) as assoc:
            self._opened = True
            for index in list(self._queue):
                self._check_end()
                part.begin(index)
                self._ask_for(index, assoc)
                self._queue.remove(index)
                self._progress = True
                if not assoc.reusable():
                    return

    def _check_end(self) -> None:
        if self._part.claim():
            raise JobCancelledError
        if stopping():
            raise WorkerStoppingError

    def _ask_for(self, index: int, assoc: Association) -> None:
        """Ask one query. What it finds is in the ledger before its outcome is."""
        subject, _, keys = self._part.left[index]
        begun = time.time()
        try:
            found = self._answer(index, keys, assoc)
        except InvalidRequestError as error:
            self._part.record(index, InstanceOutcome.unanswered(subject, error))
            return
        except JobCancelledError:
            self._check_end()
            raise
        if found.category is Category.CANCELLED:
            self._check_end()
        if found.status.category is StatusCategory.TRANSIENT and not self._last_try:
            self._part.count_attempt(index)
            self.again = True
            return
        if found.category in _ANSWERED:
            ledger().matches.note(self._part.job_id, index, found.matches)
        outcome = outcome_of(subject, self._request, found)
        self._part.record(index, outcome.model_copy(update={"begun": begun, "ended": time.time()}))

    def _answer(self, index: int, keys: dict[str, str], assoc: Association) -> FindOutcome:
        if self._finding is None or self._finding[0] != index:
            self._finding = index, Finding(_query(self._request, keys))
        finding = self._finding[1]
        before = finding.queries
        try:
            return finding.on(assoc)
        finally:
            self._progress |= finding.queries > before

    def _put_aside(self, error: PeerUnavailableError) -> None:
        """The row in front met the loss: it waits for the next try, so that it does not hold up the others."""
        index = self._queue.pop(0)
        self._part.count_attempt(index)
        if self._last_try or self._part.count_loss(index) >= _LOSSES_OF_A_ROW:
            self._part.record(index, InstanceOutcome.unanswered(self._part.left[index][0], error))
        else:
            self.again = True


#: A query whose answer was cut off is answered as well: its matches count, and its outcome says what is wrong.
_ANSWERED = frozenset({Category.SUCCESS, Category.WARNING, Category.PARTIAL})


def _query(request: FindBatchRequest, keys: dict[str, str]) -> FindRequest:
    try:
        return request.of_row(keys)
    except ValueError:
        # What pydantic says of it may repeat a value.
        raise InvalidRequestError("the query of this row is not valid; correct its keys") from None


def outcome_of(subject: str, request: FindBatchRequest, found: FindOutcome) -> InstanceOutcome:
    """What is recorded of a query: a success only where the answer is believed to be whole."""
    if found.category not in _ANSWERED:
        return InstanceOutcome(subject=subject, category=InstanceCategory.FAILED, status=found.status)
    why = "; ".join(found.remarks) or _doubtful(request, found)
    category = InstanceCategory.WARNING if found.doubts else InstanceCategory.SUCCESS
    return InstanceOutcome(subject=subject, category=category, reason=why)


def _doubtful(request: FindBatchRequest, found: FindOutcome) -> str:
    """Why the answer to a single query may not be all there is; nothing where nothing says so."""
    count = len(found.matches)
    if found.limit_hit:
        return f"there are more matches than the limit of {request.limit}; raise it or narrow the query"
    if Doubt.STATUS in found.doubts:
        return f"the PACS ended the query after {count} matches ({found.status}), so there may be more; narrow it"
    if Doubt.ROUND in found.doubts:
        return f"the PACS gave {count} matches, which looks like a limit of its own; narrow it, or split it by dates"
    return "there may be more matches than these; narrow the query" if found.doubts else ""
