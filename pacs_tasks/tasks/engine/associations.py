"""The associations of a worker process, each under a lease; some stay open between tasks.

Each association that the process opens needs a lease from the budget of the remote. The heartbeat of the process renews
its leases as long as their holders show signs of life. If Redis does not answer, an association in use goes on; its
lease is renewed, or leased again, when Redis answers.

A part of fifty small files takes less time than opening an association, so the next part for the same remote uses the
association of the last one. An idle association is released after ``association_idle`` seconds, or at once if somebody
waits for its lease: remotes accept only a few.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import redis

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.app import DEFAULT_REDIS_URL
from pacs_tasks.connection import connect
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import AssociationError, BrokerUnavailableError, JobCancelledError, PeerBusyError
from pacs_tasks.fleet.leases import AssociationLeases, name_of
from pacs_tasks.request import Request
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import budget, local_ae, outages, timeouts
from pacs_tasks.tasks.engine.claim import heartbeat

logger = logging.getLogger(__name__)

#: Seconds to wait for a lease before the work goes back to the queue, and between two stop checks meanwhile.
_PATIENCE = 2.0
_SLICE = 0.5
#: Seconds for which parts do not wait for a remote after one has waited in vain: work for other remotes comes first.
_NO_PATIENCE = 10.0
#: Seconds for which the answer to "does anybody wait?" stays valid, and for which a silent Redis is not asked again.
_ANSWER_VALID = 0.02
_REDIS_SILENT = 5.0
#: Redis timeout in seconds for commands whose failure does no harm.
_QUICK = 2.0
#: Seconds for which the place of a refused association stays empty, so that a fleet does not storm a busy remote.
_REST = 1.0
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
#: Seconds within which a remote that has an association free accepts one.
_PROMPT = 0.2


class Lease:
    """The right to one association with a remote.

    Attributes
    ----------
    remote
        As :func:`pacs_tasks.fleet.leases.name_of` gives it.
    seen
        When its holder last gave a sign of life.
    refusing
        The remote refuses associations for now, and has accepted none since.
    wanting
        All workers were asked to release idle associations for this one.
    """

    def __init__(self, remote: RemoteAE, quick: Callable[[], AssociationLeases]) -> None:
        self.remote = name_of(remote)
        self.limit = settings().limit(remote)
        self.name = f"{platform.node()} {os.getpid()} {uuid.uuid4().hex}"
        self.refusing = self.wanting = False
        self._quick = quick
        self._begun = self.seen = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since it was leased."""
        return time.monotonic() - self._begun

    def watched(self, stop: StopCheck) -> StopCheck:
        """A stop check that is also the holder's sign of life."""
        self.seen = time.monotonic()

        def check() -> bool:
            self.seen = time.monotonic()
            return stop()

        return check

    def unwatched(self) -> None:
        """Keep it without signs of life: its association is idle, and its keeper ends it in time."""
        self.seen = math.inf

    def prolong(self) -> None:
        """Renew it; called by the heartbeat's thread."""
        self._quick().renew(self.remote, [self.name], self.limit)


