"""What comes some time after the death of a worker, without the wait."""

from __future__ import annotations

from typing import cast

from pacs_tasks import PacsClient
from pacs_tasks.operations import UNACKED
from tests.support.waiting import wait_until


def expire_claims(client: PacsClient) -> None:
    """Let all claims expire, as if 15 s had passed."""
    redis = client.ledger.client
    for name in wait_until(lambda: list(redis.scan_iter("pacs_tasks:job:*:claims")), 5, "the claims of the dead"):
        redis.hset(name, mapping=dict.fromkeys(redis.hgetall(name), "1.0 the dead"))


def return_messages(client: PacsClient) -> None:
    """Let the unacknowledged messages come back within seconds, as if their 45 s had passed."""
    redis, index = client.ledger.client, f"{UNACKED}_index"
    tags = wait_until(lambda: cast("list[str]", redis.zrange(index, 0, -1)), 5, "the messages of the dead")
    for tag in tags:
        redis.zadd(index, {tag: 1.0}, xx=True)
