"""Flower, the monitor of workers and tasks: ``python -m workers.flowerconfig``.

Its events pass :mod:`workers.transport`, as the messages of a worker do: a malformed one would interrupt it.

This is also a configuration file of Flower: ``celery -A pacs_tasks.app flower --conf=workers/flowerconfig.py``. The
names at the end are Flower's options. Flower shows which task runs where, but neither arguments nor results.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import runpy
import signal
import sys
from collections.abc import Callable, Iterable
from functools import cache

# Flower would read the module's name as its option --logging.
from logging import StreamHandler, getLogger
from types import SimpleNamespace
from typing import Any

import redis
from flower import urls, views
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop
from tornado.web import OutputTransform

from pacs_tasks.app import DEFAULT_REDIS_URL
from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerUnavailableError, PacsTasksError
from pacs_tasks.fleet.leases import AssociationLeases
from pacs_tasks.logs import log_plainly, write_lines
from pacs_tasks.messages.dead_letters import DeadLetters
from pacs_tasks.settings import load, remark_on_variables
from workers import logs

logger = getLogger("pacs_tasks.flower")

#: Seconds that Redis has for an answer; Flower does nothing else meanwhile.
_QUICK = 1.0


#: The one script inside Flower's pages, in workers.html, which the policy allows by its hash.
INLINE_SCRIPT = "\nvar autorefresh = 1;\n"
_HASH = base64.b64encode(hashlib.sha256(INLINE_SCRIPT.encode()).digest()).decode()
#: Pages load nothing from elsewhere, and nobody shows them in a frame. DataTables writes style attributes.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'self'; script-src 'self' 'sha256-{_HASH}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class SafeHeaders(OutputTransform):
    """Adds :data:`HEADERS` to every response, also to those of files and errors."""

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,  # noqa: ARG002 - Tornado's signature
    ) -> tuple[int, HTTPHeaders, bytes]:
        for name, value in HEADERS.items():
            headers[name] = value
        return status_code, headers, chunk


def _same(expected: str, given: str) -> bool:
    """Compare logins as bytes. Flower compares texts, for which hmac raises TypeError unless both are ASCII."""
    return hmac.compare_digest(expected.encode(), given.encode())


def hide(task: Any) -> Any:
    """Remove from a task the values that Flower must not show."""
    task.args = task.kwargs = task.result = "(hidden)"
    return task


@cache
def _fleet() -> redis.Redis:
    """The Redis of the fleet."""
    return connect(load().redis_url or DEFAULT_REDIS_URL, _QUICK)


def budget() -> AssociationLeases:
    """The association budget in the Redis of the fleet."""
    return AssociationLeases(_fleet())


def count_letters() -> int:
    """The number of dead letters in the Redis of the fleet."""
    return DeadLetters(_fleet(), load().keep_jobs).count()


class FleetCollector(Collector):
    """Gauges of the fleet at ``/metrics``, read from Redis at each request; none if it does not answer.

    Parameters
    ----------
    budget, letters
        Return the budget and the number of dead letters, over a connection with a short timeout.
    """

    def __init__(self, budget: Callable[[], AssociationLeases], letters: Callable[[], int]) -> None:
        self._budget, self._letters = budget, letters

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Describe nothing, so that Flower does not query Redis at its start."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        try:
            found = self._budget().in_use()
            letters = GaugeMetricFamily(
                "pacs_tasks_dead_letters", "Messages that no worker serves", value=self._letters()
            )
        except (BrokerUnavailableError, redis.RedisError) as error:
            logger.warning("Redis gave no metrics of the fleet (%s).", type(error).__name__)
            return
        yield letters
        for name, field, meaning in (
            ("pacs_tasks_associations", "in_use", "Associations that the fleet has open to a remote"),
            ("pacs_tasks_associations_limit", "limit", "Associations that the fleet may have open to a remote"),
            ("pacs_tasks_associations_waiting", "waiting", "Tasks that wait for an association to a remote"),
        ):
            gauge = GaugeMetricFamily(name, meaning, labels=["remote"])
            for each in found:
                gauge.add_metric([each.remote], getattr(each, field))
            yield gauge


def _hold_sigterm() -> None:
    """Have Flower's event loop handle SIGTERM between its callbacks, and hold the signal until the loop runs.

    Flower itself exits from wherever it is. While a class is created, that raises another error before Python 3.12;
    while a thread starts, it leaves a thread that never ends.
    """
    if sys.platform != "win32":

        def handle() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, IOLoop.current().stop)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        IOLoop.current().add_callback(handle)


def main() -> int:
    """Run Flower with this file as its configuration."""
    try:
        load().flower_login()
    except PacsTasksError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.argv = ["celery", "-A", "pacs_tasks.app", "flower", f"--conf={__file__}"]
    _hold_sigterm()
    runpy.run_module("celery", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Flower reads this file under another name, and uses the names below.
try:
    _config = load()
    basic_auth = [_config.flower_login()]
except PacsTasksError as _error:
    sys.exit(str(_error))
log_plainly()
if _config.log_format == "json" and not getLogger().handlers:
    # Tornado adds its own output only where there is none.
    getLogger().addHandler(StreamHandler())
write_lines(_config.log_format)
if _remark := remark_on_variables():
    logger.warning("%s", _remark)
views.hmac = SimpleNamespace(compare_digest=_same)
urls.settings["transforms"] = [SafeHeaders]
REGISTRY.register(FleetCollector(budget, count_letters))
logs.hide_bodies()
address = _config.flower_address
port = _config.flower_port
format_task = hide
#: Jobs are cancelled and retried with our own commands, which the ledger records.
read_only = True
#: Seconds for which a worker that is gone is still shown.
purge_offline_workers = 60
max_tasks = 10_000
