"""The queues in the Redis of a fleet, filled as Celery does, without loading Celery."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

from pacs_tasks import embedded
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.journal import tracing
from pacs_tasks.ledger.claims import Presence
from pacs_tasks.messages.shown import shown_arguments
from pacs_tasks.operations import HIDDEN, OPERATIONS, queue_key

if TYPE_CHECKING:
    import redis

    from pacs_tasks.settings import Settings

#: Neither positional nor named arguments, and nothing that follows the task.
_BODY = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


class Broker:
    """The queues in the Redis of a fleet, filled as Celery does. Loading Celery would double a short command's time.

    A message has version 2 of Celery's task protocol in kombu's envelope for Redis. A test compares each field with
    what the pinned version of Celery sends. Other services send theirs with Celery itself.

    Parameters
    ----------
    client
        The connection to it.
    settings
        Its time limits.
    private
        Whether it is the private server, whose supervisor starts the worker and starts it again.
    """

    def __init__(self, client: redis.Redis, settings: Settings, *, private: bool = False) -> None:
        self._redis = client
        self._settings = settings
        self._private = private

    def publish(self, task: str, job_id: str, priority: int = 0) -> None:
        """Put the task of a job that the ledger knows on its queue; ``priority`` is that of the message.

        Raises
        ------
        BrokerUnavailableError
            If the Redis does not accept it.
        """
        queue = OPERATIONS[task].queue
        with tracing.span(self._settings.traces, f"enqueue {OPERATIONS[task].command}", job=job_id):
            self._redis.lpush(queue_key(queue, priority), _message(task, job_id, queue, priority, self._settings))
        # Flower shows a task from this event on. The job does not depend on it.
        with contextlib.suppress(BrokerUnavailableError):
            database = self._redis.connection_pool.connection_kwargs.get("db") or 0
            self._redis.publish(f"/{database}.celeryev/task.sent", _sent_event(task, job_id, queue))

    def forget(self, job_id: str) -> None:
        """Delete Celery's result of a job: the first success of an id would stay for good."""
        self._redis.delete(f"celery-task-meta-{job_id}")

    def has_worker(self) -> bool:
        """Report whether a worker serves this Redis. A private worker may still be starting."""
        if self._private:
            return not embedded.failure(self._settings)
        return Presence(self._redis).any()


def _message(task: str, job_id: str, queue: str, priority: int, config: Settings) -> str:
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": job_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": job_id,
        "parent_id": None,
        "argsrepr": HIDDEN,
        "kwargsrepr": HIDDEN,
        "origin": _sender(),
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        **tracing.carried(config.traces),
    }
    if config.signing_key:
        # Loads Celery.
        from pacs_tasks.messages.signature import HEADER, Signed, own_signature

        headers[HEADER] = own_signature(config, Signed(task, job_id, _BODY))
    shown = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN}
    return _envelope(_BODY, headers, "", queue, priority, delivery_mode=2, correlation_id=job_id, reply_to="", **shown)


def _sent_event(task: str, job_id: str, queue: str) -> str:
    shown, job = shown_arguments(task, job_id, ())
    event = {
        "type": "task-sent",
        "timestamp": time.time(),
        "hostname": _sender(),
        "utcoffset": (time.altzone if time.localtime().tm_isdst else time.timezone) / 3600,
        "pid": os.getpid(),
        "clock": 1,
        "uuid": job_id,
        "root_id": job_id,
        "parent_id": None,
        "name": task,
        "args": shown,
        "kwargs": job,
        "retries": 0,
        "eta": None,
        "expires": None,
        "queue": queue,
        "exchange": "",
        "routing_key": queue,
    }
    return _envelope(event, {"hostname": _sender()}, "celeryev", "task.sent", 0, delivery_mode=1)


def _envelope(
    body: Any, headers: dict[str, Any], exchange: str, routing_key: str, priority: int, **properties: Any
) -> str:
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                **properties,
                "delivery_info": {"exchange": exchange, "routing_key": routing_key},
                "priority": priority,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _sender() -> str:
    return f"gen{os.getpid()}@{socket.gethostname()}"
