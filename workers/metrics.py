"""The metrics of a worker or a receiver for Prometheus: those of the fleet, and what its own process uses."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from pacs_tasks.connection import connect
from pacs_tasks.metrics import FleetCollector
from pacs_tasks.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds that Redis has for an answer.
_QUICK = 1.0


def fleet(redis_url: str) -> Callable[[], redis.Redis]:
    """Give what connects to the Redis of the fleet when it is first called, with a short timeout."""
    known: list[redis.Redis] = []

    def client() -> redis.Redis:
        if not known:
            known.append(connect(redis_url, _QUICK))
        return known[0]

    return client


def serve_metrics(config: Settings, redis_url: str) -> None:
    """Serve ``/metrics`` from a thread if the settings name a port; a port in use is no reason not to work."""
    if config.metrics_port is None:
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(FleetCollector(fleet(redis_url)))
    try:
        server, _ = start_http_server(config.metrics_port, config.metrics_address, registry)
    except OSError as error:
        logger.error(
            "There are no metrics at %s:%d (%s). Set PACS_TASKS_METRICS_PORT to another port.",
            config.metrics_address,
            config.metrics_port,
            error.strerror,
        )
        return
    logger.info("Metrics are at http://%s:%d/metrics.", config.metrics_address, server.server_port)
