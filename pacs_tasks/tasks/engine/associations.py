"""The associations of one worker process, each under a lease; some stay open between its tasks.

A part of fifty small files takes less time than opening an association, so the next part for the same remote uses the
association of the last one. An idle association is released after ``association_idle`` seconds, or at once if somebody
waits for its lease: remotes accept only a few.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import AssociationError, PeerBusyError
from pacs_tasks.request import Request
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.base import local_ae, outages, timeouts
from pacs_tasks.tasks.engine.leases import Lease, leases

logger = logging.getLogger(__name__)

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

    ``one_of_many`` as for :meth:`pacs_tasks.tasks.engine.leases.Leases.lease`.

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
    """An association with the remote of a request, for the block alone.

    Raises
    ------
    PeerBusyError
        If no lease became free in a few seconds.
    AssociationError
        As :meth:`pacs_tasks.dimse.upper_layer.association.Association.open` raises it.
    """
    local, remote, limits = local_ae(request), request.remote, timeouts(request)
    with leased(remote, stop) as watched, Association.open(local, remote, contexts, limits, watched) as assoc:
        yield assoc


@contextmanager
def kept_association(request: Request, contexts: Sequence[Context], stop: StopCheck) -> Iterator[Association]:
    """An association for the block: an idle one if one fits, kept for the next block unless this one fails.

    Raises
    ------
    PeerBusyError
        If no lease became free in a few seconds.
    AssociationError
        As :meth:`pacs_tasks.dimse.upper_layer.association.Association.open` raises it.
    """
    local, remote, limits = local_ae(request), request.remote, timeouts(request)
    kept = _idle.claim(local, remote, contexts, limits) or _open(local, remote, contexts, limits, stop)
    assoc, lease = kept.assoc, kept.lease
    assoc.stop = lease.watched(stop)
    try:
        yield assoc
    except BaseException:
        kept.abort()
        raise
    assoc.stop = None
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
            leases().want(lease.remote)
        return watched()

    with _reported(lease):
        assoc = Association.open(local, remote, contexts, limits, check, window=settings().operations_window)
    return _Kept(assoc, lease)


def close_all() -> None:
    """Release every idle association of this process."""
    _idle.close_all()
