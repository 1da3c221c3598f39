"""The associations of a worker process, each under a lease; some stay open between tasks.

A part of fifty small files takes less time than opening an association, so the next part for the same remote uses the
association of the last one. An idle association is released after ``association_idle`` seconds, or at once if somebody
waits for its lease: remotes accept only a few.

Some remotes end the association after each request, abort at a request they do not understand, or fall silent at it.
:class:`Session` opens the next association; the user of a session decides after each loss whether to go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self, TypeVar

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts, observe
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import AssociationError, InvalidRequestError, PeerBusyError, PeerUnavailableError
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.response_times import ResponseTimes
from pacs_tasks.request import Request
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine.base import local_ae, outages, quick_redis, quickly, timeouts
from pacs_tasks.tasks.engine.leases import Lease, leases

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds within which the next part usually comes: an association idle for less is not released for others who wait.
#: Also the first interval between two checks whether somebody waits; the interval grows with the idle time up to the
#: second value.
_NEXT_PART = 0.05
_LONGEST_CHECK = 0.5
#: Seconds for which the releasing thread waits for another association to become idle before it ends.
_LINGER = 1.0
#: Seconds after which an association goes to others who wait even if there is more to do: opening one costs as much as
#: some small files.
_TURN = 1.0
#: Seconds within which a remote that has an association free accepts one, or so many of its usual response times, or of
#: the time that opening one took.
_PROMPT = 0.2
_PROMPT_RESPONSES = 5
_PROMPT_OPENINGS = 3


#: Its two ends, and the limits for its remote.
_Ends = tuple[LocalAE, RemoteAE, Timeouts]


@dataclass(frozen=True)
class _Kept:
    """An open association and its lease."""

    assoc: Association
    lease: Lease

    @property
    def ends(self) -> _Ends:
        """What the requests that may use it have in common."""
        return self.assoc.local, self.assoc.remote, self.assoc.timeouts

    def release(self) -> None:
        """Release it, then its lease: the remote must see its end before another worker opens one."""
        try:
            self.assoc.release()
        except AssociationError as error:
            logger.debug("an idle association ended before it was released: %s", error.message)
        finally:
            leases().give_back(self.lease)

    def abort(self) -> None:
        self.assoc.abort()
        leases().give_back(self.lease)


class _Idle:
    """The associations of this process that no task uses now; safe in prefork and thread pools."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Since when each is idle, and the association.
        self._idle: list[tuple[float, _Kept]] = []
        self._releaser: threading.Thread | None = None

    def claim(
        self, request: Request, job_id: str, contexts: Sequence[Context], *, any_job: bool = False
    ) -> _Kept | None:
        """An idle association with the same remote that fits ``contexts``.

        Parameters
        ----------
        any_job
            Also one that was open for another job.
        """
        ends, others = _ends_of(request), []
        with self._changed:
            for place, (since, found) in enumerate(self._idle):
                ours = found.lease.belongs_to(request, job_id)
                if found.ends != ends or not (ours or any_job):
                    continue
                if found.assoc.fits(contexts):
                    del self._idle[place]
                    background.note_idle(found.lease.remote, -1)
                    break
                if ours:
                    others.append((place, min(since, time.monotonic() - _NEXT_PART)))
            else:
                # The next part has come, and needs another one.
                for place, since in others:
                    self._idle[place] = since, self._idle[place][1]
                    self._changed.notify()
                return None
        if found.assoc.reusable():
            if not found.lease.belongs_to(request, job_id):
                found.lease.pass_on(request, job_id)
            return found
        found.abort()
        return None

    def count(self, request: Request, contexts: Sequence[Context]) -> int:
        """How many idle associations a task of this request could use at once."""
        ends = _ends_of(request)
        with self._changed:
            return sum(found.ends == ends and found.assoc.fits(contexts) for _, found in self._idle)

    def keep(self, kept: _Kept) -> None:
        """Keep an association for the next task."""
        kept.lease.unwatched()
        with self._changed:
            self._idle.append((time.monotonic(), kept))
            background.note_idle(kept.lease.remote, 1)
            if self._releaser is None:
                self._releaser = threading.Thread(target=self._release_idle, name="idle-associations", daemon=True)
                self._releaser.start()
            self._changed.notify()
        leases().notify(kept.lease.remote)

    def let_go(self, remote: str) -> None:
        """Release those with one remote: this process needs another association, with other contexts."""
        self._release([found for _, found in self._idle if found.lease.remote == remote])

    def close_all(self) -> None:
        """Release all."""
        self._release([found for _, found in self._idle])

    def _release(self, some: Sequence[_Kept]) -> None:
        """Release those that are still idle."""
        with self._changed:
            due = [found for _, found in self._idle if found in some]
            self._idle = [each for each in self._idle if each[1] not in some]
            for found in due:
                background.note_idle(found.lease.remote, -1)
            self._changed.notify()
        # All at once: each costs a round trip, and the remote may be silent.
        releases = [threading.Thread(target=found.release, daemon=True) for found in due[1:]]
        for each in releases:
            each.start()
        for found in due[:1]:
            found.release()
        for each in releases:
            each.join()

    def _release_idle(self) -> None:
        while True:
            with self._changed:
                if not self._idle and not self._changed.wait_for(lambda: self._idle, _LINGER):
                    self._releaser = None
                    return
                self._changed.wait(min(_until_next_check(since) for since, _ in self._idle))
                idle = list(self._idle)
            self._release([found for since, found in idle if _is_due(since, found)])


