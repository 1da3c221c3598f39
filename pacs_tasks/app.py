"""The Celery app: broker, queues, routes and limits. It defines no task and loads nothing of DICOM.

Task names are public: every service that reaches the Redis may enqueue them, with this app or its own
(``send_task("pacs_tasks.echo", kwargs={"request": {...}})``).
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.utils.url import parse_url

from pacs_tasks.operations import FIND_QUEUE, OPERATIONS, QUEUES, UNACKED
from pacs_tasks.settings import Settings, settings

#: The Redis of a worker that was started by hand without one.
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"

#: Seconds after which an unacknowledged message goes to another worker. It must exceed 30 s. With the 5 s between two
#: checks, the work of a machine that died continues within a minute. It may be shorter than a task: a task that is
#: delivered twice finds the claim of the first in the ledger and ends.
VISIBILITY_TIMEOUT = 40

#: Seconds that a task may run. Each of its operations has a limit of its own.
LONGEST_TASK = 6 * 3600

#: Seconds that the broker may take for a reply: longer than a worker's wait for the next message, which is 1 s.
SILENCE = 15.0

#: Settings of Celery that no deployment changes, each with its reason.
_FIXED: dict[str, Any] = {
    # A task whose worker dies goes to another one; the ledger knows which files are done.
    "task_acks_late": True,
    # Otherwise a killed child process fails its task, and with it the chord.
    "task_reject_on_worker_lost": True,
    # Prefetched messages count against the visibility timeout, and a part should go to an idle worker.
    "worker_prefetch_multiplier": 1,
    # A worker keeps messages that wait for their time in memory, about 10 kB each. Then it takes no more.
    "worker_eta_task_limit": 20_000,
    # Otherwise a Redis that is killed amid a chord loses the count of its parts.
    "result_backend_always_retry": True,
    "result_backend_max_retries": 20,
    # One connection pool for all threads: by default each thread leaves one open when it ends.
    "result_backend_thread_safe": True,
    "broker_connection_retry_on_startup": True,
    # A worker survives an outage of its broker.
    "broker_connection_max_retries": None,
    # A full Redis refuses a command although it is reachable. The worker reconnects until there is room; by default
    # it ends.
    "broker_channel_error_retry": True,
    # A task continues while the broker is lost. Its second delivery finds the claim of the first and ends. Cancelling
    # the first would send its files twice, and leave its claim to expire.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Above all our limits: ends a task that hangs in the system, such as on a lost file server. At the soft limit a
    # task fails the rest of its work with that reason; at the hard limit it is killed and its work requeued.
    "task_soft_time_limit": LONGEST_TASK,
    "task_time_limit": LONGEST_TASK + 300,
    # Seconds for running parts to end when the worker must stop at once.
    "worker_soft_shutdown_timeout": 10.0,
    # Flower lists tasks by these events; arguments are hidden in them.
    "worker_send_task_events": True,
    "task_send_sent_event": True,
    "task_track_started": True,
    # Tasks count their own retries: `retry(max_retries=None)` alone means Celery's default of 3. Then it raises, and
    # the chord of a part that raises is lost.
    # And whoever publishes a task, of whatever name, no event, log line or `inspect` shows its arguments.
    "task_annotations": {"*": {"max_retries": None, "Request": "pacs_tasks.messages.envelope:PrivateRequest"}},
    # A traceback of a library on stderr stays readable; our code prints nothing.
    "worker_redirect_stdouts": False,
    "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.5},
}


def _transport_options(config: Settings) -> dict[str, Any]:
    return {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        # Seconds between two checks for abandoned messages; the default is 100.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # Keys of our own: on a shared broker the shortest visibility timeout wins, so that another application would
        # deliver our tasks twice, or we theirs.
        "unacked_key": UNACKED,
        "unacked_index_key": "pacs_tasks.unacked_index",
        "unacked_mutex_key": "pacs_tasks.unacked_mutex",
        # A worker or a Redis that is killed amid such a check leaves its lock behind. By default no worker checks again
        # for 300 s then. Two checks at once do no harm.
        "unacked_mutex_expire": 10,
        "socket_connect_timeout": config.redis_timeout,
        # Otherwise a command to a Redis that accepts connections and stays silent waits for ever.
        "socket_timeout": SILENCE,
        # True disables kombu's batched publishing, which enqueues a chord of thousands of parts quickly.
        "retry_on_timeout": False,
    }


def configuration(config: Settings, redis_url: str | None = None) -> dict[str, Any]:
    """Return the settings of Celery, each with its reason.

    Parameters
    ----------
    config
        The Redis and its time limits.
    redis_url
        Another Redis than ``config`` names.
    """
    url = redis_url or config.redis_url or DEFAULT_REDIS_URL
    if url.startswith("unix://"):
        # The same address as kombu and Celery's backend write it; redis-py has other names for scheme and database.
        url = f"redis+socket://{url.removeprefix('unix://')}"
        url = url.replace("?db=", "?virtual_host=").replace("&db=", "&virtual_host=")
    if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:
        # redis-py requires a certificate by default; Celery wants to be told so.
        url += f"{'&' if '?' in url else '?'}ssl_cert_reqs=required"
    return {
        "broker_url": url,
        "result_backend": url,
        # For Flower's page about the broker, which does not read the address.
        "broker_use_ssl": parse_url(url).get("ssl"),
        "broker_transport_options": _transport_options(config),
        # The backend reads its visibility timeout here; it must be that of the broker.
        "result_backend_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT},
        "redis_socket_connect_timeout": config.redis_timeout,
        "redis_socket_timeout": SILENCE,
        # A Unix socket has no keep-alive, and redis-py rejects the option for it.
        "redis_socket_keepalive": None if url.startswith("redis+socket:") else True,
        # Pickle would run code that a stranger puts on the queue.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_queues": {name: {"exchange": name, "routing_key": name} for name in QUEUES},
        # A misspelt queue is an error, not a queue without a worker. Only what follows a task goes to any queue.
        "task_create_missing_queues": False,
        # What follows a task of another service and names no queue goes where Celery's default sends it.
        "task_default_queue": "celery",
        "task_routes": {
            # Celery's own tasks, such as a group in a chain: the worker that publishes them can do them.
            "celery.*": {"queue": FIND_QUEUE},
            **{task: {"queue": each.queue} for each in OPERATIONS.values() for task in (each.task, *each.steps)},
        },
        "result_expires": config.keep_jobs,
        **_FIXED,
    }


def close_results(app: Celery) -> None:
    """Close the connections of an app's result backend.

    ``Celery.close`` leaves them to the garbage collector, which may find the socket before its connection, and warns of
    it in whatever runs at that time. Those for publishing belong to kombu's pools, which the apps of a process share.
    """
    if app._backend is not None:
        # A result that lives longer would open a connection anew to unsubscribe.
        app._backend.result_consumer.subscribed_to.clear()
        app._backend.result_consumer.stop()
        app._backend.client.connection_pool.disconnect()


class _ClosingCelery(Celery):  # type: ignore[misc]  # Celery is not typed
    """A Celery app that closes all connections of its own."""

    def close(self) -> None:
        close_results(self)
        super().close()


def create(redis_url: str, config: Settings) -> Celery:
    """Create an app for the Redis at ``redis_url``; closing it closes its connections."""
    created = _ClosingCelery("pacs_tasks", set_as_current=False)
    created.conf.update(configuration(config, redis_url))
    return created


#: The app of this process. It reads the settings when it is first used.
app = Celery("pacs_tasks", set_as_current=False)
app.add_defaults(lambda: configuration(settings()))
