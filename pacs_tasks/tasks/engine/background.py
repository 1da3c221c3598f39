"""The bodies of tasks, each in a thread, so that a task that waits for a remote gives its process back.

A remote that is slow or silent costs time, but no CPU. Were its task to hold one of the few processes of a worker, an
echo to another remote would wait behind it. So the body of a task runs in a thread, and the task's own thread watches
it (:func:`run`). A body that waits while other messages do is detached: its task ends by a *ticket*, a message with the
same task id that comes again in a moment, and the body goes on in the background with its claim and its lease. When the
ticket comes, it finds the claim held, and comes again, or it finds the work done, and ends the task. If the process
dies, the ticket finds that the claim has expired, and does the rest.

A body whose task has ended publishes nothing but its ticket once more, for the moment at which there is something to
do. It asks :meth:`Body.keep` before it publishes, so that it is not detached meanwhile.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from celery import Task
from celery._state import _task_stack
from celery.exceptions import SoftTimeLimitExceeded

from pacs_tasks.app import LONGEST_TASK
from pacs_tasks.journal.logs import work_on, worked_on

#: Seconds after which a body may be detached, and between two looks at it.
_SOON = 0.25
_LOOK = 0.02
#: The same once nobody could use its place: the end of another body is looked at in any case.
_LONGEST_LOOK = 0.1
#: A body waits if it uses less than this part of its time.
_LITTLE_CPU = 0.25
#: Seconds within which a near remote responds: a body for another one is detached at once. Else each would keep its
#: process from the next one for :data:`_SOON`, and a process would begin four parts a second.
_NEAR = 0.015
#: Remotes of which one process remembers how far they are.
_MOST_REMOTES = 1_000
#: How much longer than the one before the opening of an association may be.
_STRETCH = 1.5
#: Threads without a body that a process keeps for the next ones.
_SPARE_THREADS = 4

T = TypeVar("T")


def per_process(make: Callable[[], T]) -> Callable[[], T]:
    """Give what returns an object of this process: a forked child has neither that of its parent nor its lock."""
    made: dict[int, T] = {}

    def of_this_process() -> T:
        found = made.get(os.getpid())
        return made.setdefault(os.getpid(), make()) if found is None else found

    return of_this_process


class Body:
    """A running body, which works on a job."""

    def __init__(self, call: Callable[[], Any], job_id: str) -> None:
        self.job_id = job_id
        #: The remote that it works with, once it does.
        self.remote = ""
        #: Its task has ended, and when.
        self.detached = False
        self._detached_at = math.inf
        #: It shall end early; its ticket does the rest.
        self.must_end = False
        #: Celery has called the end of its time.
        self.overdue = False
        #: No other body shall run in its process.
        self.alone = False
        #: It is not detached any more.
        self.kept = False
        self._ended = False
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._changing = threading.Lock()
        #: Whatever wakes the task's thread: the end of the body, or that it begins to wait for a far or slow remote,
        #: or for its turn.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._waits = False
        self._begun = time.monotonic()
        self._clock: int | None = None
        self._cpu = 0.0

    def run(self) -> None:
        """Run it; called by its thread."""
        if sys.platform != "win32" and hasattr(time, "pthread_getcpuclockid"):
            self._cpu = time.thread_time()
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - the task's own thread raises it
            self._error = error
        with self._changing:
            self._ended = True

    def wake(self) -> None:
        self._news.put(None)

    def wait(self, seconds: float | None) -> bool:
        """Wait for its end or for news; whether it has ended."""
        with suppress(Empty):
            self._news.get(timeout=seconds)
        return self._ended

    def outcome(self) -> Any:
        """What it returned, or raise what it raised."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._value
        finally:
            # Otherwise the error holds this frame, and this frame the error.
            del error

    def waits(self) -> bool:
        """Whether it waits: it has used little of its time, or begins to wait for a far or slow remote or its turn."""
        elapsed = time.monotonic() - self._begun
        return self._waits or (elapsed >= _SOON and self._waits_mostly(elapsed))

    def ask(self) -> bool:
        """Ask to be detached, which it may be in a moment; false if it does not wait, or has asked before."""
        asks = not (self._waits or self.kept) and self._waits_mostly(time.monotonic() - self._begun)
        if asks:
            self.expect_wait()
        return asks

    def _waits_mostly(self, elapsed: float) -> bool:
        if sys.platform != "win32" and self._clock is not None:
            return time.clock_gettime(self._clock) - self._cpu < _LITTLE_CPU * elapsed
        return True

    def check_time(self) -> None:
        """Raise :class:`SoftTimeLimitExceeded` if its task is beyond Celery's limit, or would be had it not ended."""
        if self.overdue or (self.detached and time.monotonic() - self._begun > LONGEST_TASK):
            raise SoftTimeLimitExceeded

    def expect_wait(self) -> None:
        """Note that it begins to wait for a far or slow remote or its turn: it is detached at once if it may be."""
        if not self._waits:
            self._waits = True
            self.wake()

    def keep(self) -> bool:
        """Have it not detached any more, so that it may publish; false if its ticket is published."""
        with self._changing:
            self.kept = not self.detached
            return self.kept

    def detach(self) -> bool:
        """Detach it; false if it has ended or is to be kept."""
        with self._changing:
            self.detached = not (self._ended or self.kept)
            self._detached_at = time.monotonic()
            return self.detached

    def detached_for(self) -> float:
        """For how many seconds its task has ended, if it has."""
        return time.monotonic() - self._detached_at


