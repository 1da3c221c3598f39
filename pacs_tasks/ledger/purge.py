"""Delete the records of jobs that have ended, and have Redis forget them on its disk as well."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

import redis

from pacs_tasks.errors import BrokerUnavailableError, JobNotFoundError
from pacs_tasks.ledger.keys import CALLERS, JOBS, PARTS, Scripts, job_key, transaction_key

if TYPE_CHECKING:
    from pacs_tasks.ledger.jobs import Ledger

#: Seconds for Redis to write its file anew: 1 GB takes about ten.
_LIMIT = 120.0
_PAUSE = 0.05


def purge_all(ledger: Ledger, job_ids: Iterable[str]) -> list[str]:
    """Delete jobs with their requests, manifests, outcomes, matches and receipts, and Celery's results of them.

    Returns
    -------
    list
        The ids of the deleted jobs: those that have ended.
    """
    return [job_id for job_id in job_ids if _purge(ledger, job_id)]


def _purge(ledger: Ledger, job_id: str) -> bool:
    client = ledger.client
    transactions = cast("list[str]", client.hkeys(job_key(job_id, "commitments")))
    others = [*(job_key(job_id, part) for part in PARTS), *map(transaction_key, transactions)]
    keys = [job_key(job_id), JOBS, CALLERS, *others, f"celery-task-meta-{job_id}"]
    return bool(Scripts(client).run("jobs/purge", keys, [job_id]))


def ended_before(ledger: Ledger, moment: float) -> Iterator[str]:
    """Give the ids of the jobs that ended before a Unix time."""
    # A job has not ended before it was created.
    for job_id in cast("list[str]", ledger.client.zrangebyscore(JOBS, "-inf", moment)):
        try:
            finished = ledger.progress(job_id).finished
        except JobNotFoundError:
            continue
        if finished is not None and finished < moment:
            yield job_id


def rewrite_file(client: redis.Redis) -> str:
    """Have Redis write its append-only file anew, without what was deleted.

    Returns
    -------
    str
        Why the file may still have it; "" where it has not, or where there is no such file.
    """
    deadline, pause, begun = time.monotonic() + _LIMIT, threading.Event(), False
    try:
        while time.monotonic() < deadline:
            state = client.info("persistence")
            if not state.get("aof_enabled"):
                return ""
            if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
                if begun:
                    return "" if state["aof_last_bgrewrite_status"] == "ok" else "The rewriting failed"
                # Another one that runs may have begun before the deletion.
                client.bgrewriteaof()
                begun = True
            pause.wait(_PAUSE)
    except (BrokerUnavailableError, redis.ResponseError) as error:
        return str(error)
    return f"It took more than {_LIMIT:.0f} s"