def _ends_of(request: Request) -> _Ends:
    """What an association must have for a request to use it."""
    return local_ae(request), request.remote, timeouts(request)


def _until_next_check(since: float) -> float:
    idle_for = time.monotonic() - since
    interval = min(max(_NEXT_PART, idle_for / 4), _LONGEST_CHECK)
    return max(0.0, min(interval, settings().association_idle - idle_for))


def _is_due(since: float, found: _Kept) -> bool:
    idle_for = time.monotonic() - since
    return idle_for >= settings().association_idle or (idle_for >= _NEXT_PART and leases().wanted(found.lease.remote))


idle_associations = _Idle()


_response_times = background.per_process(lambda: ResponseTimes(quick_redis))
observe(lambda remote, service, seconds: _response_times().note(remote, service, seconds))


@contextmanager
def leased(request: Request, job_id: str, stop: StopCheck, *, one_of_many: bool = False) -> Iterator[Lease]:
    """A lease for the association that the block opens and ends. The block must use the stop check of the lease.

    ``one_of_many`` as for :meth:`.leases.Leases.lease`.

    Raises
    ------
    PeerBusyError
        If no lease became free in a few seconds.
    """
    lease = leases().lease(request, job_id, stop, idle_associations.let_go, one_of_many=one_of_many)
    lease.watched(stop)
    lease.flow.begin(lease.name)
    try:
        with _reported(lease):
            yield lease
    finally:
        _end_use(lease)
    leases().give_back(lease)


def _end_use(lease: Lease) -> None:
    """Note that an association is not in use any more, and tell the fleet how fast the remote was."""
    lease.flow.end(lease.name)
    quickly(lambda: _response_times().add(lease.remote), "response times were not added")


@contextmanager
def _reported(lease: Lease) -> Iterator[None]:
    """Report whether the remote accepts the association of the block; a lease whose block fails is given back."""
    try:
        yield
        outages().forget_failures(lease.remote)
    except PeerBusyError:
        leases().refused(lease)
        raise
    except BaseException:
        leases().give_back(lease)
        raise
    leases().accepted(lease)


@contextmanager
def new_association(
    request: Request, job_id: str, contexts: Sequence[Context], stop: StopCheck
) -> Iterator[Association]:
    """An association with the remote of a request, for the block alone; errors as of the lease and the association."""
    with leased(request, job_id, stop) as lease, _opened(lease, request, contexts) as assoc:
        yield assoc


@contextmanager
def kept_association(
    request: Request,
    job_id: str,
    contexts: Sequence[Context],
    stop: StopCheck,
    *,
    patience: float | None = None,
    spare: bool = False,
    opening: Callable[[], object] = lambda: None,
    note_lease: Callable[[Lease], object] = lambda _: None,
) -> Iterator[Association]:
    """As :func:`new_association`, but an idle one if one fits, kept for the next block unless this one fails.

    Parameters
    ----------
    patience
        Seconds that the remote may stay silent, if that is less than usual.
    spare
        Wait for none: the block can do without.
    opening
        Called once there is a lease, before the association is opened.
    note_lease
        Called with the lease, which the block may give back early.
    """
    limits = timeouts(request)
    background.expect_to_wait(name_of(request.remote), leases().response_time(request.remote))
    kept = idle_associations.claim(request, job_id, contexts, any_job=True) or _open(
        request, job_id, contexts, stop, spare=spare, opening=opening
    )
    assoc, lease = kept.assoc, kept.lease
    assoc.stop = lease.watched(stop)
    assoc.wire.limit = limits.dimse if patience is None else min(limits.dimse, patience)
    lease.flow.begin(lease.name)
    note_lease(lease)
    try:
        yield assoc
    except BaseException:
        kept.abort()
        raise
    finally:
        _end_use(lease)
    assoc.stop, assoc.wire.limit = None, limits.dimse
    wanted = lease.must_yield() or (lease.age > _TURN and leases().wanted_elsewhere(lease.remote))
    if settings().association_idle and assoc.reusable() and not wanted:
        idle_associations.keep(kept)
    else:
        kept.release()


