"""Flower, which watches workers and tasks: ``python -m workers.flowerconfig``.

Also a configuration file of Flower: ``celery -A pacs_tasks.app flower --conf=workers/flowerconfig.py``. The names at
the end are Flower's options. It shows which task runs where, and never arguments or results.
"""

from __future__ import annotations

import asyncio
import runpy
import signal
import sys
from collections.abc import Callable, Iterable
from functools import cache

# Not the module: Flower would read its name as the option --logging.
from logging import getLogger
from typing import Any

import redis
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from tornado.ioloop import IOLoop

from pacs_tasks.app import DEFAULT_REDIS_URL
from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerUnavailableError, ConfigurationError, PacsTasksError
from pacs_tasks.fleet.associations import AssociationLeases
from pacs_tasks.settings import Settings, load

logger = getLogger("pacs_tasks.flower")

#: Seconds that Redis has for an answer: Flower does nothing else meanwhile.
_QUICK = 1.0


def login(config: Settings) -> str:
    """The ``user:password`` that Flower asks for.

    Raises
    ------
    ConfigurationError
        If there is none: Flower without one would show and stop tasks for everybody who reaches its port.
    """
    user, _, password = (config.flower_basic_auth or "").partition(":")
    if not user or not password:
        raise ConfigurationError(
            "Flower does not start without a login; set PACS_TASKS_FLOWER_BASIC_AUTH to user:password"
        )
    return f"{user}:{password}"


def hide(task: Any) -> Any:
    """What Flower may show of a task."""
    task.args = task.kwargs = task.result = "(hidden)"
    return task


@cache
def budget() -> AssociationLeases:
    """The association budget in the Redis of the fleet."""
    return AssociationLeases(connect(load().redis_url or DEFAULT_REDIS_URL, _QUICK))


class AssociationCollector(Collector):
    """Gauges that are read from Redis whenever somebody asks for the metrics; none where it does not answer.

    Parameters
    ----------
    budget
        Gives the budget, by a connection that does not keep Flower waiting.
    """

    def __init__(self, budget: Callable[[], AssociationLeases]) -> None:
        self._budget = budget

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: to ask Redis when Flower starts would be too early."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        try:
            found = self._budget().in_use()
        except (BrokerUnavailableError, redis.RedisError) as error:
            logger.warning("no metrics of associations (%s)", type(error).__name__)
            return
        for name, field, meaning in (
            ("pacs_tasks_associations", "in_use", "Associations with a remote that the fleet has open"),
            ("pacs_tasks_associations_limit", "limit", "Associations with a remote that the fleet may have open"),
            ("pacs_tasks_associations_waiting", "waiting", "Tasks that wait for an association with a remote"),
        ):
            gauge = GaugeMetricFamily(name, meaning, labels=["remote"])
            for each in found:
                gauge.add_metric([each.remote], getattr(each, field))
            yield gauge


def _hold_sigterm() -> None:
    """Have the order to end heard by Flower's loop, between its callbacks, and not before that runs.

    Flower itself answers it by an exit from wherever it is. In the middle of the making of a class that becomes an
    error before Python 3.12, and in the middle of the start of a thread it leaves one that is waited for without end.
    """
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        IOLoop.current().add_callback(_heed_sigterm)


def _heed_sigterm() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, IOLoop.current().stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def main() -> int:
    """Run Flower with this file as its configuration."""
    try:
        login(load())
    except PacsTasksError as error:
        print(error, file=sys.stderr)  # noqa: T201 - there is no log yet
        return 2
    sys.argv = ["celery", "-A", "pacs_tasks.app", "flower", f"--conf={__file__}"]
    _hold_sigterm()
    runpy.run_module("celery", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Flower reads this file under another name, and takes these.
try:
    _config = load()
    basic_auth = [login(_config)]
except PacsTasksError as _error:
    sys.exit(str(_error))
REGISTRY.register(AssociationCollector(budget))
address = _config.flower_address
port = _config.flower_port
format_task = hide
#: It watches. Jobs are cancelled and retried with our own commands, which the ledger knows of.
read_only = True
#: Seconds after which a worker that is gone is no longer shown.
purge_offline_workers = 60
max_tasks = 10_000
