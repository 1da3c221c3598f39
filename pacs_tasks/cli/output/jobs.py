"""Jobs and associations as tables, facts and parts of JSON documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pacs_tasks.cli.output.text import Fact, Table, duration, plain, when
from pacs_tasks.cli.output.view import command_of, count_facts, done_of, positive
from pacs_tasks.fleet.remotes import Associations
from pacs_tasks.outcome import Progress


def job_document(progress: Progress) -> dict[str, Any]:
    """A job as a part of a JSON document."""
    return {**progress.model_dump(mode="json"), "seconds": progress.seconds}


def job_table(jobs: Iterable[Progress]) -> Table:
    """One row for each job."""
    table = Table("Job", "Command", "State", "Done", "Failed", "Remote", "Created", "Duration", whole=[0])
    for job in jobs:
        counters = job.counters
        table.add(
            job.job_id,
            command_of(job.task),
            state_of(job),
            f"{counters.done} of {counters.total}" if counters.total else "",
            positive(counters.failed + counters.missing),
            plain(job.remote),
            when(job.created),
            duration(job.seconds) if job.finished else "",
        )
    return table


def association_table(remotes: Iterable[Associations]) -> Table:
    """One row for each remote with associations in use."""
    table = Table("Remote", "Associations")
    for each in remotes:
        table.add(plain(each.remote), in_use(each))
    return table


def in_use(associations: Associations | None) -> str:
    """How many associations with one remote are open, may be open, and are waited for."""
    if associations is None:
        return ""
    waiting = f", {associations.waiting} waiting" if associations.waiting else ""
    return f"{associations.in_use} of {associations.limit} in use{waiting}"


def job_facts(job: Progress, *, counts: bool = True, associations: Associations | None = None) -> Iterator[Fact]:
    """Everything about one job. Leave ``counts`` out where the facts of the outcome follow."""
    counters = job.counters
    yield Fact("Job", job.job_id)
    yield Fact("Command", command_of(job.task))
    yield Fact("State", state_of(job), "bold")
    yield Fact("Waiting for", waiting_for(job), "yellow")
    yield Fact("Remote", job.remote if counts else "")
    yield Fact("Associations", in_use(associations))
    yield Fact("Created", when(job.created))
    yield Fact("Started", when(job.started))
    yield Fact("Finished", when(job.finished))
    yield Fact("Duration", duration(job.seconds) if job.finished else "")
    yield Fact("Worker", job.worker)
    yield Fact("Attempt", str(job.attempt) if job.attempt > 1 else "")
    if counts:
        yield Fact("Progress", f"{counters.recorded} of {counters.total}" if counters.total else "")
        yield from count_facts(done_of(job.task), counters.model_dump())
    yield Fact("Error", job.error, "red")


def state_of(job: Progress) -> str:
    """The state of a job, and whether it is about to change."""
    if job.waiting_for and not job.cancel_requested:
        return f"{job.state} (waiting for the PACS)"
    return f"{job.state} (cancelling)" if job.cancel_requested and not job.state.finished else str(job.state)


def waiting_for(job: Progress) -> str:
    """The remote that a job waits for, since when, and why."""
    if not job.waiting_for:
        return ""
    return f"{job.waiting_for}, down since {when(job.waiting_since)} ({job.waiting_reason})"
