"""How a plain Celery service signs its tasks: the lines of docs/howto/from-a-service.md, which a test runs too."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from celery.signals import before_task_publish
from kombu.utils.json import dumps


@contextmanager
def signed_by(name: str, key: str, stamp: float | None = None) -> Iterator[None]:
    """Sign every task that this process publishes meanwhile."""

    def sign(headers: dict[str, Any], body: Any, **_: Any) -> None:
        now = int(time.time() if stamp is None else stamp)
        signed = [name, now, headers["task"], headers["id"], headers["eta"], headers["expires"], body]
        plain = json.loads(dumps(signed))
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        mac = hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
        headers["pacs_tasks_signature"] = f"{name}:{now}:{mac}"

    before_task_publish.connect(sign)
    try:
        yield
    finally:
        before_task_publish.disconnect(sign)


def captured(service: Celery, broker: redis.Redis, task: str, kwargs: dict[str, Any], queue: str) -> dict[str, Any]:
    """The message of a task as it stands in its queue, from which it is taken; no worker may serve it meanwhile.

    It is read from Redis and not by kombu: a test of the same process may have imported the channel of workers, which
    refuses the tasks that its process does not have.
    """
    apart = f"apart.{queue}"
    service.send_task(task, kwargs=kwargs, queue=apart).forget()
    found: dict[str, Any] = json.loads(str(broker.rpop(apart)))
    found["properties"]["delivery_info"]["routing_key"] = queue
    return found
