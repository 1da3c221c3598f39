"""The leases of a worker process: each association with a remote needs one, and says what is moved over it.

The heartbeat of the process renews its leases as long as their holders show signs of life. If Redis does not answer, an
association in use goes on; its lease is renewed, or leased again, when Redis answers.
"""

from __future__ import annotations

import math
import os
import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import redis

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.upper_layer.association import StopCheck
from pacs_tasks.errors import BrokerUnavailableError, JobCancelledError, NoLeaseError
from pacs_tasks.fleet.leases import START, AssociationLeases, LeaseClass, group_of, lease_name, name_of
from pacs_tasks.fleet.tuning import REDIS_SILENT, Flow, Trouble, Tuning
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.request import GetRequest, MoveRequest, Priority, Request
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine.base import ledger, quick_redis, quickly
from pacs_tasks.tasks.engine.claim import heartbeat

#: Seconds to wait for a lease before the work goes back to the queue, and in the background, where it holds no process;
#: seconds between two stop checks meanwhile, and in the background.
_PATIENCE, _LONG_PATIENCE = 2.0, 30.0
_SLICE, _LONG_SLICE = 0.5, 1.0
#: Seconds for which parts hardly wait for a remote after one has waited in vain, since work for other remotes comes
#: first, and how long they wait then: a part that may go on in the background does so before.
_NO_PATIENCE, _LITTLE_PATIENCE = 10.0, 0.1
#: Parts of a job that wait in a process, for each association that there may be: twice what a doubling needs.
_WAITING = 2
#: Seconds for which the answer to "does anybody wait?" stays valid.
_ANSWER_VALID = 0.02
#: Seconds for which the place of a refused association stays empty, so that a fleet does not storm a busy remote.
_REST = 1.0
#: Seconds for which the usual response time of a remote is remembered.
_RESPONSE_VALID = 5.0
#: How many associations a line begins with where opening one takes so many seconds or more.
_SLOW_LINE: Mapping[float, int] = {0.15: 12 * START, 0.1: 8 * START, 0.04: 4 * START}
#: Seconds to open an association after which the remote has too many of them.
_LONG_OPENING = 2.0

T = TypeVar("T")


def class_of(request: Request) -> LeaseClass:
    """The class of the leases for a request: whoever waits for a single answer waits for no other job."""
    single = not OPERATIONS[request.task].steps and not isinstance(request, GetRequest | MoveRequest)
    if request.priority is Priority.STAT or (single and request.priority is Priority.NORMAL):
        return LeaseClass.STAT
    return LeaseClass.BULK if request.priority is Priority.BULK else LeaseClass.NORMAL


