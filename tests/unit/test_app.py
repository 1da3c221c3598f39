"""The Celery app of a client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import redis
from kombu.transport.redis import Mutex

from pacs_tasks.app import create
from pacs_tasks.settings import Settings
from tests.support.waiting import wait_until


def test_threads_of_a_client_share_its_connections() -> None:
    """A service that retries jobs in threads that soon end would collect connections otherwise."""
    with create("redis://127.0.0.1:1/0", Settings()) as app, ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: app.backend).result() is app.backend


def test_who_dies_while_it_looks_for_abandoned_messages_holds_nobody_up(redis_url: str) -> None:
    """The lock that kombu takes for it expires in seconds; by default, in five minutes."""
    with create(redis_url, Settings()) as app, app.connection_for_write() as connection:
        channel = connection.default_channel
        with Mutex(channel.client, channel.unacked_mutex_key, channel.unacked_mutex_expire):
            assert 0 < channel.client.pttl(channel.unacked_mutex_key) <= 10_000


def test_an_app_closes_its_connections(redis_url: str) -> None:
    """One for results, and one that hears of them: Celery itself leaves both to the garbage collector."""
    with redis.Redis.from_url(redis_url) as client:

        def connections() -> int:
            """Those of this test's database, without our own."""
            number = redis_url.rpartition("/")[2]
            return len([each for each in client.client_list() if each["db"] == number]) - 1

        app = create(redis_url, Settings())
        result = app.AsyncResult("none")
        app.backend.result_consumer.consume_from(result.id)
        assert result.state == "PENDING"
        assert connections() == 2
        app.close()
        del result
        wait_until(lambda: not connections(), 10, "both are closed")