class Leases:
    """The leases of one process; safe in a pool of threads.

    Parameters
    ----------
    patient, quick
        Give the budget over a connection that repeats commands while Redis is unavailable for a moment, and over one
        that sends each command once.
    """

    def __init__(self, patient: Callable[[], AssociationLeases], quick: Callable[[], AssociationLeases]) -> None:
        self._patient, self._quick = patient, quick
        #: By remote, until when parts do not wait for it.
        self._in_vain: dict[str, float] = {}
        #: By remote, until when the answer to "does anybody wait?" is valid, and that answer.
        self._wanted: dict[str, tuple[float, bool]] = {}

    def lease(
        self, remote: RemoteAE, stop: StopCheck, before_waiting: Callable[[str], object], *, one_of_many: bool = False
    ) -> Lease:
        """Lease an association; wait a little if none is free.

        Parameters
        ----------
        before_waiting
            Called with the remote's name; releases what this process can do without.
        one_of_many
            The lease is for a part, which does not wait if another has just waited in vain.

        Raises
        ------
        PeerBusyError
            If none became free.
        JobCancelledError
            If ``stop`` returned true meanwhile.
        """
        lease = Lease(remote, self._quick)
        in_vain = self._in_vain.get(lease.remote, 0.0) > time.monotonic()
        patience = 0.0 if one_of_many and in_vain else _PATIENCE
        try:
            lease.refusing = self._wait_in_line(lease, remote, stop, patience, before_waiting)
        except BaseException:
            _quickly(lambda: self._quick().release(lease.remote, lease.name, lease.limit))
            raise
        heartbeat().keep(lease)
        return lease

    def _wait_in_line(
        self,
        lease: Lease,
        remote: RemoteAE,
        stop: StopCheck,
        patience: float,
        before_waiting: Callable[[str], object],
    ) -> bool:
        """Return when the lease is granted: whether the remote refuses associations now."""
        deadline, first = time.monotonic() + patience, True
        while True:
            left = deadline - time.monotonic()
            answer = self._patient().request(lease.remote, lease.name, lease.limit, wait=left > 0 or first)
            if answer.granted:
                return answer.refusing
            if first:
                first = False
                before_waiting(lease.remote)
            elif left <= 0:
                self._in_vain[lease.remote] = time.monotonic() + _NO_PATIENCE
                raise PeerBusyError(
                    f"All associations allowed with {remote} are in use ({lease.limit}). "
                    "Wait for the other jobs, or raise max_associations."
                )
            if stop():
                raise JobCancelledError(f"The job was cancelled while it waited for an association with {remote}.")
            if left > 0:
                self._patient().wait(lease.name, max(min(_SLICE, left, answer.patience or _SLICE), 0.01))

    def give_back(self, lease: Lease) -> None:
        """Give a lease back whose association has ended."""
        heartbeat().forget(lease)
        _quickly(lambda: self._quick().release(lease.remote, lease.name, lease.limit))

    def accepted(self, lease: Lease) -> None:
        """Record that the remote accepted the association."""
        if lease.refusing:
            _quickly(lambda: self._quick().record_acceptance(lease.remote))
        if lease.wanting:
            # Otherwise every worker, this one too, would release its idle associations for another second.
            self._wanted.pop(lease.remote, None)
            _quickly(lambda: self._quick().forget_wanted(lease.remote))

    def refused(self, lease: Lease) -> None:
        """Record that the remote refused the association for now; the place stays empty for a moment."""
        heartbeat().forget(lease)
        _quickly(lambda: self._quick().record_refusal(lease.remote, lease.name, lease.limit, _REST))

    def want(self, lease: Lease) -> None:
        """Ask all workers to release idle associations with a remote that may accept only one at a time."""
        lease.wanting = True
        _quickly(lambda: self._quick().record_wanted(lease.remote))

    def wanted(self, remote: str) -> bool:
        """Whether somebody waits for a lease of this remote; does not ask Redis each time."""
        until, wanted = self._wanted.get(remote, (0.0, False))
        now = time.monotonic()
        if now < until:
            return wanted
        try:
            wanted, until = self._quick().wanted(remote), now + _ANSWER_VALID
        except (BrokerUnavailableError, redis.RedisError):
            wanted, until = False, now + _REDIS_SILENT
        self._wanted[remote] = until, wanted
        return wanted


def _quickly(step: Callable[[], None]) -> None:
    """Run a command whose failure does no harm: the lease expires, or is renewed the next time."""
    try:
        step()
    except (BrokerUnavailableError, redis.RedisError) as error:
        logger.debug("a lease was not changed (%s)", type(error).__name__)


@cache
def _quick_budget() -> AssociationLeases:
    """The budget over a connection that sends each command once; :func:`budget` repeats them."""
    return AssociationLeases(connect(settings().redis_url or DEFAULT_REDIS_URL, _QUICK))


@cache
def _leases_of(_: int) -> Leases:
    return Leases(budget, _quick_budget)


def leases() -> Leases:
    """The leases of this process; a forked child starts without those of its parent."""
    return _leases_of(os.getpid())


