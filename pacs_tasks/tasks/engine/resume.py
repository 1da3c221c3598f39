"""``pacs_tasks.resume``: go on with a job whose message got lost.

A Redis that dies has handed out messages that never arrived, and a worker that dies may take one with it before it
is noted as handed out: nobody would ever come back to that part. So each worker looks from time to time for jobs at
which nobody is and nothing happens, and sends this task through the job's own queue. It comes out behind all that the
job has there: if the job still looks the same then, something is lost, and the planner sees to what has no outcome.
"""

from __future__ import annotations

import logging
import threading

from celery import Celery, Task

from pacs_tasks.app import HIDDEN, UNACKED, VISIBILITY_TIMEOUT, app
from pacs_tasks.errors import JobNotFoundError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.operations import OPERATIONS, QUEUES
from pacs_tasks.tasks.engine.base import ledger

logger = logging.getLogger(__name__)

#: Seconds without a sign of life after which a job is looked into: what a dead worker held is back by then.
PATIENCE = VISIBILITY_TIMEOUT + 30
#: The same where nothing at all is on its way: no queue has anything, and no worker has anything in hand.
LOST = 10.0
#: Seconds between two looks of a worker.
_BEAT = 10.0


@app.task(bind=True, name="pacs_tasks.resume", ignore_result=True)  # type: ignore[untyped-decorator]
def resume(_: Task, job_id: str, seen: str) -> None:
    """Hand out the task of a job again, if it still looks as it was ``seen``."""
    if ledger().unfinished.stands_still(job_id, seen):
        logger.warning("job %s stands still; its task is handed out again", job_id)
        task = ledger().progress(job_id).task
        app.send_task(task, task_id=job_id, argsrepr=HIDDEN, kwargsrepr=HIDDEN)


def look_round(celery: Celery, found: Ledger, patience: float = PATIENCE) -> None:
    """See to the jobs that stand still."""
    if not found.client.exists(*QUEUES, UNACKED):
        patience = min(patience, LOST)
    for job_id in found.unfinished.jobs():
        try:
            seen = found.unfinished.standstill(job_id, patience)
            queue = OPERATIONS[found.progress(job_id).task].queue
        except JobNotFoundError:
            continue
        if seen:
            celery.send_task("pacs_tasks.resume", args=[job_id, seen], queue=queue)


def watch(stopped: threading.Event) -> None:
    """Look round until ``stopped``; whatever hinders one look, there is another."""
    while not stopped.wait(_BEAT):
        try:
            look_round(app, ledger())
        except Exception as error:  # noqa: BLE001 - Redis away, whatever way that is told
            logger.warning("cannot look for jobs that stand still (%s)", type(error).__name__)
