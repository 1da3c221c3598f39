"""The client publishes tasks without Celery. Workers and Flower must not see a difference."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

import pytest

from pacs_tasks.app import create
from pacs_tasks.client.broker import Broker
from pacs_tasks.connection import connect
from pacs_tasks.operations import HIDDEN, OPERATIONS
from pacs_tasks.settings import Settings

#: Fields that differ from one message to the next.
_CHANGING = {"delivery_tag", "timestamp", "clock", "reply_to"}


def _decoded(message: str) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(message)
    envelope["body"] = json.loads(base64.b64decode(envelope["body"]))
    return envelope


def _kinds(value: Any) -> Any:
    """The value, with the type in the place of each field that changes."""
    if isinstance(value, dict):
        return {
            name: type(each).__name__ if name in _CHANGING else _kinds(each) for name, each in sorted(value.items())
        }
    return value


def _sent(redis_url: str, publish: Any, queue: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What arrives on the queue, on which channel the event goes, and the event."""
    client = connect(redis_url, 5)
    listener = cast(Any, client).pubsub()
    # A channel is the same in all databases, and so in those of other tests.
    listener.psubscribe(f"/{redis_url.rpartition('/')[2]}.*")
    while listener.get_message(timeout=5) is None:
        pass
    publish()
    event = None
    while event is None:
        event = listener.get_message(ignore_subscribe_messages=True, timeout=5)
    message = client.rpop(queue)
    assert client.llen(queue) == 0
    listener.close()
    client.close()
    assert isinstance(message, str)
    return _decoded(message), event["channel"], _decoded(event["data"])


@pytest.mark.parametrize("task", ["pacs_tasks.echo", "pacs_tasks.store_directory", "pacs_tasks.retrieve"])
def test_a_message_is_the_one_that_celery_sends(redis_url: str, task: str) -> None:
    """The same envelope, headers, properties and body, and the same event, on the same channel."""
    config, queue = Settings(), OPERATIONS[task].queue
    with create(redis_url, config) as app:
        theirs = _sent(redis_url, lambda: app.send_task(task, task_id="1", argsrepr=HIDDEN, kwargsrepr=HIDDEN), queue)
    client = connect(redis_url, 5)
    ours = _sent(redis_url, lambda: Broker(client, config).publish(task, "1"), queue)
    client.close()
    assert [_kinds(part) for part in ours] == [_kinds(part) for part in theirs]


def test_a_result_is_forgotten_as_celery_forgets_it(redis_url: str) -> None:
    """The result of a later attempt is stored then: Celery never replaces a success."""
    client = connect(redis_url, 5)
    with create(redis_url, Settings()) as app:
        key = app.backend.get_key_for_task("1")
    client.set(key, "a result")
    Broker(client, Settings()).forget("1")
    assert not client.exists(key)
    client.close()