class _Threads:
    """The threads of one process, and the bodies that they run."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.bodies: set[Body] = set()
        #: Further threads of bodies that work with remotes.
        self.helpers = 0
        self._due: SimpleQueue[Body] = SimpleQueue()
        self._spare = 0

    def start(self, body: Body) -> None:
        with self.changed:
            self.bodies.add(body)
            spare = self._spare > 0
            self._spare -= spare
        if not spare:
            threading.Thread(target=self._serve, name="task", daemon=True).start()
        self._due.put(body)

    def _serve(self) -> None:
        more = True
        while more:
            body = self._due.get()
            with part_of(body):
                body.run()
            with self.changed:
                self.bodies.discard(body)
                more = self._spare < _SPARE_THREADS
                self._spare += more
                self.changed.notify_all()
                others = [each for each in self.bodies if not each.detached]
            body.wake()
            for each in others:
                # What this one used is free.
                each.wake()
            del body


class _Here(threading.local):
    """What the current thread runs: a body, or nothing that could be detached."""

    def __init__(self) -> None:
        self.body = Body(lambda: None, "")
        self.body.kept = True


_here = _Here()
#: By remote, the seconds that it took to open an association.
_distances: dict[str, float] = {}
#: By remote, the idle associations of this process.
_idle: Counter[str] = Counter()
_threads = per_process(_Threads)


def run(call: Callable[[], Any], job_id: str, may_detach: Callable[[str], bool], ticket: Callable[[], Any]) -> Any:
    """Run a body in a thread of this process, and wait for its end, or until it is detached.

    Parameters
    ----------
    may_detach
        Whether a body that waits may be detached now; called with the remote that it works with, if it does.
    ticket
        Ends the task of a detached body so that it comes again: it raises.
    """
    body = Body(call, job_id)
    _threads().start(body)
    pause = _SOON
    try:
        while not body.wait(pause):
            waits = not body.kept and body.waits()
            if waits and may_detach(body.remote) and body.detach():
                break
            pause = min(2 * pause, _LONGEST_LOOK) if waits and pause != _SOON else _LOOK
    except SoftTimeLimitExceeded:
        body.overdue = True
        while not body.wait(None):
            pass
    except BaseException:
        # The process has been ordered to end.
        body.must_end = True
        raise
    return ticket() if body.detached else body.outcome()


def in_background(job_id: str = "") -> int:
    """How many detached bodies this process has, of one job or of all."""
    threads = _threads()
    with threads.changed:
        return sum(each.detached and job_id in {"", each.job_id} for each in threads.bodies)


def current() -> Body:
    """The current body; one that is never detached where the thread runs none."""
    return _here.body


@contextmanager
def part_of(body: Body) -> Iterator[None]:
    """Have this thread count as one of a body's for the block."""
    before, _here.body = _here.body, body
    try:
        yield
    finally:
        _here.body = before