def round_trip(request: Request, job_id: str, contexts: Sequence[Context], stop: StopCheck) -> float:
    """Open an association to learn whether the remote accepts one; give the seconds of a round trip on its connection.

    Nobody waits for its release. The errors are those of :func:`new_association`.
    """
    kept = _opened_for(leases().lease(request, job_id, stop, idle_associations.let_go), request, contexts, stop)
    _end_use(kept.lease)
    try:
        threading.Thread(target=kept.release, name="release", daemon=True).start()
    except RuntimeError:
        # This machine has no thread left.
        kept.release()
    return kept.assoc.wire.round_trip


def _open(
    request: Request,
    job_id: str,
    contexts: Sequence[Context],
    stop: StopCheck,
    *,
    spare: bool,
    opening: Callable[[], object],
) -> _Kept:
    """Open an association, or give one of the same job that becomes idle in the meantime."""
    if spare:
        lease: Lease | _Kept = leases().spare(request, job_id)
    else:
        idle = partial(idle_associations.claim, request, job_id, contexts)
        lease = leases().lease(request, job_id, stop, idle_associations.let_go, one_of_many=True, instead=idle)
    if isinstance(lease, _Kept):
        return lease
    return _opened_for(lease, request, contexts, stop, opening)


def _opened_for(
    lease: Lease,
    request: Request,
    contexts: Sequence[Context],
    stop: StopCheck,
    opening: Callable[[], object] = lambda: None,
) -> _Kept:
    """Open the association of a lease, which is given back if it fails."""
    lease.watched(stop)
    with _reported(lease):
        opening()
        return _Kept(_opened(lease, request, contexts, window=settings().operations_window), lease)


def _opened(lease: Lease, request: Request, contexts: Sequence[Context], *, window: int = 1) -> Association:
    """Open the association of a lease. A remote that lets it wait may accept few at a time, and others are idle."""
    response, opening = leases().response_time(request.remote), background.distance(lease.remote)
    prompt = max(_PROMPT, _PROMPT_RESPONSES * response, _PROMPT_OPENINGS * opening)
    begun, stop = time.monotonic(), lease.stop

    def check() -> bool:
        waited = time.monotonic() - begun
        if waited > _PROMPT:
            leases().want(lease)
        if waited > prompt:
            lease.flow.wait(lease.name, lease.limit)
        return stop()

    try:
        assoc = Association.open(local_ae(request), request.remote, contexts, timeouts(request), check, window=window)
    finally:
        lease.flow.end_wait(lease.name)
    assoc.stop = stop
    lease.flow.begin(lease.name)
    seconds = time.monotonic() - begun
    leases().note_opening(lease, seconds)
    background.note_distance(lease.remote, seconds)
    return assoc


class Loss(NamedTuple):
    """An association that was lost, or could not be opened.

    Attributes
    ----------
    opened
        Whether there was an association.
    first
        Whether this was the first step on that association, and no other task had used it.
    """

    error: PeerUnavailableError
    opened: bool
    first: bool


class Session:
    """Associations with one remote, one after the other; a context manager, which ends the last one.

    Parameters
    ----------
    associate
        Opens an association under a lease for the duration of a context.
    """

    def __init__(self, associate: Callable[[], AbstractContextManager[Association]]) -> None:
        self._associate = associate
        self._open = ExitStack()
        self._assoc: Association | None = None

    def attempt(self, step: Callable[[Association], T], lost: Callable[[Loss], None]) -> T | None:
        """Run a step over the association of the step before, or over a new one.

        An association that the remote has ended meanwhile is replaced. An invalid request costs no association.

        Parameters
        ----------
        lost
            Called when the association was lost or could not be opened; raises to end the session.

        Returns
        -------
        The result of the step, or nothing if the association was lost.

        Raises
        ------
        PeerBusyError
            If there is no association now.
        AssociationError
            As ``associate`` and ``step`` raise it, where it is permanent.
        """
        first = self._assoc is None
        try:
            assoc = self._assoc = self._assoc or self._open.enter_context(self._associate())
            # One that another task has used may have ended since.
            first = first and assoc.fresh
            result = step(assoc)
        except InvalidRequestError:
            raise
        except PeerUnavailableError as error:
            opened = self._assoc is not None
            self._end(error)
            if isinstance(error, PeerBusyError):
                raise
            lost(Loss(error, opened, first))
            return None
        except BaseException as error:
            self._end(error)
            raise
        if not assoc.reusable():
            self.close()
        return result

    def close(self) -> None:
        """End the association."""
        self._assoc = None
        self._open.close()

    def _end(self, error: BaseException) -> None:
        """End the association with the error, from which its lease learns why."""
        self._assoc = None
        self._open.__exit__(type(error), error, error.__traceback__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
