"""The Celery app: broker, queues, routes, limits. No task is defined here and nothing of DICOM is loaded.

Task names are public: any service that reaches the Redis may enqueue them, with this app or with its own
(``send_task("pacs_tasks.echo", kwargs={"request": {...}})``).
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from pacs_tasks.operations import OPERATIONS, QUEUES, STORE_QUEUE
from pacs_tasks.settings import Settings, settings

#: Where a worker looks that was started by hand and told of none.
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"

#: Where Redis keeps what it has handed out and nobody has acknowledged.
UNACKED = "pacs_tasks.unacked"

#: Seconds after which a message that no worker has acknowledged goes to another one. It must exceed 30 s, and it
#: bounds how long the work of a machine that died waits: with the 5 s of the look for it, less than a minute. It may be
#: shorter than a task, since a task that is handed out twice finds the claim of the first in the ledger and steps back.
VISIBILITY_TIMEOUT = 40

#: Seconds that a task may run. Its operations have limits of their own; a part has many of them.
LONGEST_TASK = 6 * 3600

#: Seconds that the broker may take for one answer; longer than a worker's wait for the next message, which is 1 s.
SILENCE = 15.0

#: Celery's settings that no deployment changes, each with its reason.
_FIXED: dict[str, Any] = {
    # A task that dies with its worker goes to another one; the ledger knows which files are done.
    "task_acks_late": True,
    # Without it a killed child process fails its task, and with it the chord.
    "task_reject_on_worker_lost": True,
    # Waiting messages count against the visibility timeout, and a part should go to the worker that is free.
    "worker_prefetch_multiplier": 1,
    # A Redis that is killed in the middle of a chord would otherwise lose the count of its parts.
    "result_backend_always_retry": True,
    "result_backend_max_retries": 20,
    # One connection pool for all threads of a client: by default each thread leaves one open when it ends.
    "result_backend_thread_safe": True,
    "broker_connection_retry_on_startup": True,
    # A worker outlives a pause of its broker.
    "broker_connection_max_retries": None,
    # A Redis that is full refuses a command without being away. The worker connects again until it has room; by
    # default it would end.
    "broker_channel_error_retry": True,
    # What runs while the broker is lost goes on. It is handed out again, but finds the claim of the first and steps
    # back; stopping it would send once more what was on its way, and leave its claim to run out.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Above every limit of ours: ends what hangs in the system, such as a file server that is gone. A task that is told
    # so fails what is left of its work with that reason; one that does not hear it is killed, and its work taken up.
    "task_soft_time_limit": LONGEST_TASK,
    "task_time_limit": LONGEST_TASK + 300,
    # Seconds that running parts may use to end when the worker is told to stop at once.
    "worker_soft_shutdown_timeout": 10.0,
    # Flower lists tasks by these; arguments are hidden in them.
    "worker_send_task_events": True,
    "task_send_sent_event": True,
    "task_track_started": True,
    # Our tasks count their own retries: `retry(max_retries=None)` alone means Celery's default of 3, after which it
    # raises, and a part that raises loses its chord.
    "task_annotations": {"*": {"max_retries": None}},
    # Nothing of ours prints, and a traceback of a library on stderr should look like one.
    "worker_redirect_stdouts": False,
    "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.5},
}


def _transport_options(config: Settings) -> dict[str, Any]:
    return {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        # Looks for abandoned messages every 5 s; by default every 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # Of our own, so that another application's shorter visibility timeout does not hand out our tasks twice,
        # nor ours theirs: on a shared broker the shortest one wins.
        "unacked_key": UNACKED,
        "unacked_index_key": "pacs_tasks.unacked_index",
        "unacked_mutex_key": "pacs_tasks.unacked_mutex",
        "socket_connect_timeout": config.redis_timeout,
        # Without it a command to a Redis that takes connections and says nothing waits for ever.
        "socket_timeout": SILENCE,
        # It would disable kombu's batched publishing, which makes a chord of thousands of parts quick to enqueue.
        "retry_on_timeout": False,
    }


def configuration(config: Settings, redis_url: str | None = None) -> dict[str, Any]:
    """Celery's settings, each with its reason.

    Parameters
    ----------
    config
        Where the Redis and its time limits come from.
    redis_url
        Another Redis than ``config`` names.
    """
    url = redis_url or config.redis_url or DEFAULT_REDIS_URL
    if url.startswith("unix://"):
        # The same address as kombu and Celery's backend write it; redis-py has other names for scheme and database.
        url = f"redis+socket://{url.removeprefix('unix://')}"
        url = url.replace("?db=", "?virtual_host=").replace("&db=", "&virtual_host=")
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": _transport_options(config),
        # The backend reads its visibility timeout here; it has to be the broker's.
        "result_backend_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT},
        "redis_socket_connect_timeout": config.redis_timeout,
        "redis_socket_timeout": SILENCE,
        # A Unix socket knows no keep-alive, and redis-py refuses the option for it.
        "redis_socket_keepalive": None if url.startswith("redis+socket:") else True,
        # Pickle would run what a stranger puts on the queue.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_queues": {name: {"exchange": name, "routing_key": name} for name in QUEUES},
        "task_default_queue": STORE_QUEUE,
        # A misspelt queue is an error, not a queue that nobody reads.
        "task_create_missing_queues": False,
        "task_routes": {
            task: {"queue": each.queue} for each in OPERATIONS.values() for task in (each.task, *each.steps)
        },
        "result_expires": config.keep_jobs,
        **_FIXED,
    }


def create(redis_url: str, config: Settings) -> Celery:
    """An app of its own for a caller that names its Redis."""
    created = Celery("pacs_tasks", set_as_current=False)
    created.conf.update(configuration(config, redis_url))
    return created


#: The app of this process, with the Redis that the settings name. They are read when it is first used.
app = Celery("pacs_tasks", set_as_current=False)
app.add_defaults(lambda: configuration(settings()))
