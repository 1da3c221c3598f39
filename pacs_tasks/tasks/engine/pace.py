"""The pace of a remote, as a task keeps to it: its tokens, and the hours in which it takes bulk jobs.

A task takes tokens for as many instances as it sends in a tenth of a second. It waits half a second for them at most;
otherwise its association goes to others, and it comes again. Between the requests of a retrieve there is no association
to hold, so they wait in place. Outside the hours, a job is parked until the watch in :mod:`.claim` enqueues it again.

The pace is that of the worker's own settings, never that of a request.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.upper_layer.association import StopCheck
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.pace import NOTHING, Amount, HoursWait, HoursWaits, TokenBuckets
from pacs_tasks.request import Priority, Request
from pacs_tasks.settings import settings
from pacs_tasks.settings.pace import Pace
from pacs_tasks.tasks.engine.base import BROKER_AWAY, PartParkedError, PartPausedError, ledger

#: Seconds for which a task takes tokens at once: few enough to be exact, so that Redis is asked ten times a second.
_AT_ONCE = 0.1
#: The same for a request of a retrieve, which costs an association.
_REQUEST = 0.25
#: Instances for which it takes tokens at once: the more they are, the more a killed worker has taken in vain.
_MOST_AT_ONCE = 64
#: Seconds to wait in place.
_PATIENCE = 0.5
#: Seconds after which tokens are given back: together, those of many slow associations would be a burst.
_STALE = 1.0
#: Seconds of the pace that are taken before the work; the rest of a huge file or series is owed until the next time.
_MOST_BEFORE = 10.0
#: Seconds between two stop checks during a wait.
_SLICE = 0.25
#: Bytes of an instance of a remote that has delivered none yet: those of a CT image.
_USUAL_SIZE = 1 << 19

#: By remote, for how many instances tokens were taken at once at last, and the bytes of the last instance.
_at_once: dict[str, int] = {}
_sizes: dict[str, int] = {}


class Tokens:
    """The tokens of one task for the remotes that it works with; safe in one thread.

    Parameters
    ----------
    paces
        The pace of each remote, by its name.
    stop
        Ends a wait.
    on_wait
        Called with the pace when it makes the task wait for the first time.
    """

    def __init__(self, paces: dict[str, Pace], stop: StopCheck, on_wait: Callable[[Pace], None]) -> None:
        self._paces, self._stop, self._on_wait = paces, stop, on_wait
        self.name = next(iter(paces))
        self._buckets = TokenBuckets(ledger().client)
        self._clock = threading.Event()
        #: The bytes for which each token was taken.
        self._tokens: deque[int] = deque()
        self._taken, self._since, self._waited = 0, 0.0, False
        #: By remote, what was done without tokens; negative what is to be given back.
        self._owed = dict.fromkeys(paces, NOTHING)

    @property
    def at_once(self) -> int:
        """For how many instances to take tokens at once."""
        return _at_once.get(self.name, 1)

    def spend(self, size: int) -> bool:
        """Use a token for an instance of so many bytes; false if there is none."""
        if self._tokens and time.monotonic() - self._since > _STALE:
            self._give_back()
        if not self._tokens:
            return False
        _sizes[self.name] = size
        self.owe(Amount(0, size - self._tokens.popleft()))
        return True

    def return_one(self, size: int) -> None:
        """Take back the token of an instance that was not sent after all."""
        self._tokens.appendleft(0)
        self.owe(Amount(0, -size))

    def take(self, sizes: Sequence[int], left: int) -> float:
        """Take tokens for instances of these sizes, or for the first of them; wait for half a second at most.

        Parameters
        ----------
        left
            How many instances the task has to send in all.

        Returns
        -------
        Zero, or the seconds after which to ask again.
        """
        self._measure()
        some = self._some(sizes)
        wanted, wait, granted = self._before(some), 0.0, list[str]()
        rest = Amount(left, left * _sizes.get(self.name, 0))
        for name, pace in self._paces.items():
            reply = self._buckets.take(name, pace, wanted, self._owed[name], _PATIENCE, left=rest)
            self._owed[name] = NOTHING
            if reply.seconds and not self._waited:
                self._waited = True
                self._on_wait(pace)
            if not reply.granted:
                self._owed |= {other: self._owed[other] - wanted for other in granted}
                return reply.seconds
            granted.append(name)
            wait = max(wait, reply.seconds)
        self.owe(Amount(len(some), sum(some)) - wanted)
        self._clock.wait(wait)
        self._tokens.extend(some)
        self._taken, self._since = len(self._tokens), time.monotonic()
        return 0.0

    def acquire(self, number: int) -> None:
        """Have so many tokens, however long that takes; return early if the task must end."""
        while (missing := number - len(self._tokens)) > 0:
            left = self.take([0] * missing, missing)
            while left > 0:
                if self._stop():
                    return
                self._clock.wait(min(left, _SLICE))
                left -= _SLICE

    def use(self, number: int) -> None:
        """Use so many tokens at once."""
        for _ in range(min(number, len(self._tokens))):
            self._tokens.popleft()

    def owe(self, amount: Amount) -> None:
        """Count what was done without tokens."""
        if amount != NOTHING:
            self._owed = {name: owed + amount for name, owed in self._owed.items()}

    def close(self) -> None:
        """Give back what was not used, and count what is owed."""
        self._measure()
        self._give_back()
        with suppress(*BROKER_AWAY):
            for name, pace in self._paces.items():
                owed, self._owed[name] = self._owed[name], NOTHING
                if owed != NOTHING:
                    self._buckets.take(name, pace, NOTHING, owed, float("inf"))

    def list_size(self, seconds: float) -> int:
        """How many instances come in so many seconds, at least one."""
        size = _sizes.get(self.name, _USUAL_SIZE)
        rates = [pace.instances for pace in self._paces.values() if pace.instances]
        rates += [pace.bytes / max(size, 1) for pace in self._paces.values() if pace.bytes]
        return max(1, int(seconds * min(rates)))

    def _give_back(self) -> None:
        self.owe(NOTHING - Amount(len(self._tokens), sum(self._tokens)))
        self._tokens.clear()
        self._taken = 0

    def _measure(self) -> None:
        """Find out how many instances this task sends in the time of one request for tokens."""
        used = self._taken - len(self._tokens)
        if used:
            own = used / max(time.monotonic() - self._since, 0.001) * _AT_ONCE
            most = min(own, 2 * self.at_once, _MOST_AT_ONCE, self.list_size(_AT_ONCE))
            _at_once[self.name] = max(1, int(most))

    def _some(self, sizes: Sequence[int]) -> list[int]:
        """Those of the sizes that come in the time of one request for tokens, at least one."""
        rate = min((pace.bytes for pace in self._paces.values() if pace.bytes), default=None)
        if rate is None:
            return list(sizes)
        total = sum(size <= rate * _AT_ONCE for size in accumulate(sizes))
        return list(sizes[: max(1, total)])

    def _before(self, sizes: Sequence[int]) -> Amount:
        """What of these is taken before the work."""
        found = Amount(len(sizes), sum(sizes))
        for pace in self._paces.values():
            instances = min(found.instances, _MOST_BEFORE * (pace.instances or float("inf")))
            found = Amount(instances, min(found.bytes, _MOST_BEFORE * (pace.bytes or float("inf"))))
        return found


class Pacing:
    """The pace of one task.

    Parameters
    ----------
    job_id
        The job that is parked, and that shows its pace.
    paces
        The pace of each remote, by its name.
    bulk
        Whether the hours count.
    stop
        Ends a wait.

    Attributes
    ----------
    tokens
        None if only hours are set.
    """

    def __init__(self, job_id: str, paces: dict[str, Pace], stop: StopCheck, *, bulk: bool) -> None:
        self._job_id = job_id
        self._hours = {name: pace.hours for name, pace in paces.items() if pace.hours and bulk}
        limited = {name: pace for name, pace in paces.items() if pace.limited}
        self.tokens = Tokens(limited, stop, self._note) if limited else None
        #: The minute of the last check of the hours, and its result: the remote that is closed then.
        self._minute, self._closed = 0, ""
        self._pause = 0.0

    @property
    def closed(self) -> bool:
        """Whether the hours of a remote have ended."""
        if not self._hours:
            return False
        minute = int(time.time() // 60)
        if minute != self._minute:
            closed = (name for name, hours in self._hours.items() if not hours.hold(time.time()))
            self._minute, self._closed = minute, next(closed, "")
        return bool(self._closed)

    def admits(self, sizes: Sequence[int], index: int) -> bool:
        """Whether the instance of ``sizes[index]`` bytes may be sent now; waits half a second for that at most.

        Those that follow it come next.
        """
        if self.tokens is None or self.tokens.spend(sizes[index]):
            return True
        self._pause = self.tokens.take(sizes[index : index + self.tokens.at_once], len(sizes) - index)
        return not self._pause and self.tokens.spend(sizes[index])

    def not_sent(self, size: int) -> None:
        """Take back the token of an admitted instance that did not go out."""
        if self.tokens is not None:
            self.tokens.return_one(size)

    def begin(self, left: int, size: int = 0) -> None:
        """Check whether the task may begin with the first of its instances; errors as of :meth:`check`.

        Parameters
        ----------
        left
            How many instances it has to do.
        size
            The bytes of the first, if they are known.
        """
        self.check()
        if self.tokens is not None and (seconds := self.tokens.take([size], left)):
            raise PartPausedError(seconds)

    def check(self) -> None:
        """Check whether the task may go on.

        Raises
        ------
        PartParkedError
            If the hours have ended; the job waits for the next ones.
        PartPausedError
            If there were no tokens.
        """
        if self.closed:
            self._park()
            raise PartParkedError
        if self._pause:
            seconds, self._pause = self._pause, 0.0
            raise PartPausedError(seconds)

    def before_request(self, number: int) -> None:
        """Wait until the remote may be asked to deliver so many instances elsewhere."""
        if self.tokens is not None:
            self.tokens.acquire(number)
            self.tokens.use(number)

    def after_request(self, number: int, size: int) -> None:
        """Count the bytes of what has come; the next request waits for that."""
        if self.tokens is not None and number:
            _sizes[self.tokens.name] = size // number
            self.tokens.owe(Amount(0, size))

    def count(self, number: int) -> None:
        """Count instances that it has delivered although their number was unknown before the request."""
        if self.tokens is not None:
            self.tokens.owe(Amount(number))

    def arrived(self, size: int) -> None:
        """Hold the response to an instance that came by C-GET back, and with it the next instance."""
        if self.tokens is None:
            return
        if not self.tokens.spend(size):
            self.tokens.acquire(self.tokens.at_once)
            self.tokens.spend(size)

    def list_size(self, longest: int, *, waits_between: bool = True) -> int:
        """Give the most instances of one request.

        Parameters
        ----------
        longest
            The most without a pace.
        waits_between
            The waits are between the requests, as for C-MOVE, and not within them.
        """
        if self.tokens is None:
            return longest
        size = self.tokens.list_size(_REQUEST)
        return min(size, longest) if waits_between or size == 1 else longest

    def close(self) -> None:
        """Give back what was not used."""
        if self.tokens is not None:
            self.tokens.close()

    def _park(self) -> None:
        now, hours = time.time(), self._hours[self._closed]
        until = hours.begin(now)
        wait = HoursWait(self._job_id, self._closed, until)
        HoursWaits(ledger().client).add(wait, f"until {hours.written(until, now)}")

    def _note(self, pace: Pace) -> None:
        ledger().note_pace(self._job_id, str(pace))


#: The pace of a task for remotes without one.
UNPACED = Pacing("", {}, lambda: False, bulk=False)


@contextmanager
def paced(job_id: str, request: Request, stop: StopCheck) -> Iterator[Pacing]:
    """The pace of a job with a single answer, whose block begins when the pace allows it; errors as of ``begin``."""
    pacing = pacing_of(job_id, request, stop)
    pacing.begin(1)
    try:
        yield pacing
    finally:
        pacing.close()


def pacing_of(job_id: str, request: Request, stop: StopCheck, others: Iterable[RemoteAE] = ()) -> Pacing:
    """The pace of a request for its remote and others; :data:`UNPACED` if this worker's settings have none."""
    config = settings()
    found = {name_of(remote): config.pace(remote) for remote in (request.remote, *others)} if config.remotes else {}
    bulk = request.priority is Priority.BULK
    paces = {name: pace for name, pace in found.items() if pace is not None and (pace.limited or bulk)}
    return Pacing(job_id, paces, stop, bulk=bulk) if paces else UNPACED
