"""The outcome of a transfer, with every file that is sent or instance that is retrieved; the progress of a job."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from pacs_tasks.ae import Value
from pacs_tasks.outcome.instance import Category, InstanceOutcome


class Counters(Value):
    """The number of files or instances of a job in each category. ``bytes`` counts those that were sent or received.

    ``present`` are those that were already at the destination, ``converted`` those that were sent in another transfer
    syntax than their own.
    """

    total: int = 0
    success: int = 0
    warning: int = 0
    failed: int = 0
    missing: int = 0
    present: int = 0
    skipped: int = 0
    unreachable: int = 0
    bytes: int = 0
    converted: int = 0

    @property
    def recorded(self) -> int:
        return self.done + self.failed + self.missing + self.skipped

    @property
    def done(self) -> int:
        """Instances at their destination: sent, received, or already there."""
        return self.success + self.warning + self.present

    def since(self, earlier: "Counters") -> "Counters":
        """What was counted after ``earlier``; the total is what was left then."""
        names = [name for name in Counters.model_fields if name != "total"]
        counted = {name: max(0, getattr(self, name) - getattr(earlier, name)) for name in names}
        return Counters(total=max(0, self.total - earlier.recorded), **counted)


class Proof(StrEnum):
    """The kind of promise: what the remote listed of a study before it was retrieved."""

    #: Its instances, by SOP Instance UID.
    INSTANCES = "instances"
    #: The number of its instances, or of those of each series.
    COUNTS = "counts"
    NONE = "none"


class StudyOutcome(Value):
    """The outcome of one study of a retrieve.

    Each ``promised`` instance is ``received``, ``present``, ``missing`` or ``failed``. An instance that was requested
    and that the remote does not list counts as failed and is not part of the promise.
    """

    #: Empty if no study was found.
    study_uid: str = ""
    category: Category
    promised: int = 0
    received: int = 0
    present: int = 0
    missing: int = 0
    failed: int = 0
    proof: Proof = Proof.NONE
    #: The methods by which it came: ``C-MOVE``, ``C-GET``.
    ways: tuple[str, ...] = ()
    #: Why instances are missing, why the promise is weak, or why the first method failed.
    reason: str = ""
    #: The rows of the batch file that select it. The first line of the file is row 1.
    rows: tuple[int, ...] = ()


class TransferOutcome(Value):
    """The outcome of a transfer. It is true only if everything was done.

    ``problems`` holds each file or instance that did not simply succeed, in the order of the manifest. ``studies``
    belong to a retrieve.
    """

    counters: Counters
    #: Those of the attempts before this one, whose time ``seconds`` is not.
    earlier: Counters = Field(default_factory=Counters)
    seconds: float = 0.0
    cancelled: bool = False
    problems: tuple[InstanceOutcome, ...] = ()
    studies: tuple[StudyOutcome, ...] = ()

    @property
    def category(self) -> Category:
        counters = self.counters
        if self.cancelled:
            return Category.CANCELLED
        if counters.done == 0:
            return Category.FAILED
        if counters.failed or counters.missing or counters.recorded < counters.total:
            return Category.PARTIAL
        remarked = counters.warning or any(study.category is Category.WARNING for study in self.studies)
        return Category.WARNING if remarked else Category.SUCCESS

    @property
    def unreachable(self) -> bool:
        """Whether nothing was done because there was no association."""
        counters = self.counters
        return bool(counters.unreachable) and not counters.done and counters.unreachable == counters.failed

    @property
    def nothing_found(self) -> bool:
        """Whether there was no DICOM instance."""
        return self.counters.skipped == self.counters.total

    def __bool__(self) -> bool:
        return self.category in {Category.SUCCESS, Category.WARNING}

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show: counts, no path."""
        return {"category": self.category, **self.counters.model_dump(), "seconds": self.seconds}


class ProposedPair(Value):
    """A SOP class in a transfer syntax of the files.

    ``accepted``: whether the remote accepts it. ``sent_as``: the transfer syntax in which the files would be sent if it
    does not; empty if they cannot be sent.
    """

    sop_class_uid: str
    sop_class_name: str
    transfer_syntax_uid: str
    transfer_syntax_name: str
    count: int
    bytes: int
    accepted: bool
    sent_as: str = ""

    @property
    def sendable(self) -> bool:
        return self.accepted or bool(self.sent_as)


class PreflightOutcome(Value):
    """The outcome of a dry run. ``contexts`` and ``associations`` are the least numbers that the transfer needs."""

    total: int
    bytes: int
    pairs: tuple[ProposedPair, ...] = ()
    skipped: tuple[InstanceOutcome, ...] = ()
    unreadable: tuple[InstanceOutcome, ...] = ()
    contexts: int = 0
    associations: int = 0
    seconds: float = 0.0

    @property
    def category(self) -> Category:
        sendable = [pair.sendable for pair in self.pairs]
        if not any(sendable):
            return Category.FAILED
        return Category.SUCCESS if all(sendable) and not self.unreadable else Category.PARTIAL

    def summary(self) -> dict[str, Any]:
        """Return what Celery's results, Flower and logs may show."""
        return {
            "category": self.category,
            "total": self.total,
            "bytes": self.bytes,
            "contexts": self.contexts,
            "associations": self.associations,
            "skipped": len(self.skipped),
            "unreadable": len(self.unreadable),
        }


class JobState(StrEnum):
    """The state of a job. ``done``: there is an outcome, good or bad."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    #: It ended without an outcome; its error gives the reason.
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in _FINISHED


_FINISHED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


class Progress(Value):
    """The progress of a job. Times are in Unix seconds; ``seconds`` is the time from start to end."""

    job_id: str
    task: str
    state: JobState
    counters: Counters = Field(default_factory=Counters)
    #: Those of the attempts before this one.
    earlier: Counters = Field(default_factory=Counters)
    created: float
    started: float | None = None
    finished: float | None = None
    cancel_requested: bool = False
    attempt: int = 1
    #: The name of the worker that runs or planned it.
    worker: str = ""
    #: The message of a failed job.
    error: str = ""
    #: The remote, for people.
    remote: str = ""
    #: The remote that is down and that the job waits for, since when, and its last error.
    waiting_for: str = ""
    waiting_since: float | None = None
    waiting_reason: str = ""
    #: When the hours of that remote begin, if the job waits for them and the remote is not down.
    waiting_until: float | None = None
    #: The pace to which the job has to keep, once it had to wait for it: ``5 instances a second``.
    pace: str = ""
    #: Files or rows that wait for another try: the remote ended the association, or fell silent, at them.
    retrying: int = 0

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None or self.finished is None else self.finished - self.started
