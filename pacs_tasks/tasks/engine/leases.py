"""The leases that this worker process holds: one for each association that it has open or is opening.

The pulse of the process renews them as long as their holders give signs of life. Where Redis does not answer, an
association in use goes on; its lease is renewed, or taken again, once it does.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
import uuid
from collections.abc import Callable
from functools import cache

import redis

from pacs_tasks.ae import RemoteAE
from pacs_tasks.app import DEFAULT_REDIS_URL
from pacs_tasks.connection import connect
from pacs_tasks.dimse.upper_layer.association import StopCheck
from pacs_tasks.errors import BrokerUnavailableError, JobCancelledError, PeerBusyError
from pacs_tasks.fleet.associations import Budget, name_of
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import budget
from pacs_tasks.tasks.engine.claim import heartbeat

logger = logging.getLogger(__name__)

#: Seconds that one waits for a lease before its work goes back on the queue, and between two looks at the stop check.
_PATIENCE = 2.0
_SLICE = 0.5
#: Seconds for which parts do not wait for a remote for which one has waited in vain: work for others comes first.
_NO_PATIENCE = 10.0
#: Seconds for which the answer to "does anybody wait?" is believed, and for which Redis is left alone if it is silent.
_BELIEVED = 0.02
_DEAF = 5.0
#: Seconds that Redis has for an answer on which nothing hangs.
_QUICK = 2.0
#: Seconds that a place at which the remote refused us stays empty, so that a fleet does not storm a busy remote.
_REST = 1.0


class Lease:
    """The right to one association with a remote.

    Attributes
    ----------
    remote
        As :func:`pacs_tasks.fleet.associations.name_of` has it.
    seen
        When its holder last gave a sign of life.
    refusing
        The remote has refused associations for now, and accepted none since.
    """

    def __init__(self, remote: RemoteAE, quick: Callable[[], Budget]) -> None:
        self.remote = name_of(remote)
        self.limit = settings().limit(remote)
        self.name = f"{platform.node()} {os.getpid()} {uuid.uuid4().hex}"
        self.refusing = False
        self._quick = quick
        self._taken = self.seen = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since it was taken."""
        return time.monotonic() - self._taken

    def watched(self, stop: StopCheck) -> StopCheck:
        """A stop check that also is the holder's sign of life."""
        self.seen = time.monotonic()

        def look() -> bool:
            self.seen = time.monotonic()
            return stop()

        return look

    def unwatched(self) -> None:
        """Nobody uses its association now; whoever keeps it ends it in time."""
        self.seen = math.inf

    def prolong(self) -> None:
        """Renew it, from the thread of the pulse."""
        self._quick().renew(self.remote, [self.name], self.limit)


class Leases:
    """The leases of one process; safe in a pool of threads.

    Parameters
    ----------
    patient, quick
        Give the budget by a connection that waits for a Redis that is away for a moment, and by one that asks once.
    """

    def __init__(self, patient: Callable[[], Budget], quick: Callable[[], Budget]) -> None:
        self._patient, self._quick = patient, quick
        self._in_vain: dict[str, float] = {}
        self._looks: dict[str, tuple[float, bool]] = {}

    def take(
        self, remote: RemoteAE, stop: StopCheck, before_waiting: Callable[[str], object], *, one_of_many: bool = False
    ) -> Lease:
        """Take a lease; wait a little for one where none is free.

        Parameters
        ----------
        before_waiting
            Given the remote's name: gives up what this process could do without.
        one_of_many
            It is for a part: where another has waited in vain a moment ago, it does not wait.

        Raises
        ------
        PeerBusyError
            If none became free.
        JobCancelledError
            If ``stop`` said so meanwhile.
        """
        lease = Lease(remote, self._quick)
        in_vain = self._in_vain.get(lease.remote, 0.0) > time.monotonic()
        patience = 0.0 if one_of_many and in_vain else _PATIENCE
        try:
            lease.refusing = self._stand_in_line(lease, remote, stop, patience, before_waiting)
        except BaseException:
            _quickly(lambda: self._quick().release(lease.remote, lease.name, lease.limit))
            raise
        heartbeat().keep(lease)
        return lease

    def _stand_in_line(
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
            answer = self._patient().ask(lease.remote, lease.name, lease.limit, wait=left > 0 or first)
            if answer.granted:
                return answer.refusing
            if first:
                first = False
                before_waiting(lease.remote)
            elif left <= 0:
                self._in_vain[lease.remote] = time.monotonic() + _NO_PATIENCE
                raise PeerBusyError(
                    f"as many associations with {remote} are in use as we may have at once ({lease.limit}); "
                    "wait for the other jobs, or allow more by max_associations"
                )
            if stop():
                raise JobCancelledError(f"cancelled while waiting for an association with {remote}")
            if left > 0:
                self._patient().await_turn(lease.name, max(min(_SLICE, left, answer.patience or _SLICE), 0.01))

    def give_back(self, lease: Lease) -> None:
        """Give a lease back whose association has ended."""
        heartbeat().forget(lease)
        _quickly(lambda: self._quick().release(lease.remote, lease.name, lease.limit))

    def accepted(self, lease: Lease) -> None:
        """The remote has accepted the association."""
        if lease.refusing:
            _quickly(lambda: self._quick().accepted(lease.remote))

    def refused(self, lease: Lease) -> None:
        """The remote has no association for us now: nobody tries for a moment in our place."""
        heartbeat().forget(lease)
        _quickly(lambda: self._quick().refused(lease.remote, lease.name, lease.limit, _REST))

    def want(self, remote: str) -> None:
        """Have idle associations with a remote that keeps us waiting released: it may take one at a time."""
        _quickly(lambda: self._quick().want(remote))

    def wanted(self, remote: str) -> bool:
        """Whether somebody waits for a lease of this remote; asked often, it asks Redis now and then."""
        until, said = self._looks.get(remote, (0.0, False))
        now = time.monotonic()
        if now < until:
            return said
        try:
            said, until = self._quick().wanted(remote), now + _BELIEVED
        except (BrokerUnavailableError, redis.RedisError):
            said, until = False, now + _DEAF
        self._looks[remote] = until, said
        return said


def _quickly(step: Callable[[], None]) -> None:
    """Do what nothing hangs on: without it a lease runs out by itself, or is renewed the next time."""
    try:
        step()
    except (BrokerUnavailableError, redis.RedisError) as error:
        logger.debug("a lease was not changed (%s)", type(error).__name__)


@cache
def _quick() -> Budget:
    """The budget by a connection that asks once, where :func:`budget` is patient."""
    return Budget(connect(settings().redis_url or DEFAULT_REDIS_URL, _QUICK))


@cache
def _of_process(_: int) -> Leases:
    return Leases(budget, _quick)


def leases() -> Leases:
    """The leases of this process: a child that was forked begins without those of its parent."""
    return _of_process(os.getpid())
