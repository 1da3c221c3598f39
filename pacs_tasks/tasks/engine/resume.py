"""Two watches of each worker resume jobs: those whose messages were lost, and those that wait for a remote.

A Redis that dies may have sent messages that never arrived, and a worker that dies may lose one before Redis records
its delivery: nobody would resume that part. So each worker looks for jobs that no worker holds and that stand still,
and sends ``pacs_tasks.resume`` through the job's own queue. That task runs after all other messages of the job in
that queue. If the job still stands still then, a message is lost, and the planner runs again for what has no outcome.

One worker at a time probes each remote that is down, at growing intervals, and enqueues the jobs that wait for it when
it is back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from celery import Celery, Task

from pacs_tasks.app import UNACKED, VISIBILITY_TIMEOUT, app
from pacs_tasks.dimse import c_echo
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import JobNotFoundError, PacsTasksError, PeerBusyError, PeerUnavailableError
from pacs_tasks.fleet.remotes import Outages, Probe
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.operations import HIDDEN, OPERATIONS, QUEUES
from pacs_tasks.tasks.engine.base import ledger, outages, register

logger = logging.getLogger(__name__)

#: Seconds without a sign of life after which a job stands still: the messages of a dead worker are back by then.
PATIENCE = VISIBILITY_TIMEOUT + 30
#: The same where no queue has a message and no worker holds one.
PATIENCE_WHEN_IDLE = 10.0
#: Seconds between two rounds of each watch.
_RESUME_INTERVAL = 10.0
_PROBE_INTERVAL = 1.0
#: Seconds that a remote may take for each step of its answer to a probe.
_PROBE_TIMEOUTS = Timeouts.of(5.0)


@register("pacs_tasks.resume", ignore_result=True)
def resume(_: Task, job_id: str, seen: str) -> None:
    """Enqueue the task of a job again if the job still stands still as ``seen``."""
    if ledger().standstills.persists(job_id, seen):
        logger.warning("job %s stands still; its task is enqueued again", job_id)
        _enqueue(app, ledger().progress(job_id).task, job_id)


def _enqueue(celery: Celery, task: str, job_id: str) -> None:
    celery.send_task(task, task_id=job_id, argsrepr=HIDDEN, kwargsrepr=HIDDEN)


def resume_stalled(celery: Celery, record: Ledger, patience: float = PATIENCE) -> None:
    """Send ``pacs_tasks.resume`` for each job that has stood still for ``patience`` seconds."""
    if not record.client.exists(*QUEUES, UNACKED):
        patience = min(patience, PATIENCE_WHEN_IDLE)
    for job_id in record.standstills.unfinished_jobs():
        try:
            seen = record.standstills.check(job_id, patience)
            queue = OPERATIONS[record.progress(job_id).task].queue
        except JobNotFoundError:
            continue
        if seen:
            celery.send_task("pacs_tasks.resume", args=[job_id, seen], queue=queue)


def probe_remotes(celery: Celery, record: Ledger, known: Outages) -> None:
    """Probe the remotes that are due; enqueue the jobs of those that are back, and fail those that waited too long."""
    for probe in known.due():
        if _answers(probe):
            waiting = known.end(probe.name)
            logger.info("%s is back; %d jobs go on", probe.name, len(waiting))
            for job_id in waiting:
                with suppress(JobNotFoundError):
                    _enqueue(celery, record.progress(job_id).task, job_id)
        else:
            for job_id in known.still_down(probe.name):
                logger.warning("job %s gives up waiting for %s", job_id, probe.name)
                record.fail(job_id, _given_up(str(probe.remote), job_id))


def _answers(probe: Probe) -> bool:
    """Whether an association can be opened; a remote that rejects the association or C-ECHO is back as well."""
    try:
        c_echo.echo(probe.local, probe.remote, _PROBE_TIMEOUTS)
    except PeerBusyError:
        return True
    except PeerUnavailableError as error:
        logger.debug("probe: %s", error.message)
        return False
    except PacsTasksError:
        return True
    return True


def _given_up(remote: str, job_id: str) -> PeerUnavailableError:
    return PeerUnavailableError(
        f"{remote} went down and did not come back in time, so the job gave up; its outcomes are kept. "
        f"Run `pacs-tasks resume {job_id}` to do the rest, or raise --give-up-after."
    )


def watch_jobs(stopped: threading.Event) -> None:
    """Resume jobs that stand still until ``stopped``."""
    _repeat(stopped, _RESUME_INTERVAL, lambda: resume_stalled(app, ledger()))


def watch_remotes(stopped: threading.Event) -> None:
    """Probe remotes that are down until ``stopped``."""
    _repeat(stopped, _PROBE_INTERVAL, lambda: probe_remotes(app, ledger(), outages()))


def _repeat(stopped: threading.Event, interval: float, watch: Callable[[], None]) -> None:
    """Call ``watch`` at intervals; an error in one round does not end the others."""
    while not stopped.wait(interval):
        try:
            watch()
        except Exception as error:  # noqa: BLE001 - Redis may be unavailable in many ways
            logger.warning("a watch for stalled jobs or remotes failed (%s); it runs again", type(error).__name__)
