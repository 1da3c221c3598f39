"""Jobs on the queue, as tables and as parts of JSON documents."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from pacs_tasks.cli.output.progress import duration
from pacs_tasks.cli.output.render import counts_of, words_of
from pacs_tasks.cli.output.tables import facts, new_table
from pacs_tasks.cli.output.terminal import plain
from pacs_tasks.fleet.associations import Associations
from pacs_tasks.outcome.progress import Progress


def job_document(progress: Progress) -> dict[str, Any]:
    """A look at a job as a part of a JSON document."""
    return {**progress.model_dump(mode="json"), "seconds": progress.seconds}


def job_table(jobs: Iterable[Progress]) -> Table:
    """Jobs, one per row."""
    table = new_table("Job", "Command", "State", "Done", "Failed", "Peer", "Created", "Took")
    # People copy it into the next command.
    table.columns[0].no_wrap = True
    for job in jobs:
        counters = job.counters
        table.add_row(
            job.job_id,
            words_of(job.task).command,
            state_of(job),
            f"{counters.done} of {counters.total}" if counters.total else "",
            str(counters.failed + counters.missing or ""),
            plain(job.remote),
            when(job.created),
            duration(job.seconds) if job.finished else "",
        )
    return table


def association_table(remotes: Iterable[Associations]) -> Table:
    """Remotes with associations in use, one per row."""
    table = new_table("Peer", "Associations")
    for each in remotes:
        table.add_row(plain(each.remote), in_use(each))
    return table


def in_use(associations: Associations | None) -> str:
    """How many associations with one remote are open, may be, and are waited for."""
    if associations is None:
        return ""
    waiting = f", {associations.waiting} waiting" if associations.waiting else ""
    return f"{associations.in_use} of {associations.limit} in use{waiting}"


def job_facts(job: Progress, *, counts: bool = True, associations: Associations | None = None) -> Table:
    """Everything about one job; ``counts`` and peer can stay away where an outcome follows that has them."""
    counters = job.counters
    rows = [
        ("Job", job.job_id, ""),
        ("Command", words_of(job.task).command, ""),
        ("State", state_of(job), "bold"),
        ("Waits for", waiting_of(job), "yellow"),
        ("Peer", job.remote if counts else "", ""),
        ("Associations", in_use(associations), ""),
        ("Created", when(job.created), ""),
        ("Started", when(job.started), ""),
        ("Finished", when(job.finished), ""),
        ("Took", duration(job.seconds) if job.finished else "", ""),
        ("Worker", job.worker, ""),
        ("Attempt", str(job.attempt) if job.attempt > 1 else "", ""),
        ("Progress", f"{counters.recorded} of {counters.total}" if counters.total and counts else "", ""),
        *(counts_of(words_of(job.task), counters.model_dump()) if counts else ()),
        ("Error", job.error, "red"),
    ]
    return facts(row for row in rows if row[1])


def state_of(job: Progress) -> str:
    """The state, and that it will soon be another."""
    if job.waiting_for and not job.cancel_requested:
        return f"{job.state} (waiting for the PACS)"
    return f"{job.state} (cancelling)" if job.cancel_requested and not job.state.finished else str(job.state)


def waiting_of(job: Progress) -> str:
    """The peer that a job waits for, since when, and why."""
    if not job.waiting_for:
        return ""
    return plain(f"{job.waiting_for}, down since {when(job.waiting_since)} ({job.waiting_reason})")


def when(seconds: float | None) -> str:
    """A Unix time as local date and time."""
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