class Lease:
    """The right to one association with a remote.

    Attributes
    ----------
    remote
        As :func:`pacs_tasks.fleet.leases.name_of` gives it.
    flow
        What is moved over the associations with the remote.
    stop
        The stop check of :meth:`watched`.
    seen
        When its holder last gave a sign of life.
    refusing
        The remote refuses associations for now, and has accepted none since.
    wanting
        All workers were asked to release idle associations for this one.
    yielding
        Its holder gives it back to others.
    """

    def __init__(self, request: Request, job_id: str, flow: Flow, quick: Callable[[], AssociationLeases]) -> None:
        self.remote = name_of(request.remote)
        self.limit = settings().limit(request.remote)
        self._holder = f"{platform.node().replace(' ', '-') or '-'} {os.getpid()} {uuid.uuid4().hex}"
        self.name = lease_name(class_of(request), job_id, self._holder)
        self.flow = flow
        self.refusing = self.wanting = self.yielding = False
        self.stop: StopCheck = lambda: False
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

        self.stop = check
        return check

    def unwatched(self) -> None:
        """Keep it without signs of life: its association is idle, and its keeper ends it in time."""
        self.seen = math.inf

    def prolong(self) -> None:
        """Renew it; called by the heartbeat's thread."""
        self._quick().renew(self.remote, [self.name], self.limit)

    def belongs_to(self, request: Request, job_id: str) -> bool:
        """Whether it is one for this job."""
        return self.name == lease_name(class_of(request), job_id, self._holder)

    def pass_on(self, request: Request, job_id: str) -> None:
        """Pass it on to another job, with its association."""
        before, self.name = self.name, lease_name(class_of(request), job_id, self._holder)
        # The heartbeat must not renew it under its name of before.
        heartbeat().forget(self)
        quickly(lambda: self._quick().rename(self.remote, before, self.name, self.limit))
        heartbeat().keep(self)

    def moved(self, instances: int, size: int, response: float | None = None) -> None:
        """Note what has been moved over its association; see :meth:`Flow.add`."""
        self.flow.add(self.name, self.limit, instances, size, response)

    def note(self, trouble: Trouble) -> None:
        """Note that the remote may have too many associations."""
        self.flow.report(self.limit, trouble)

    def must_yield(self) -> bool:
        """Whether its holder must give it back now, between two files, because somebody else has a better right."""
        if not self.yielding and (claims := self.flow.claims.get(group_of(self.name))):
            age = self.age
            if age >= min(claims):
                self.yielding = bool(quickly(lambda: self._quick().must_yield(self.remote, self.name, self.limit, age)))
                # Another one goes instead; the next report tells more.
                self.flow.claims = {}
        return self.yielding


class _Wait:
    """A wait for a lease, for so many seconds, or longer once it holds no process."""

    def __init__(self, patience: float) -> None:
        self._begun, self._patience = time.monotonic(), patience

    @property
    def left(self) -> float:
        """Seconds for which it goes on."""
        patience = _LONG_PATIENCE if background.current().detached else self._patience
        return self._begun + patience - time.monotonic()

    def slice(self, in_background: float = _SLICE) -> float:
        """Seconds until the next stop check."""
        return max(0.0, min(in_background if background.current().detached else _SLICE, self.left))


