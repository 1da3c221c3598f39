"""The probe of remotes that are down: one worker asks each at growing intervals, and hands out what waited for it."""

from __future__ import annotations

import logging
import threading

from celery import Celery

from pacs_tasks.app import HIDDEN, app
from pacs_tasks.dimse import c_echo
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import JobNotFoundError, PacsTasksError, PeerBusyError, PeerUnavailableError
from pacs_tasks.fleet.outages import Outages, Probe
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.tasks.engine.base import ledger, outages

logger = logging.getLogger(__name__)

#: Seconds between two looks at who is due.
_BEAT = 1.0
#: Seconds that a remote may take for each step of its answer to a probe.
_LIMIT = Timeouts.of(5.0)


def probe_round(celery: Celery, found: Ledger, known: Outages) -> None:
    """Ask the remotes that are due."""
    for probe in known.due():
        if _answers(probe):
            waiting = known.back(probe.name)
            logger.info("%s is back; %d jobs go on", probe.name, len(waiting))
            for job_id in waiting:
                _hand_out(celery, found, job_id)
        else:
            for job_id in known.still_down(probe.name):
                logger.warning("job %s gives up waiting for %s", job_id, probe.name)
                found.failed(job_id, given_up(str(probe.remote), job_id))


def _answers(probe: Probe) -> bool:
    """Whether an association can be had; a remote that refuses us, or our question, is there."""
    try:
        c_echo.echo(probe.local, probe.remote, _LIMIT)
    except PeerBusyError:
        return True
    except PeerUnavailableError as error:
        logger.debug("probe: %s", error.message)
        return False
    except PacsTasksError:
        return True
    return True


def _hand_out(celery: Celery, found: Ledger, job_id: str) -> None:
    try:
        task = found.progress(job_id).task
    except JobNotFoundError:
        return
    celery.send_task(task, task_id=job_id, argsrepr=HIDDEN, kwargsrepr=HIDDEN)


def given_up(remote: str, job_id: str) -> PeerUnavailableError:
    """The error of a job whose patience is at its end."""
    return PeerUnavailableError(
        f"{remote} went down and did not come back in time, so the job gave up waiting (--give-up-after); "
        f"what it had done is kept: `pacs-tasks resume {job_id}` goes on with the rest"
    )


def probe(stopped: threading.Event) -> None:
    """Ask who is due until ``stopped``; whatever hinders one look, there is another."""
    while not stopped.wait(_BEAT):
        try:
            probe_round(app, ledger(), outages())
        except Exception as error:  # noqa: BLE001 - Redis away, whatever way that is told
            logger.warning("cannot look for peers that are down (%s)", type(error).__name__)
