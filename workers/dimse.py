"""The worker of a fleet: ``celery -A workers.dimse worker``.

It loads every task, resumes stalled jobs, probes parked remotes, and releases its associations when it ends. It takes
messages by :mod:`workers.transport`, so that neither a malformed message nor a lost connection ends it.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from contextlib import suppress
from typing import Any

import billiard.pool
from celery.apps import worker as celery_worker
from celery.signals import (
    after_setup_logger,
    after_setup_task_logger,
    celeryd_after_setup,
    celeryd_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from celery.states import FAILURE
from celery.worker.consumer.gossip import Gossip
from celery.worker.control import Panel
from redis.exceptions import RedisError

from pacs_tasks import tasks
from pacs_tasks.app import DEFAULT_REDIS_URL, app
from pacs_tasks.errors import BrokerUnavailableError, JobNotFoundError, MessageError
from pacs_tasks.journal import tracing
from pacs_tasks.journal.audit import RESTRICTED_FUNCTION, Party
from pacs_tasks.journal.logs import JsonLines, log_plainly, write_lines
from pacs_tasks.ledger.claims import Presence
from pacs_tasks.messages.dead_letters import DeadLetter
from pacs_tasks.messages.signature import sign_published
from pacs_tasks.metrics import serve_metrics
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.privacy import keep_private
from pacs_tasks.sealing import IN_CLEAR
from pacs_tasks.settings import remark_on_variables, settings
from pacs_tasks.tasks.audit import alert, watch_audits
from pacs_tasks.tasks.engine.associations import idle_associations
from pacs_tasks.tasks.engine.background import end_all
from pacs_tasks.tasks.engine.base import ledger, quick_redis, shut_down
from pacs_tasks.tasks.engine.claim import watch_jobs, watch_remotes
from pacs_tasks.tasks.webhooks import watch_webhooks
from workers.transport import Channel, hide_bodies, set_aside_wrong_types

__all__ = ["app", "tasks"]

logger = logging.getLogger(__name__)
# At DEBUG, the pool of Celery logs the arguments of each task, which may be the request of another service.
logging.getLogger("celery.pool").setLevel(logging.INFO)


log_plainly()
app.conf.worker_log_format = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s%(about)s"
_stopped = threading.Event()
_audit = threading.Thread(target=watch_audits, args=[_stopped], name="audit", daemon=True)
#: Seconds to write what the end of the worker adds to the audit trail; Redis keeps it for another worker.
_AUDIT_LIMIT = 5.0
#: Seconds that tasks in the background have to end with their process.
_END_LIMIT = 10.0
#: How often a child of the prefork pool looks, each tenth of a second, whether its parent has noted its results.
#: Billiard would wait 30 s for a parent that ends and notes nothing more. Such a task comes again, and finds its work
#: done.
billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 30

#: Seconds between two checks of the types of keys.
_KEYS_INTERVAL = 10.0
#: Seconds between two renewals of this worker's presence.
_PRESENCE_INTERVAL = 5.0

#: Commands of remote control that end a worker or one of its processes, keep it from serving a queue, or exhaust its
#: machine.
_REFUSED = ("shutdown", "pool_restart", "pool_grow", "pool_shrink", "autoscale", "add_consumer", "cancel_consumer",
            "rate_limit", "time_limit", "terminate", "election", "objgraph", "memsample", "memdump")  # fmt: skip

app.loader.override_backends = dict.fromkeys(("redis", "rediss", "socket"), "workers.transport:Backend")
# The parts of jobs are signed like what others enqueue.
sign_published()
# Workers agree on everything by the ledger. An event of a stranger would reach the main process by this alone.
Gossip.compatible_transports = frozenset()


def _after_refusal(letter: DeadLetter, too_often: bool) -> None:
    """Have the audit trail tell that a message was refused, and end the job that it names."""
    with suppress(BrokerUnavailableError, RedisError):
        alert(RESTRICTED_FUNCTION, Party("unknown"), f"Dead letter {letter.id}: {letter.reason}")
    # Parts of jobs are enqueued again. Whoever waits for a task that no worker knows would wait for ever.
    if letter.job_id and (letter.task in OPERATIONS or not letter.task):
        _end_job(letter, too_often)


def _end_job(letter: DeadLetter, too_often: bool) -> None:
    """End a job whose message was refused.

    A job in the ledger whose message is only malformed has its planner enqueued again by :func:`.claim.watch_jobs`; so
    have lost parts.
    """
    error = MessageError(letter.reason)
    try:
        try:
            ended = ledger().progress(letter.job_id).state.finished or not too_often
        except JobNotFoundError:
            ended = bool(letter.task) and not ledger().open(letter.job_id, letter.task, None)
        if not ended:
            if letter.task:
                ledger().fail(letter.job_id, error)
            app.backend.store_result(letter.job_id, error, FAILURE)
    except (BrokerUnavailableError, RedisError) as failure:
        logger.warning("job %s could not be ended (%s)", letter.job_id, type(failure).__name__)


@celeryd_init.connect
def _leave_out_banner(instance: Any, **_: object) -> None:
    """Print neither a banner nor other plain text among JSON lines."""
    if settings().log_format == "json":
        instance.quiet = True
        celery_worker.safe_say = _say_as_json


def _say_as_json(message: str, *_: object) -> None:
    """Write that the worker shuts down, from the handler of a signal: a stream may be in use there."""
    record = logging.makeLogRecord({"name": __name__, "levelname": "INFO", "msg": message})
    os.write(2, f"{JsonLines().format(record)}\n".encode())


@after_setup_logger.connect
@after_setup_task_logger.connect
def _write_lines(logger: logging.Logger, **_: object) -> None:
    """Write lines as the settings say."""
    write_lines(settings().log_format, logger)


@celeryd_after_setup.connect
def _judge_messages(**_: object) -> None:
    """Let the transport know the tasks and commands of this worker."""
    for name in _REFUSED:
        Panel.data.pop(name, None)
    # Not Celery's own, such as celery.accumulate, which logs and stores its arguments.
    Channel.tasks = {name: task.__header__ for name, task in app.tasks.items() if name.startswith("pacs_tasks.")}
    Channel.commands = Panel.data
    Channel.on_dead_letter = _after_refusal
    hide_bodies()


@celeryd_after_setup.connect
def _begin(**_: object) -> None:
    """Log which variables look like settings and are none, and keep what the worker writes private."""
    keep_private(settings().group_access)
    if collector := settings().traces:
        tracing.trace_published(collector)
    if remark := remark_on_variables():
        logger.warning("%s", remark)


@celeryd_after_setup.connect
def _route_what_follows(**_: object) -> None:
    """Publish callbacks, chains and chords of other services to whatever queue these name; the worker serves its own.

    The queues that the worker serves are selected by now, so a misspelt one was an error.
    """
    app.amqp.queues.create_missing = True


def _watch_keys(stopped: threading.Event) -> None:
    """Set keys of wrong types aside until ``stopped``."""
    while not stopped.wait(_KEYS_INTERVAL):
        with suppress(BrokerUnavailableError, RedisError):
            set_aside_wrong_types(ledger().client)


def _be_present(stopped: threading.Event) -> None:
    """Tell whoever waits for a job that this worker runs, until ``stopped``."""
    name = secrets.token_hex(8)
    while not stopped.is_set():
        with suppress(BrokerUnavailableError, RedisError):
            Presence(quick_redis()).renew(name)
        stopped.wait(_PRESENCE_INTERVAL)
    with suppress(BrokerUnavailableError, RedisError):
        Presence(quick_redis()).end(name)


_presence = threading.Thread(target=_be_present, args=[_stopped], name="presence", daemon=True)


@worker_ready.connect
def _watch(**_: object) -> None:
    """Start the threads that resume jobs, probe remotes, deliver webhooks, mend keys, and show that the worker runs."""
    if not settings().keys:
        logger.warning(IN_CLEAR)
    serve_metrics(settings(), settings().redis_url or DEFAULT_REDIS_URL)
    _audit.start()
    _presence.start()
    for target in (watch_jobs, watch_remotes, watch_webhooks, _watch_keys):
        threading.Thread(target=target, args=[_stopped], name=target.__name__, daemon=True).start()


@worker_shutting_down.connect
def _end_soon(**_: object) -> None:
    """Have running parts end after their current file."""
    shut_down()


@worker_process_shutdown.connect
def _release(**_: object) -> None:
    """Have the tasks in the background of a process end, and release its associations."""
    end_all(_END_LIMIT)
    idle_associations.close_all()
    tracing.flush(settings().traces)


@worker_shutdown.connect
def _release_in_worker(**_: object) -> None:
    """Release the associations of a worker whose pool is threads or solo, and end the presence of any."""
    _stopped.set()
    _release()
    for each in (_presence, _audit):
        if each.is_alive():
            each.join(_AUDIT_LIMIT)
