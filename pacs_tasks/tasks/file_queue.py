"""The files of a part that fit one association, and their way over it, or over several where the line is slow.

Over a slow line an association waits for nearly all of its time. A part calls *helpers* there: each takes files from
the part's queue over an association of its own, in a thread of its own, as long as there are associations that nobody
else waits for. So a part costs its task, its claim and its ticket once for several associations, and what is left at
the end of a job is shared by all of them. How long the remote takes to answer shows whether another association is
worthwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections import ChainMap, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import ClassVar, Self

import redis

from pacs_tasks.dimse import c_echo, c_store
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import (
    AssociationError,
    BrokerUnavailableError,
    ContextRejectedError,
    JobCancelledError,
    PacsTasksError,
    PeerBusyError,
    PeerStalledError,
    PeerUnavailableError,
    PeerUnreachableError,
    UnreadableInputError,
)
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.tuning import Trouble
from pacs_tasks.journal import tracing
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, StatusCategory
from pacs_tasks.request import StoreDirectoryRequest, StorePathsRequest, StoreRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine.associations import Loss, idle_associations, leased
from pacs_tasks.tasks.engine.base import PartPausedError, local_ae, timeouts
from pacs_tasks.tasks.engine.leases import leases
from pacs_tasks.tasks.engine.lines import LineQueue
from pacs_tasks.tasks.engine.pace import UNPACED
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.engine.permissions import check_file, check_source
from pacs_tasks.tasks.verify.inventory import is_duplicate, resolve_duplicates

#: Seconds that the remote usually takes to respond with which helpers need not wait for the first association.
_VERY_FAR = 0.05
#: Associations that helpers of a part may lose before it calls no more.
_LOST_HELPERS = 2
_STORED = (InstanceCategory.SUCCESS, InstanceCategory.WARNING)
#: Helpers that a part has at once, and the files that there are for each at least.
_HELPERS, _FEWEST_FILES = 2, 4
#: Seconds after which a part that got no association for a helper asks for the next one.
_ASK_AGAIN = 0.2
#: Remotes of which one process remembers how fast they answer.
_MOST_REMOTES = 1_000
#: Seconds of a round trip, or of each of so many answers, with which a remote is worth helpers. On a line of 20 ms two
#: cores are busy with as many associations as there are parts.
FAR, _FEW = 0.04, 5
#: How many times as long as the fastest ones of their size answers may take: else the remote, or this process, is busy.
#: Each counts so much in that average. The fastest ones grow with each answer, since lines and remotes change.
_BUSY, _LATE, _FORGET = 1.25, 0.1, 1.003
#: Seconds that the remote may take for a C-ECHO, or for a file at which an association was lost, at least.
LEAST_PATIENCE = 5.0

AnyStoreRequest = StoreRequest | StoreDirectoryRequest | StorePathsRequest


class Answers:
    """How long a remote takes to answer, as this process has seen it.

    Attributes
    ----------
    number
        Files that it has answered.
    slowest
        The most seconds that one took.
    """

    def __init__(self) -> None:
        self.number, self.slowest = 0, 0.0
        #: The fewest seconds that a file took, by the binary logarithm of its size.
        self._fastest: dict[int, float] = {}
        #: How many times as long as that they take of late.
        self._stretch = 1.0

    def note(self, seconds: float, size: int | None) -> None:
        """Note an answer to a file of so many bytes; None if it says nothing of the speed of the remote."""
        self.number, self.slowest = self.number + 1, max(self.slowest, seconds)
        # The clock of this machine may have been set.
        if size is not None and seconds > 0:
            kind = size.bit_length()
            self._fastest[kind] = min(_FORGET * self._fastest.get(kind, math.inf), seconds)
            self._stretch += _LATE * (seconds / self._fastest[kind] - self._stretch)

    def allow_another(self, round_trip: float) -> bool:
        """Whether another association is worthwhile: one waits for the line or the remote, and neither is busy."""
        far = round_trip >= FAR or (self.number >= _FEW and min(self._fastest.values(), default=0.0) >= FAR)
        return far and self._stretch <= _BUSY


#: By remote.
_answers: dict[str, Answers] = {}


def answers_of(remote: str) -> Answers:
    if remote not in _answers and len(_answers) >= _MOST_REMOTES:
        _answers.clear()
    return _answers.setdefault(remote, Answers())


class FileQueue(LineQueue[StoredInstance]):
    """The files of a part that fit one association."""

    service: ClassVar[str] = "C-STORE"
    request: AnyStoreRequest
    #: Whether the remote has answered a C-ECHO just before.
    echoed = False

    def __init__(
        self,
        part: Part[FileLine],
        request: AnyStoreRequest,
        contexts: Sequence[Context],
        queue: Mapping[int, StoredInstance],
        patience: float | None = None,
    ) -> None:
        super().__init__(part, request, contexts, queue, patience)
        #: Instances whose own syntax was refused, and for whose other ones the association had no context.
        self.refused: dict[int, StoredInstance] = {}
        self.duplicates: dict[int, InstanceOutcome] = {}
        self._remote_name = name_of(self.request.remote)
        self._index_of: dict[str, int] = {}
        self._waiting: deque[int] = deque()
        self._taking = threading.Lock()
        self._helpers: list[_Helper] = []
        self._ask_again, self._lost_helpers = 0.0, 0
        #: What the remote has accepted of these contexts on the last association.
        self.accepted: frozenset[tuple[str, str]] = frozenset()
        #: Seconds that connecting took.
        self._round_trip = 0.0

    def must_stop(self) -> bool:
        """Whether to stop waiting for the remote: once helpers have done all files, this queue needs no association."""
        return self.part.claim.overdue() or not self.queue

    def work(self) -> None:
        """Send the files, then find out which of those that the remote rejected as duplicates are there."""
        try:
            self._send()
        except PartPausedError:
            # At a slow pace, the files that are rejected each time would never let the part come to the others.
            self._resolve_duplicates()
            raise
        self._resolve_duplicates()

    def _send(self) -> None:
        returned: Mapping[int, StoredInstance] = self.queue
        while returned and self.queue:
            self.offer_all()
            try:
                super().work()
            except BaseException:
                self._end_helpers()
                raise
            helpers = self._end_helpers()
            for error in (each.error for each in helpers if each.error is not None):
                raise error
            # If this queue has ended with files left, the part comes again for these, too.
            returned = {} if self.queue else ChainMap(*(each.queue for each in helpers))
            self.queue |= returned

    def opening(self) -> None:
        """Have helpers open their associations beside this one, if the remote usually takes long."""
        self._round_trip = leases().response_time(self.request.remote)
        if self._round_trip >= _VERY_FAR:
            self._call_helpers()

    def offer_all(self) -> None:
        """Let helpers take any file that is left."""
        with self._taking:
            self._waiting = deque(self.queue)

    def _withdraw_all(self) -> None:
        """Let helpers take no more files."""
        with self._taking:
            self._waiting.clear()

    def _fail_rest(self, error: PacsTasksError) -> None:
        self._withdraw_all()
        super()._fail_rest(error)

    def _end_helpers(self) -> Sequence[_Helper]:
        """Wait for the helpers; gather what they found out."""
        self._withdraw_all()
        ended, self._helpers = self._helpers, []
        for helper in ended:
            helper.thread.join()
            self.refused |= helper.refused
            self.duplicates |= helper.duplicates
        return ended

    def _call_helpers(self) -> None:
        """Have helpers share the rest of the files, if this association waits for most of its time."""
        if time.monotonic() < self._ask_again or not self._may_have_helpers():
            return
        waiting, active = len(self._waiting), sum(helper.thread.is_alive() for helper in self._helpers)
        # Each helper costs as much as some files, except where associations are left over at the end of a job.
        worthwhile = min(_HELPERS, waiting // _FEWEST_FILES) - active
        left_over = 0 if leases().waiting(self._remote_name) else idle_associations.count(self.request, self.contexts)
        if worthwhile > left_over:
            free = left_over + leases().room(self._remote_name)
        else:
            worthwhile = free = min(left_over, waiting // 2)
        if worthwhile > 0 and not free:
            self.none_free()
        for _ in range(min(worthwhile, free)):
            if (helper := _Helper.of(self)) is None:
                self.none_free()
                return
            self._helpers.append(helper)

    def _may_have_helpers(self) -> bool:
        careful = self.part.alone or self.part.pacing is not UNPACED or self.part.claim.deaths
        lost = self._lost_helpers >= _LOST_HELPERS
        return not careful and not lost and answers_of(self._remote_name).allow_another(self._round_trip)

    def none_free(self) -> None:
        """Note that there is no association for a helper now."""
        self._ask_again = time.monotonic() + _ASK_AGAIN

    def count_lost_helper(self) -> None:
        """Count an association that a helper has lost: the remote may bear only one."""
        self._lost_helpers += 1

    def give(self) -> tuple[int, StoredInstance] | None:
        """Give up a file that nobody has begun to a helper."""
        return self._take(self.queue.pop)

    def may_give(self) -> bool:
        """Whether there is a file that nobody has begun, and time for it."""
        return bool(self._waiting) and not self.part.must_end()

    def next_file(self) -> tuple[int, StoredInstance] | None:
        """The next file that nobody has begun."""
        return self._take(self.queue.__getitem__)

    def _take(self, find: Callable[[int], StoredInstance]) -> tuple[int, StoredInstance] | None:
        with self._taking:
            if not self._waiting:
                return None
            index = self._waiting.popleft()
            return index, find(index)

    def _resolve_duplicates(self) -> None:
        try:
            resolved = resolve_duplicates(self.duplicates, self.request, self.part.job_id, self.part.must_end)
        except JobCancelledError:
            self.part.check_end()
            raise
        for index, outcome in resolved.items():
            self.part.record(index, self._named(index, outcome))

    def step(self, assoc: Association) -> None:
        """Send all files; several may be in progress at once."""
        self._round_trip, self.accepted = assoc.wire.round_trip, self._accepted_on(assoc)
        self.offer_all()
        for instance, outcome in c_store.store_all(
            assoc,
            self._until_the_end(),
            digest=settings().sha256,
            transcode=self.request.transcode,
            priority=self.request.priority,
        ):
            index = self._index_of[instance.path]
            del self.queue[index]
            if outcome.begun:
                # A file that is refused often was not read.
                size = instance.size if outcome.category in _STORED else None
                answers_of(self._remote_name).note(outcome.ended - outcome.begun, size)
            self._note_moved(instance, outcome)
            if not outcome.begun:
                self.part.pacing.not_sent(instance.size)
            if c_store.may_be_converted(assoc, instance, outcome, self.request.transcode):
                self.unanswered.discard(index)
                self.refused[index] = instance
            elif is_duplicate(outcome):
                self.unanswered.discard(index)
                self.duplicates[index] = self._named(index, outcome)
            elif not self.try_later(index, outcome.status):
                # After a cancel, the answers for the files in progress still count.
                with suppress(JobCancelledError):
                    self.part.record(index, self._named(index, outcome))

    def _accepted_on(self, assoc: Association) -> frozenset[tuple[str, str]]:
        """Which of the abstract and transfer syntaxes of this queue an association is for."""
        offered = ((each.abstract_syntax, syntax) for each in self.contexts for syntax in each.transfer_syntaxes)
        return frozenset(pair for pair in offered if pair in assoc.accepted_contexts)

    def _note_moved(self, instance: StoredInstance, outcome: InstanceOutcome) -> None:
        if self.lease is not None and outcome.begun:
            self.lease.moved(1, instance.size, outcome.ended - outcome.begun)
            if outcome.status is not None and outcome.status.category is StatusCategory.TRANSIENT:
                self.lease.note(Trouble.BUSY)

    def _named(self, index: int, outcome: InstanceOutcome) -> InstanceOutcome:
        """The outcome of a file in an archive has its name there."""
        subject = self.part.left[index].subject
        return outcome if outcome.subject == subject else outcome.model_copy(update={"subject": subject})

    def _put_aside(self, error: PeerUnavailableError) -> None:
        # Without a file that was sent, none is to blame, and helpers may have taken the others.
        if self.unanswered:
            super()._put_aside(error)

    def failure(self, index: int, error: PeerUnavailableError) -> PeerUnavailableError | None:
        """Fail a file after two tries if the remote answers a C-ECHO before and after the second one.

        At some files it aborts each time. Where the connection just broke, the line may be at fault.
        """
        losses = self.part.lost[index]
        at_fault = self.echoed and losses > 1 and not error.broken and self._answers()
        if super().failure(index, error) is None and not at_fault:
            return None
        return PeerStalledError(
            f"{self.request.remote} ended the association at this file {losses} times, or stayed silent, at last when "
            "the file was sent alone. Check the log of the PACS, and the file, for example with a validator. "
            f"Last error: {error.message}"
        )

    def falls_silent(self) -> bool:
        """Whether the remote accepts an association and answers no C-ECHO: what it did at a file then says nothing."""
        try:
            self._echo()
        except (PeerBusyError, PeerUnreachableError):
            # The opening of the association for the file tells what to do.
            return False
        except AssociationError:
            return True
        self.echoed = True
        return False

    def _answers(self) -> bool:
        """Whether the remote answers a C-ECHO, so that the file is at fault and not the remote or the line."""
        try:
            self._echo()
        except AssociationError:
            return False
        return True

    def _echo(self) -> None:
        request = self.request
        limits = Timeouts.of(min(timeouts(request).dimse, LEAST_PATIENCE))
        with leased(request, self.part.job_id, self.part.claim.overdue) as lease, suppress(ContextRejectedError):
            c_echo.echo(local_ae(request), request.remote, limits, lease.stop)

    def lost_error(self, error: PeerUnavailableError) -> PeerUnavailableError:
        """The remote was reached, so it does not count as unreachable."""
        return PeerStalledError(error.message)

    def _until_the_end(self) -> Iterator[StoredInstance]:
        """The files in order, until the part must end or come again, or others need the association."""
        pacing = self.part.pacing
        # Without a pace, helpers may change the queue meanwhile.
        sizes = [] if pacing is UNPACED else [instance.size for instance in self.queue.values()]
        for place in count():
            if self.part.must_end() or self.part.slice_over() or self.must_yield():
                return
            self._call_helpers()
            if (found := self.next_file()) is None:
                return
            index, instance = found
            try:
                if packed_in := self.part.left[index].archive:
                    check_source(packed_in)
                else:
                    check_file(instance.path)
            except UnreadableInputError as error:
                # A link was changed since the file was read.
                del self.queue[index]
                self.part.fail(index, error)
                continue
            if not pacing.admits(sizes, place):
                return
            self.unanswered.add(index)
            self._index_of[instance.path] = index
            self.part.begin(index)
            yield instance

    def pop(self, index: int | None = None) -> int:
        """Remove a file, or else the first one; give its index."""
        with self._taking:
            found = super().pop(index)
            with suppress(ValueError):
                self._waiting.remove(found)
            return found


class _Helper(FileQueue):
    """What sends files of another queue over one association more.

    Attributes
    ----------
    thread
        Its own thread.
    error
        What ended it, which ends the part.
    """

    spare: ClassVar[bool] = True

    def __init__(self, helped: FileQueue) -> None:
        self._helped = helped
        super().__init__(helped.part, helped.request, helped.contexts, {}, helped.patience)
        self.error: BaseException | None = None
        self.thread = threading.Thread(
            target=background.in_task_of(self.part.task, self._run), name="helper", daemon=True
        )

    def must_stop(self) -> bool:
        """Whether to stop waiting for the remote: also while it opens an association for which no file is left."""
        return self.part.claim.overdue() or (self.lease is None and not self._helped.may_give())

    @classmethod
    def of(cls, helped: FileQueue) -> Self | None:
        """Begin to help; nothing if this process has enough of them."""
        if not background.begin_help(settings().associations_per_process):
            return None
        helper = cls(helped)
        try:
            helper.thread.start()
        except RuntimeError:
            # This machine has no thread left.
            background.end_help()
            return None
        return helper

    def _run(self) -> None:
        try:
            self._help()
        except BaseException as error:  # noqa: BLE001 - the part's own thread raises it
            self.error = error
        finally:
            background.end_help()

    def _help(self) -> None:
        try:
            with tracing.span(settings().traces, self.service, **self._about()), self._session:
                self._session.attempt(self.step, self._lost)
        except (AssociationError, BrokerUnavailableError, JobCancelledError, redis.RedisError) as error:
            if self.lease is None:
                # It has taken nothing. What ends the part, the part's own thread finds as well.
                self._helped.none_free()
            elif isinstance(error, AssociationError):
                self._fail_rest(error)
            else:
                raise

    def _about(self) -> dict[str, str | int]:
        return {"remote": self._remote_name}

    def step(self, assoc: Association) -> None:
        """Send files of the other queue, if the remote accepts as much on this association as on that one."""
        accepted, offered = self._accepted_on(assoc), {each.abstract_syntax for each in self.contexts}
        # While the other one is being opened, as much as was proposed.
        if accepted >= self._helped.accepted and (self._helped.accepted or offered <= {each for each, _ in accepted}):
            super().step(assoc)
        else:
            self._helped.none_free()

    def next_file(self) -> tuple[int, StoredInstance] | None:
        """The next file of the other queue."""
        found = self._helped.give()
        if found is not None:
            self.queue[found[0]] = found[1]
        return found

    def _call_helpers(self) -> None:
        """A helper calls none."""

    def _lost(self, loss: Loss) -> None:
        if loss.opened:
            self._put_aside(loss.error)
            self._helped.count_lost_helper()
        else:
            self._helped.none_free()
