"""The operations: one row each, with everything that the rooms need to know about it.

A new operation is a row here, its request and outcome, the task that does it, and its command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pacs_tasks.outcome import (
    CommitOutcome,
    EchoOutcome,
    FindOutcome,
    GetOutcome,
    MoveOutcome,
    Outcome,
    PreflightOutcome,
    TransferOutcome,
    VerifyOutcome,
)
from pacs_tasks.request import (
    AnyRequest,
    CommitRequest,
    EchoRequest,
    FindBatchRequest,
    FindRequest,
    GetRequest,
    MoveRequest,
    PreflightRequest,
    Priority,
    RetrieveRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    VerifyRequest,
)

#: The queues have names of our own: a worker of another application on the same Redis discards tasks that it does not
#: know.
STORE_QUEUE = "pacs_tasks.store"
FIND_QUEUE = "pacs_tasks.find"
MOVE_QUEUE = "pacs_tasks.move"
QUEUES = (STORE_QUEUE, FIND_QUEUE, MOVE_QUEUE)

#: The priorities of messages that kombu tells apart in Redis, the highest first. It keeps a list for each.
MESSAGE_PRIORITIES = (0, 3, 6, 9)


def queue_key(queue: str, priority: int) -> str:
    """Give the list in Redis that holds the messages of a priority, as kombu names it."""
    step = max(each for each in MESSAGE_PRIORITIES if each <= max(priority, 0))
    return f"{queue}\x06\x16{step}" if step else queue


#: The lists in Redis of all queues, those of the highest priority first.
QUEUE_KEYS = tuple(queue_key(queue, priority) for priority in MESSAGE_PRIORITIES for queue in QUEUES)

#: The key of messages that workers have taken and not acknowledged.
UNACKED = "pacs_tasks.unacked"

#: The priority of the messages of a job's parts.
PART_PRIORITIES: Mapping[Priority, int] = MappingProxyType({Priority.STAT: 3, Priority.NORMAL: 6, Priority.BULK: 9})

#: Where instances go: to the remote, from it to us, or from it to another AE.
DIRECTIONS = ("sent", "received", "forwarded")

#: Shown instead of arguments in events, Flower and logs: they may hold paths and patient data.
HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, with the words that people know it by."""

    #: What goes to the worker and what comes back. ``request.task`` is the name of the public task.
    request: type[AnyRequest]
    outcome: type[Outcome]
    #: The queue of its tasks.
    queue: str
    #: The command that runs it.
    command: str
    #: What it has done with an item that succeeded.
    done: str = "done"
    #: The heading of a column of items.
    item: str = "File or instance"
    #: The internal tasks of its jobs. They share its queue.
    steps: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The name of the public task."""
        return self.request.task


_ROWS = (
    Operation(EchoRequest, EchoOutcome, FIND_QUEUE, "echo"),
    Operation(StoreRequest, TransferOutcome, STORE_QUEUE, "send-file", "sent"),
    Operation(
        StoreDirectoryRequest,
        TransferOutcome,
        STORE_QUEUE,
        "send-dir",
        "sent",
        steps=("pacs_tasks.store_part", "pacs_tasks.store_finish"),
    ),
    Operation(
        StorePathsRequest,
        TransferOutcome,
        STORE_QUEUE,
        "send",
        "sent",
        steps=("pacs_tasks.store_paths_part", "pacs_tasks.store_paths_finish"),
    ),
    Operation(PreflightRequest, PreflightOutcome, FIND_QUEUE, "send-dir --dry-run"),
    Operation(FindRequest, FindOutcome, FIND_QUEUE, "query"),
    Operation(
        FindBatchRequest,
        TransferOutcome,
        FIND_QUEUE,
        "query --batch",
        "answered",
        "Row",
        steps=("pacs_tasks.find_batch_part", "pacs_tasks.find_batch_finish"),
    ),
    Operation(MoveRequest, MoveOutcome, MOVE_QUEUE, "move"),
    Operation(GetRequest, GetOutcome, MOVE_QUEUE, "get", "received"),
    Operation(
        RetrieveRequest,
        TransferOutcome,
        MOVE_QUEUE,
        "retrieve",
        "received",
        steps=("pacs_tasks.retrieve_part", "pacs_tasks.retrieve_finish"),
    ),
    Operation(VerifyRequest, VerifyOutcome, FIND_QUEUE, "verify"),
    Operation(CommitRequest, CommitOutcome, FIND_QUEUE, "verify --commit"),
)

#: The public tasks that have an outcome for each file, instance or row, so that a part of them can be done again.
TRANSFERS = frozenset(row.task for row in _ROWS if row.outcome is TransferOutcome)
#: Every operation, by the name of its public task.
OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.task: row for row in _ROWS})


def message_priority(request: AnyRequest) -> int:
    """Give the priority of the message that begins a job.

    Planners are first, so that a job soon shows what it has to do; so is whatever somebody waits for. A single file
    goes before the parts of jobs.
    """
    if OPERATIONS[request.task].steps or request.priority is Priority.STAT:
        return MESSAGE_PRIORITIES[0]
    if request.priority is Priority.BULK:
        return PART_PRIORITIES[Priority.BULK]
    return MESSAGE_PRIORITIES[isinstance(request, StoreRequest | MoveRequest | GetRequest)]