@dataclass(frozen=True)
class _Kept:
    """An open association and its lease."""

    assoc: Association
    lease: Lease

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
    """The associations that no task uses now; safe in prefork and thread pools."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Since when each is idle, and the association.
        self._idle: list[tuple[float, _Kept]] = []
        self._releaser: threading.Thread | None = None

    def claim(self, local: LocalAE, remote: RemoteAE, contexts: Sequence[Context], limits: Timeouts) -> _Kept | None:
        """An idle association with the same remote on which all of ``contexts`` were proposed."""
        pairs = [(cx.abstract_syntax, syntax) for cx in contexts for syntax in cx.transfer_syntaxes]
        with self._changed:
            for place, (_, found) in enumerate(self._idle):
                assoc = found.assoc
                same = (assoc.local, assoc.remote, assoc.timeouts) == (local, remote, limits)
                if same and assoc.covers(pairs):
                    del self._idle[place]
                    break
            else:
                return None
        if found.assoc.reusable():
            return found
        found.abort()
        return None

    def keep(self, kept: _Kept) -> None:
        """Keep an association for the next task."""
        kept.lease.unwatched()
        with self._changed:
            self._idle.append((time.monotonic(), kept))
            if self._releaser is None:
                self._releaser = threading.Thread(target=self._release_idle, name="idle-associations", daemon=True)
                self._releaser.start()
            self._changed.notify()

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
            self._changed.notify()
        for found in due:
            found.release()

    def _release_idle(self) -> None:
        while True:
            with self._changed:
                if not self._idle and not self._changed.wait_for(lambda: self._idle, _LINGER):
                    self._releaser = None
                    return
                self._changed.wait(min(_until_next_check(since) for since, _ in self._idle))
                idle = list(self._idle)
            self._release([found for since, found in idle if _is_due(since, found)])


def _until_next_check(since: float) -> float:
    idle_for = time.monotonic() - since
    interval = min(max(_NEXT_PART, idle_for / 4), _LONGEST_CHECK)
    return max(0.0, min(interval, settings().association_idle - idle_for))


def _is_due(since: float, found: _Kept) -> bool:
    idle_for = time.monotonic() - since
    return idle_for >= settings().association_idle or (idle_for >= _NEXT_PART and leases().wanted(found.lease.remote))


_idle = _Idle()


@contextmanager
def leased(remote: RemoteAE, stop: StopCheck, *, one_of_many: bool = False) -> Iterator[StopCheck]:
    """A lease for the association that the block opens and ends. The block must use the stop check that it receives.

    ``one_of_many`` as for :meth:`Leases.lease`.

    Raises
    ------
    PeerBusyError
        If no lease became free in a few seconds.
    """
    lease = leases().lease(remote, stop, _idle.let_go, one_of_many=one_of_many)
    with _reported(lease):
        yield lease.watched(stop)
    leases().give_back(lease)


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
def new_association(request: Request, contexts: Sequence[Context], stop: StopCheck) -> Iterator[Association]:
    """An association with the remote of a request, for the block alone; errors as of the lease and the association."""
    local, remote, limits = local_ae(request), request.remote, timeouts(request)
    with leased(remote, stop) as watched, Association.open(local, remote, contexts, limits, watched) as assoc:
        yield assoc


@contextmanager
def kept_association(
    request: Request, contexts: Sequence[Context], stop: StopCheck, patience: float | None = None
) -> Iterator[Association]:
    """As :func:`new_association`, but an idle one if one fits, kept for the next block unless this one fails.

    ``patience`` is the number of seconds that the remote may stay silent, if it is less than usual.
    """
    local, remote, limits = local_ae(request), request.remote, timeouts(request)
    kept = _idle.claim(local, remote, contexts, limits) or _open(local, remote, contexts, limits, stop)
    assoc, lease = kept.assoc, kept.lease
    assoc.stop = lease.watched(stop)
    assoc.wire.limit = limits.dimse if patience is None else min(limits.dimse, patience)
    try:
        yield assoc
    except BaseException:
        kept.abort()
        raise
    assoc.stop, assoc.wire.limit = None, limits.dimse
    reusable = settings().association_idle and assoc.reusable()
    if reusable and not (lease.age > _TURN and leases().wanted(lease.remote)):
        _idle.keep(kept)
    else:
        kept.release()


def _open(local: LocalAE, remote: RemoteAE, contexts: Sequence[Context], limits: Timeouts, stop: StopCheck) -> _Kept:
    lease = leases().lease(remote, stop, _idle.let_go, one_of_many=True)
    begun, watched = time.monotonic(), lease.watched(stop)

    def check() -> bool:
        if time.monotonic() - begun > _PROMPT:
            leases().want(lease)
        return watched()

    with _reported(lease):
        assoc = Association.open(local, remote, contexts, limits, check, window=settings().operations_window)
    return _Kept(assoc, lease)


def close_all() -> None:
    """Release every idle association of this process."""
    _idle.close_all()
