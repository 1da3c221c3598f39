"""The closing check: what must hold after every round, whatever was injured.

- The job has ended. Its total is the number of files; each file has exactly one final outcome, in the ledger's
  counters, in its bitmap, and among its receipts and problems.
- What the ledger calls sent, the PACS holds, each data set to the byte, at the moment at which the job ends and when
  all is quiet. What it holds beyond that is nothing, unless a file failed because its answer was lost: then, and only
  for that file, it may hold the instance.
- The end of the job took effect once: Celery's result of the job is the summary of its outcome, and what the ledger
  says at the end is what it says when everything is quiet.
- No association is open at the PACS, no place of the association budget is taken.
- The queues and the messages that wait for their acknowledgement are empty.
- Every key of ours expires, but for the index of jobs, and once they have nothing is left but Celery's own record of
  its queues.
- No worker met a defect of ours, or ended of itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from pacs_tasks import InstanceCategory, InstanceOutcome, Job, JobState
from pacs_tasks.app import create
from pacs_tasks.ledger.keys import JOBS
from pacs_tasks.operations import QUEUE_KEYS, UNACKED
from pacs_tasks.outcome import Progress
from pacs_tasks.settings import Settings
from tests.chaos.files import Files
from tests.chaos.stage import RoundError, Stage
from tests.support.dicom_files import data_set
from tests.support.ports import connections

#: Seconds for everything to become quiet: a message that a dead worker had comes back after 45 s, and does nothing.
_QUIET = 100.0
#: Celery's own record of its queues.
_CELERY = "_kombu."
_DONE = (InstanceCategory.SUCCESS, InstanceCategory.WARNING)
#: What a worker had put in its place and could not record any more, the next one finds there.
_HERE = (InstanceCategory.SUCCESS, InstanceCategory.PRESENT)


class Peer(Protocol):
    """A PACS as evidence."""

    @property
    def port(self) -> int: ...

    def held(self) -> Mapping[str, str]:
        """The SHA-256 of each data set that it holds, by SOP Instance UID."""
        ...

    def stores(self) -> Counter[str] | None:
        """How many C-STORE requests came for each SOP Instance UID; None where it does not count."""
        ...


@dataclass(frozen=True)
class Expected:
    """What is not the rule in a case."""

    #: Instances that must have failed, each with the status (or the class of the error) that says why.
    failed: Mapping[str, str] = field(default_factory=dict)
    #: Instances that must have been sent with a warning.
    warned: Collection[str] = ()
    state: JobState = JobState.DONE
    #: How many instances may have gone more than once; None where the PACS itself asks for it.
    most_twice: int | None = None
    #: Whether receipts tell of every time that an instance went: only those who died have told nobody.
    told: bool = False


@dataclass(frozen=True)
class Found:
    """What the check counted."""

    files: int
    sends: int | None = None
    twice: int | None = None
    told_twice: int = 0


def require(condition: object, what: str) -> None:
    """Fail the round unless the condition holds."""
    if not condition:
        raise RoundError(what)


def check_sent(stage: Stage, peer: Peer, files: Files, *jobs: Job, expected: Expected | None = None) -> Found:
    """The closing check of jobs that each send all of the files."""
    expected = expected or Expected()
    ended = {job.id: stage.ended(job) for job in jobs}
    digests = files.digests()
    told_twice = 0
    for job in jobs:
        outcomes = _outcomes(stage, job, ended[job.id], list(files.uids), expected.state)
        _check_categories(outcomes, files, expected)
        told_twice += sum(outcome.attempts > 1 for outcome in outcomes)
        done = {outcome.sop_instance_uid for outcome in outcomes if outcome.category in _DONE}
        _check_held(peer, done, digests, expected)
    _check_quiet(stage, peer)
    for job in jobs:
        _check_unchanged(stage, job, ended[job.id])
    _check_held(peer, digests.keys() - expected.failed.keys(), digests, expected)
    counts = peer.stores()
    twice = None if counts is None else sum(count > len(jobs) for count in counts.values())
    if twice is not None and expected.most_twice is not None:
        require(twice <= expected.most_twice, f"{twice} instances went more than once, not {expected.most_twice}")
    if counts is not None and expected.told:
        _check_told(counts, jobs, files)
    _check_logs(stage)
    _check_expiry(stage)
    return Found(files.count * len(jobs), None if counts is None else counts.total(), twice, told_twice)


def check_received(stage: Stage, peer: Peer, files: Files, output: Path, *jobs: Job) -> Found:
    """The closing check of jobs that each bring all of the instances, which the peer holds, to ``output``."""
    ended = {job.id: stage.ended(job) for job in jobs}
    digests = files.digests()
    for job in jobs:
        outcomes = _outcomes(stage, job, ended[job.id], list(files.uids.values()), JobState.DONE)
        wrong = [outcome for outcome in outcomes if outcome.category not in _HERE]
        require(not wrong, f"{len(wrong)} instances were not received: {_said(wrong)}")
        for outcome in outcomes:
            require(_digest(Path(outcome.path)) == digests[outcome.subject], f"{outcome.subject} is another file")
    _check_quiet(stage, peer)
    for job in jobs:
        _check_unchanged(stage, job, ended[job.id])
    names = sorted(path.name for path in output.rglob("*") if path.is_file())
    require(names == sorted(f"{uid}.dcm" for uid in digests), f"{len(names)} files lie in the output directory")
    _check_logs(stage)
    _check_expiry(stage)
    return Found(files.count * len(jobs))


def _check_told(counts: Counter[str], jobs: Collection[Job], files: Files) -> None:
    told: Counter[str] = Counter()
    for job in jobs:
        told.update({files.uids[outcome.subject]: outcome.attempts for outcome in job.instances()})
    untold = [uid for uid, count in counts.items() if count > told[uid]]
    require(not untold, f"{len(untold)} receipts tell of fewer attempts than the PACS counted")


def _digest(path: Path) -> str:
    return hashlib.sha256(data_set(path)).hexdigest()


def _outcomes(
    stage: Stage, job: Job, ended: Progress, subjects: Collection[str], state: JobState
) -> list[InstanceOutcome]:
    """Every outcome of a job that has one for each of ``subjects``."""
    require(ended.state is state, f"the job is {ended.state}: {ended.error or job.outcome()!r:.500}")
    counters = ended.counters
    require(counters.total == len(subjects), f"the ledger's total is {counters.total}, not {len(subjects)}")
    outcomes = list(job.instances())
    told = Counter(outcome.subject for outcome in outcomes)
    require(max(told.values()) == 1, "a file has more than one outcome")
    require(told.keys() == set(subjects), f"{len(set(subjects) - told.keys())} files have no outcome")
    categories = Counter(outcome.category.value for outcome in outcomes)
    counted = {each.value: getattr(counters, each.value) for each in InstanceCategory}
    require(counted == {each.value: categories[each.value] for each in InstanceCategory}, f"counters are {counted}")
    key = f"pacs_tasks:job:{job.id}"
    kept = int(str(stage.redis.llen(f"{key}:receipts"))) + int(str(stage.redis.hlen(f"{key}:problems")))
    require(kept == len(subjects), f"{kept} receipts and problems are kept")
    marked = int(str(stage.redis.bitcount(f"{key}:recorded")))
    require(marked == len(subjects), f"{marked} files are marked as recorded")
    return outcomes


def _check_categories(outcomes: list[InstanceOutcome], files: Files, expected: Expected) -> None:
    for outcome in outcomes:
        uid = files.uids[outcome.subject]
        if uid in expected.failed:
            why = outcome.error if outcome.status is None else f"{outcome.status.code:04X}"
            fails = outcome.category is InstanceCategory.FAILED and why == expected.failed[uid]
            require(fails, f"what should have failed with {expected.failed[uid]} has {_said([outcome])}")
        else:
            wanted = InstanceCategory.WARNING if uid in expected.warned else InstanceCategory.SUCCESS
            require(outcome.category is wanted, f"an outcome is not {wanted}: {_said([outcome])}")


def _said(outcomes: list[InstanceOutcome]) -> str:
    return "; ".join(sorted({f"{each.category} ({each.status or each.reason})" for each in outcomes}))


def _check_held(peer: Peer, claimed: Collection[str], digests: Mapping[str, str], expected: Expected) -> None:
    held = peer.held()
    missing = [uid for uid in claimed if uid not in held]
    require(not missing, f"{len(missing)} instances are claimed that the PACS does not hold, such as {missing[:1]}")
    others = [uid for uid, digest in held.items() if digest != digests.get(uid)]
    require(not others, f"{len(others)} instances at the PACS are not as their files")
    refused = held.keys() & expected.failed.keys()
    require(not refused, f"{len(refused)} instances failed and are held")


def _check_quiet(stage: Stage, peer: Peer) -> None:
    def left() -> dict[str, int]:
        counts = {queue: int(str(stage.redis.llen(queue))) for queue in QUEUE_KEYS}
        counts[UNACKED] = int(str(stage.redis.hlen(UNACKED)))
        counts[f"{UNACKED}_index"] = int(str(stage.redis.zcard(f"{UNACKED}_index")))
        counts["associations at the PACS"] = connections(peer.port)
        counts["places of the budget"] = sum(each.in_use + each.waiting for each in stage.client.associations())
        return {what: count for what, count in counts.items() if count}

    try:
        stage.wait(lambda: not left(), "everything is quiet", _QUIET)
    except RoundError:
        raise RoundError(f"not quiet: {left()}") from None
    stage.note("all is quiet")


def _check_unchanged(stage: Stage, job: Job, ended: Progress) -> None:
    require(job.progress() == ended, "the job has changed after its end")
    with create(stage.url, Settings(redis_url=stage.url)) as app:
        told = cast("dict[str, Any]", app.backend.get_task_meta(job.id))
    summary = job.outcome().summary()
    require(told["status"] == "SUCCESS", f"Celery's result of the job is {told['status']}")
    require(told["result"] == summary, f"Celery's result of the job is {told['result']}, not {summary}")


def _check_logs(stage: Stage) -> None:
    defects = stage.logs_say(r"this is a defect of pacs-tasks|\bunexpected \w+Error|Unrecoverable error")
    require(not defects, f"a worker met a defect: {defects[:1]}")


def _check_expiry(stage: Stage) -> None:
    """Let every key expire now that has a date for it."""
    client = stage.redis

    def ours() -> list[str]:
        return sorted(key for key in map(str, client.scan_iter()) if not key.startswith(_CELERY))

    # Whoever still announces something, or looks for abandoned messages, writes a key again.
    for worker in stage.workers:
        worker.kill()
    keys = ours()
    lasting = [key for key in keys if client.ttl(key) == -1 and key != JOBS]
    require(not lasting, f"keys do not expire: {lasting}")
    client.delete(*(key for key in keys if key != JOBS))
    require(not stage.client.ledger.standstills.unfinished_jobs(), "a job that has expired is still unfinished")
    require(not ours(), f"keys are left when all has expired: {ours()}")