@contextmanager
def running(task: Task, request: Any, work: dict[str, str]) -> Iterator[None]:
    """Have this thread run a task for the block: Celery knows the running task of each thread."""
    work_on(work)
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _task_stack.pop()
        work_on({})


def in_task_of(task: Task, call: Callable[[], object]) -> Callable[[], None]:
    """Give what runs ``call`` in another thread as a part of the running task."""
    request, work, body, context = task.request_stack.top, worked_on(), current(), copy_context()

    def run_call() -> None:
        with running(task, request, work), part_of(body):
            call()

    return partial(context.run, run_call)


def begin_help(most: int) -> bool:
    """Whether the current body may use one thread more, of so many in this process; :func:`end_help` follows."""
    threads = _threads()
    with threads.changed:
        # Where each process has one association, bodies run in the threads of their tasks.
        free = max(1, len(threads.bodies)) + threads.helpers < most
        threads.helpers += free
        return free


def end_help() -> None:
    """Note the end of a thread that :func:`begin_help` allowed."""
    threads = _threads()
    with threads.changed:
        threads.helpers -= 1


def end_all(
    seconds: float, which: Callable[[Body], bool] = lambda _: True, sign_of_life: Callable[[], object] = lambda: None
) -> bool:
    """Have all bodies of this process, or some, end early, and wait; false if some still run after so many seconds."""
    threads, deadline = _threads(), time.monotonic() + seconds
    while True:
        with threads.changed:
            others = [each for each in threads.bodies if which(each)]
            for each in others:
                each.must_end = True
            if not others or time.monotonic() >= deadline:
                return not others
            threads.changed.wait(_SOON)
        sign_of_life()


def be_alone(seconds: float, sign_of_life: Callable[[], object]) -> bool:
    """Have the current body be the only one of its process, which it may kill; false if it is in the background.

    What stays for so many seconds stays. ``sign_of_life`` is called now and then.
    """
    mine = current()
    mine.alone = mine.keep()
    if mine.alone:
        end_all(seconds, lambda each: each is not mine and not each.alone, sign_of_life)
    return mine.alone


def note_distance(remote: str, seconds: float) -> None:
    """Note how long it took to open an association with a remote."""
    if len(_distances) >= _MOST_REMOTES:
        _distances.clear()
    # What else made it long is no distance.
    _distances[remote] = min(seconds, _STRETCH * _distances.get(remote, seconds))


def distance(remote: str) -> float:
    """How many seconds it took to open the last association with a remote; zero if that is not known."""
    return _distances.get(remote, 0.0)


def note_idle(remote: str, change: int) -> None:
    """Note that this process has so many more idle associations with a remote."""
    with _threads().changed:
        _idle[remote] += change
        if not _idle[remote]:
            del _idle[remote]


def has_idle(remote: str) -> bool:
    """Whether this process has an idle association with a remote."""
    return _idle[remote] > 0


def expect_to_wait(remote: str, response_time: float = 0.0) -> None:
    """Have the current body detached at once, if it may be, where the remote is known to be far or slow.

    So it is, too, where another body of this process waits for it in the background. A remote that is silent accepts an
    association at once, as if it were near: else each part for it would keep its process for :data:`_SOON`.
    ``response_time`` is in seconds.
    """
    body = current()
    body.remote = remote
    # Opening an association takes two round trips.
    if max(distance(remote) / 2, response_time) > _NEAR or _waited_for(remote):
        body.expect_wait()


def _waited_for(remote: str) -> bool:
    threads = _threads()
    with threads.changed:
        return any(each.detached and each.remote == remote for each in threads.bodies)
