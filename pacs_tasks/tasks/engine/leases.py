"""The leases of a worker process: one for each association that it has open or opens.

The heartbeat of the process renews them as long as their holders show signs of life. If Redis does not answer, an
association in use goes on; its lease is renewed, or leased again, when Redis answers.
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
from pacs_tasks.fleet.associations import AssociationLeases, name_of
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import budget
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


class Lease:
    """The right to one association with a remote.

    Attributes
    ----------
    remote
        As :func:`pacs_tasks.fleet.associations.name_of` gives it.
    seen
        When its holder last gave a sign of life.
    refusing
        The remote refuses associations for now, and has accepted none since.
    """

    def __init__(self, remote: RemoteAE, quick: Callable[[], AssociationLeases]) -> None:
        self.remote = name_of(remote)
        self.limit = settings().limit(remote)
        self.name = f"{platform.node()} {os.getpid()} {uuid.uuid4().hex}"
        self.refusing = False
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

    def refused(self, lease: Lease) -> None:
        """Record that the remote refused the association for now; the place stays empty for a moment."""
        heartbeat().forget(lease)
        _quickly(lambda: self._quick().record_refusal(lease.remote, lease.name, lease.limit, _REST))

    def want(self, remote: str) -> None:
        """Ask all workers to release idle associations with a remote that may accept only one at a time."""
        _quickly(lambda: self._quick().record_wanted(remote))

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
