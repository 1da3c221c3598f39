"""The loop over the lines of a part on one association after the other, which sending and querying share.

What differs between them is a step (:meth:`LineQueue.step`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import (
    AssociationError,
    JobCancelledError,
    PacsTasksError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
)
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.tuning import Trouble
from pacs_tasks.journal import tracing
from pacs_tasks.outcome import Status, StatusCategory
from pacs_tasks.request import TransferRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import Loss, Session, kept_association
from pacs_tasks.tasks.engine.base import PartPausedError, PartSuspendedError, note_unreachable, park_if_down
from pacs_tasks.tasks.engine.leases import Lease
from pacs_tasks.tasks.engine.part import L, Part

#: Associations that may be lost in one try of a part before the rest of it goes back to the queue.
_LOSSES_OF_A_TRY = 2
#: Associations that may be lost at one line before it fails: some files and queries make a remote abort each time.
_LOSSES_OF_A_LINE = 3
#: Workers that may die with a part, for whatever reason, before the rest of it fails.
_MOST_DEATHS_OF_A_PART = 10

#: The form in which a queue holds its lines.
T = TypeVar("T")


class LineQueue(ABC, Generic[T]):
    """Lines of a part for one association: the loop over them, over another association where one is lost.

    The line at which an association is lost is put aside for the next try, so that it does not hold up the others.

    Parameters
    ----------
    queue
        By its index in the manifest, each line in the form in which :meth:`step` needs it; in order.
    patience
        Seconds that the remote may stay silent, if that is less than usual.

    Attributes
    ----------
    unanswered
        The indices of lines that were sent to the remote and have no answer.
    answered
        Whether the remote has answered a request of the step that runs.
    """

    #: The DIMSE service, for traces.
    service: ClassVar[str]
    #: Whether the loss of an association over which something was done does not count.
    spares_progress: ClassVar[bool] = False
    #: Whether to use an association only if one is free that nobody waits for.
    spare: ClassVar[bool] = False

    def __init__(
        self,
        part: Part[Any],
        request: TransferRequest,
        contexts: Sequence[Context],
        queue: Mapping[int, T],
        patience: float | None = None,
    ) -> None:
        self.part, self.request = part, request
        self.contexts, self.patience = contexts, patience
        self.queue = dict(queue)
        self.unanswered: set[int] = set()
        self.answered = False
        self._losses = 0
        #: The lease of the last association.
        self.lease: Lease | None = None
        self._session = Session(
            lambda: kept_association(
                request,
                part.job_id,
                contexts,
                self.must_stop,
                patience=patience,
                spare=self.spare,
                opening=self.opening,
                note_lease=self._note_lease,
            )
        )

    def _note_lease(self, lease: Lease) -> None:
        self.lease = lease

    def must_stop(self) -> bool:
        """Whether to stop waiting for the remote."""
        return self.part.must_end()

    def opening(self) -> None:
        """Called before an association is opened, once there is a lease."""

    def must_yield(self) -> bool:
        """Whether to go on over another association, since others have a better right to this one."""
        return self.lease is not None and self.lease.must_yield()

    @abstractmethod
    def step(self, assoc: Association) -> None:
        """Do the first line, or several; remove each from ``queue`` when it has its answer."""

    def work(self) -> None:
        """Work until the queue is empty, the try is over or others have their turn.

        Raises
        ------
        PeerBusyError
            If there is no association now.
        """
        try:
            with tracing.span(settings().traces, self.service, **self._about()), self._session:
                while self.queue and not self.part.slice_over():
                    self.part.check_end()
                    if self.must_yield():
                        self._session.close()
                    self._session.attempt(self.step, self._lost)
        except PeerBusyError:
            raise
        except AssociationError as error:
            if self.part.alone:
                raise
            if isinstance(error, PeerUnavailableError) and not self.part.last_try:
                if self.queue:
                    self.part.again = True
            else:
                self._fail_rest(error)
        except JobCancelledError:
            self.part.check_end()
            # Without a line left, only the wait for an association has ended.
            if self.queue:
                raise
        if self.part.claim.cancelled:
            raise JobCancelledError

    def _about(self) -> dict[str, str | int]:
        return {"remote": name_of(self.request.remote), "lines": len(self.queue)}

    def try_later(self, index: int, status: Status | None) -> bool:
        """Leave a line for the next try if its status is transient; false if it has an outcome now."""
        self.unanswered.discard(index)
        if status is None or status.category is not StatusCategory.TRANSIENT or self.part.last_try:
            return False
        self.part.count_attempt(index)
        self.part.again = True
        return True

    def _lost(self, loss: Loss) -> None:
        if loss.opened and self.spares_progress and (self.answered or not loss.first):
            return
        if loss.opened:
            self._losses += 1
            self._put_aside(loss.error)
            if self._losses < _LOSSES_OF_A_TRY:
                return
            raise self.lost_error(loss.error)
        if not self.part.alone and isinstance(loss.error, PeerUnreachableError):
            note_unreachable(self.part.job_id, self.request, loss.error)
        raise loss.error

    def _fail_rest(self, error: PacsTasksError) -> None:
        while self.queue:
            self.part.fail(self.pop(), error)

    def _put_aside(self, error: PeerUnavailableError) -> None:
        oldest = min(self.unanswered, default=None)
        for each in self.unanswered:
            self.part.count_attempt(each)
        self.unanswered.clear()
        index = self.pop(oldest)
        if self.lease is not None and index not in self.part.lost:
            # Some files make a remote abort each time.
            self.lease.note(Trouble.ABORTED)
        self.part.count_loss(index)
        failure = self.failure(index, error) or (self.lost_error(error) if self.part.last_try else None)
        if failure is not None:
            self.part.fail(index, failure)
        else:
            self.part.again = True

    def failure(self, index: int, error: PeerUnavailableError) -> PeerUnavailableError | None:
        """The error with which a line fails at which an association was lost; nothing if it is tried again."""
        return error if self.part.lost[index] >= _LOSSES_OF_A_LINE else None

    def lost_error(self, error: PeerUnavailableError) -> PeerUnavailableError:
        """The error of lines for which no try is left after an association was lost."""
        return error

    def pop(self, index: int | None = None) -> int:
        """Remove a line, or else the first one; give its index."""
        found = next(iter(self.queue)) if index is None else index
        del self.queue[found]
        return found


def work_off(part: Part[L], request: TransferRequest, queues: Callable[[], Iterable[LineQueue[Any]]]) -> bool:
    """Work off the queues of a part; true if something is left that should be tried again later.

    Parameters
    ----------
    queues
        Gives the queues, after the part was found fit to run.

    Raises
    ------
    PeerBusyError, PartPausedError
        If only the lack of an association, or the pace, keeps the rest from being done: that is not a try.
    """
    part.claim.check_deaths(_MOST_DEATHS_OF_A_PART)
    part.quarantine()
    if not part.alone:
        park_if_down(part.job_id, request)
    for queue in queues():
        try:
            queue.work()
        except (PeerBusyError, PartPausedError):
            if not part.again:
                raise
            return True
        if part.sliced and part.left:
            raise PartSuspendedError
    return part.again