class _Line:
    """The tasks of this process that wait for a lease of the same remote and group: one at a time asks Redis."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def place(self) -> Iterator[Callable[[], bool]]:
        """A place in the line. Gives what says whether it is the first one."""
        place = object()
        with self.changed:
            self._waiting.append(place)
        try:
            yield lambda: self._waiting[0] is place
        finally:
            with self.changed:
                self._waiting.remove(place)
                self.changed.notify_all()

    def notify(self) -> None:
        with self.changed:
            self.changed.notify_all()


class Leases:
    """The leases of one process; safe in a pool of threads.

    Parameters
    ----------
    patient, quick
        Give a connection that repeats commands while Redis is unavailable for a moment, and one that sends each once.
    """

    def __init__(self, patient: Callable[[], redis.Redis], quick: Callable[[], redis.Redis]) -> None:
        self._patient = cache(lambda: AssociationLeases(patient()))
        self._quick = cache(lambda: AssociationLeases(quick()))
        self._tuning = cache(lambda: Tuning(quick()))
        self._lock = threading.Lock()
        #: By remote, until when parts do not wait for it.
        self._in_vain: dict[str, float] = {}
        #: By remote and question, until when the answer to "does anybody wait?" is valid, and that answer.
        self._wanted: dict[tuple[str, str], tuple[float, bool]] = {}
        #: By remote, until when its usual response time is valid, and that time.
        self._responses: dict[str, tuple[float, float]] = {}
        self._flows: dict[str, Flow] = {}
        #: Remotes on slow lines.
        self._slow: set[str] = set()
        self._lines: dict[str, dict[str, _Line]] = {}

    def flow(self, remote: str) -> Flow:
        """What this process moves over its associations with a remote."""
        with self._lock:
            return self._flows.setdefault(remote, Flow(remote, self._tuning))

    def response_time(self, remote: RemoteAE) -> float:
        """The seconds that a remote usually takes to respond; zero if that is not known. Seldom asks Redis."""
        name = name_of(remote)
        until, found = self._responses.get(name, (0.0, 0.0))
        now = time.monotonic()
        if now >= until:
            answer = quickly(lambda: self._tuning().response_time(name))
            found = answer or 0.0
            self._responses[name] = now + _RESPONSE_VALID, found
        return found

    def lease(
        self,
        request: Request,
        job_id: str,
        stop: StopCheck,
        before_waiting: Callable[[str], object],
        *,
        one_of_many: bool = False,
        instead: Callable[[], T | None] = lambda: None,
    ) -> Lease | T:
        """Lease an association with the remote of a request; wait a little if none is free.

        Parameters
        ----------
        before_waiting
            Called with the remote's name; releases what this process can do without.
        one_of_many
            The lease is for a part, which does not wait if another has just waited in vain.
        instead
            Gives what does as well, if it has become free meanwhile.

        Raises
        ------
        NoLeaseError
            If none became free.
        JobCancelledError
            If ``stop`` returned true meanwhile.
        """
        lease = Lease(request, job_id, self.flow(name_of(request.remote)), self._quick)
        in_vain = self._in_vain.get(lease.remote, 0.0) > time.monotonic()
        wait = _Wait(_LITTLE_PATIENCE if one_of_many and in_vain else _PATIENCE)
        with self._lock:
            line = self._lines.setdefault(lease.remote, {}).setdefault(group_of(lease.name), _Line())
        if one_of_many and len(line) >= _WAITING * lease.flow.limit:
            # It would only keep the parts of other jobs from coming to theirs.
            raise _busy(request.remote, lease)
        with line.place() as first:
            if not first():
                background.current().expect_wait()
            while not first():
                self._check_wait(request.remote, lease, stop, wait)
                with line.changed:
                    if not first():
                        line.changed.wait(wait.slice(_LONG_SLICE))
                if (found := instead()) is not None:
                    return found
            lease.refusing = self._wait_in_line(lease, request.remote, stop, wait, before_waiting)
        heartbeat().keep(lease)
        return lease

    def waiting(self, remote: str) -> int:
        """How many tasks of this process wait for a lease of a remote."""
        return sum(len(line) for line in list(self._lines.get(remote, {}).values()))

    def room(self, remote: str) -> int:
        """How many more associations there may be with a remote than there are; zero if Redis does not say."""
        return quickly(lambda: self._quick().room(remote)) or 0

    def spare(self, request: Request, job_id: str) -> Lease:
        """Lease an association that is free and that nobody waits for.

        Raises
        ------
        NoLeaseError
            If there is none.
        BrokerUnavailableError, redis.RedisError
            If Redis does not answer at once.
        """
        lease = Lease(request, job_id, self.flow(name_of(request.remote)), self._quick)
        try:
            if not self._quick().request(lease.remote, lease.name, lease.limit, wait=False, spare=True).granted:
                raise _busy(request.remote, lease)
        except (BrokerUnavailableError, redis.RedisError):
            # It may have been granted.
            self._release(lease)
            raise
        heartbeat().keep(lease)
        return lease

    def _wait_in_line(
        self,
        lease: Lease,
        remote: RemoteAE,
        stop: StopCheck,
        wait: _Wait,
        before_waiting: Callable[[str], object],
    ) -> bool:
        """Return when the lease is granted: whether the remote refuses associations now."""
        first = True
        try:
            while True:
                answer = self._patient().request(lease.remote, lease.name, lease.limit, wait=wait.left > 0 or first)
                if answer.granted:
                    return answer.refusing
                if first:
                    first = False
                    before_waiting(lease.remote)
                    _check_stop(remote, stop)
                else:
                    self._check_wait(remote, lease, stop, wait)
                if wait.left > 0:
                    self._patient().wait(lease.name, max(min(wait.slice(), answer.patience or _SLICE), 0.01))
        except BaseException:
            self._release(lease)
            raise

    def _check_wait(self, remote: RemoteAE, lease: Lease, stop: StopCheck, wait: _Wait) -> None:
        """Raise if the wait for a lease is over."""
        if wait.left <= 0:
            self._in_vain[lease.remote] = time.monotonic() + _NO_PATIENCE
            raise _busy(remote, lease)
        _check_stop(remote, stop)

    def notify(self, remote: str) -> None:
        """Have the tasks of this process that wait for a remote look for what does instead of a lease."""
        for line in list(self._lines.get(remote, {}).values()):
            line.notify()

    def give_back(self, lease: Lease) -> None:
        """Give a lease back whose association has ended."""
        heartbeat().forget(lease)
        self._release(lease)

    def _release(self, lease: Lease) -> None:
        quickly(lambda: self._quick().release(lease.remote, lease.name, lease.limit))

    def accepted(self, lease: Lease) -> None:
        """Record that the remote accepted the association."""
        if lease.refusing:
            quickly(lambda: self._quick().record_acceptance(lease.remote))
        if lease.wanting:
            # Otherwise every worker, this one too, would release its idle associations for another second.
            for key in [key for key in self._wanted if key[0] == lease.remote]:
                del self._wanted[key]
            quickly(lambda: self._quick().forget_wanted(lease.remote))

    def note_opening(self, lease: Lease, seconds: float) -> None:
        """Note how long it took to open an association."""
        if seconds > _LONG_OPENING:
            lease.note(Trouble.BUSY)
            return
        many = next((many for least, many in _SLOW_LINE.items() if seconds > least), 0)
        if many and lease.remote not in self._slow:
            self._slow.add(lease.remote)
            # Two round trips. The other processes learn from it that the remote is far.
            quickly(lambda: self._tuning().begin_with(lease.remote, min(many, lease.limit), seconds / 2))
            self._responses.pop(lease.remote, None)

    def refused(self, lease: Lease) -> None:
        """Record that the remote refused the association for now; the place stays empty for a moment."""
        heartbeat().forget(lease)
        quickly(lambda: self._quick().record_refusal(lease.remote, lease.name, lease.limit, _REST))
        lease.note(Trouble.REFUSED)

    def want(self, lease: Lease) -> None:
        """Ask all workers to release idle associations with a remote that may accept only one at a time."""
        lease.wanting = True
        quickly(lambda: self._quick().record_wanted(lease.remote))

    def wanted(self, remote: str) -> bool:
        """Whether somebody waits for a lease of this remote; does not ask Redis each time."""
        return self._known("wanted", remote, lambda: self._quick().wanted(remote))

    def wanted_elsewhere(self, remote: str) -> bool:
        """Whether somebody has been granted no lease and does not wait in line, or waits for the remote itself."""
        return self._known("elsewhere", remote, lambda: self._quick().wanted_elsewhere(remote))

    def _known(self, question: str, remote: str, read: Callable[[], bool]) -> bool:
        key = remote, question
        until, wanted = self._wanted.get(key, (0.0, False))
        now = time.monotonic()
        if now < until:
            return wanted
        answer = quickly(read)
        self._wanted[key] = now + (REDIS_SILENT if answer is None else _ANSWER_VALID), bool(answer)
        return bool(answer)


def _busy(remote: RemoteAE, lease: Lease) -> NoLeaseError:
    tuned = min(lease.flow.limit, lease.limit)
    return NoLeaseError(
        f"All associations that are worthwhile with {remote} are in use: {tuned}, of at most {lease.limit} "
        "(max_associations). Wait for the other jobs."
    )


def _check_stop(remote: RemoteAE, stop: StopCheck) -> None:
    if stop():
        raise JobCancelledError(f"The job was cancelled while it waited for an association with {remote}.")


#: Gives the leases of this process.
leases = background.per_process(lambda: Leases(lambda: ledger().client, quick_redis))
