"""The association budget among what Flower tells Prometheus at ``/metrics``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import redis
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet.associations import Budget

logger = logging.getLogger(__name__)


class AssociationCollector(Collector):
    """Gauges that are read from Redis whenever somebody asks for the metrics; none where it does not answer.

    Parameters
    ----------
    budget
        Gives the budget, by a connection that does not keep Flower waiting.
    """

    def __init__(self, budget: Callable[[], Budget]) -> None:
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
