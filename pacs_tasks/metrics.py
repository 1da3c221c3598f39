"""The figures of a fleet for Prometheus, read from its Redis at each request.

Workers, receivers, ``serve`` and Flower give the same figures, so whoever watches reads one of them, or all and takes
the maximum. They survive the processes that did the work: :meth:`.Ledger.measure` counts what the ledger records, each
instance once, without a step for each file.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import redis
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pacs_tasks.connection import LateConnection
from pacs_tasks.errors import BrokerUnavailableError, PacsTasksError
from pacs_tasks.fleet import response_times
from pacs_tasks.fleet.leases import AssociationLeases
from pacs_tasks.fleet.outages import Outages
from pacs_tasks.fleet.receivers import reception, running
from pacs_tasks.fleet.webhooks import Webhooks
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import JOBS, RUNNING, server_time
from pacs_tasks.messages.dead_letters import DeadLetters
from pacs_tasks.operations import DIRECTIONS, MESSAGE_PRIORITIES, OPERATIONS, QUEUES, UNACKED, queue_key
from pacs_tasks.outcome import Category
from pacs_tasks.settings import Settings

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds of the seconds of a job, as in ``ledger/lua/metrics.lua``.
BOUNDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, math.inf)
_CATEGORIES = ("success", "warning", "failed", "missing", "present", "skipped")
_MILLISECONDS, _MICROSECONDS = 1000, 1_000_000
#: Messages of a queue that are read for its age: the ledger does not know those that other services wrote.
_HEADS = 20


class About(NamedTuple):
    """What a number is about: an operation by its command, and the remote."""

    operation: str
    direction: str
    remote: str


class FleetCollector(Collector):
    """The figures of a fleet; none if its Redis does not answer.

    Parameters
    ----------
    client
        Returns the Redis of the fleet, over a connection with a short timeout.
    """

    def __init__(self, client: Callable[[], redis.Redis]) -> None:
        self._client = client

    def describe(self) -> Iterable[Metric]:
        """Describe nothing, so that nobody queries Redis at the start of a process."""
        return []

    def collect(self) -> Iterable[Metric]:
        try:
            return list(_metrics(self._client()))
        except (BrokerUnavailableError, redis.RedisError) as error:
            logger.warning("Redis gave no metrics of the fleet (%s).", type(error).__name__)
            return []


def serve_metrics(config: Settings, redis_url: str) -> None:
    """Serve ``/metrics`` from a thread if the settings name a port; a port in use is no reason not to work.

    The figures are those of the fleet, and what this process uses.
    """
    if config.metrics_port is None:
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(FleetCollector(LateConnection(redis_url).client))
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


def exposition(client: redis.Redis) -> bytes:
    """Give the figures of the fleet as Prometheus reads them, with :data:`CONTENT_TYPE`; blocks while Redis answers."""
    registry = CollectorRegistry()
    registry.register(FleetCollector(lambda: client))
    return generate_latest(registry)


def _metrics(client: redis.Redis) -> Iterator[Metric]:
    ledger = Ledger(client)
    yield from _work(ledger.measure())
    yield from _associations(AssociationLeases(client))
    now = server_time(client)
    yield from _outages(Outages(client), now)
    yield from _queues(ledger, now)
    yield from _receivers(client)
    yield GaugeMetricFamily(
        "pacs_tasks_dead_letters", "Messages that no worker serves", value=DeadLetters(client, 0).count()
    )
    yield GaugeMetricFamily(
        "pacs_tasks_webhooks_given_up",
        "Events that no webhook took and that are tried no more",
        value=Webhooks(client).count_given_up(),
    )
    yield GaugeMetricFamily("pacs_tasks_ledger_jobs", "Jobs that the ledger keeps", value=client.zcard(JOBS))
    yield GaugeMetricFamily("pacs_tasks_jobs_running", "Jobs that workers have begun", value=client.zcard(RUNNING))
    memory = cast("dict[str, int]", client.info("memory"))
    for name, field, meaning in (
        ("pacs_tasks_redis_memory_bytes", "used_memory", "Memory that Redis uses"),
        ("pacs_tasks_redis_memory_limit_bytes", "maxmemory", "Memory that Redis may use; 0 for no limit"),
    ):
        yield GaugeMetricFamily(name, meaning, value=memory.get(field, 0))


def _work(measured: Mapping[str, int]) -> Iterator[Metric]:
    """What jobs have done, and how fast remotes answered."""
    work: defaultdict[About, dict[str, int]] = defaultdict(dict)
    answered: defaultdict[About, dict[str, int]] = defaultdict(dict)
    for field, number in measured.items():
        parts = field.split("\t")
        if len(parts) == len(About._fields) + 1:
            about = About(*parts[:-1])
            (answered if about.direction == response_times.ANSWERED else work)[about][parts[-1]] = number
    yield from _moved(work)
    yield from _ended(work)
    seconds = HistogramMetricFamily(
        "pacs_tasks_dimse_seconds",
        "Seconds from a request to the final response of the remote",
        labels=["service", "remote"],
    )
    for about, numbers in sorted(answered.items()):
        total = numbers.get("microseconds", 0) / _MICROSECONDS
        seconds.add_metric([about.operation, about.remote], _buckets(numbers, response_times.BOUNDS), total)
    yield seconds


def _moved(work: Mapping[About, Mapping[str, int]]) -> Iterator[Metric]:
    labels = ["operation", "direction", "remote"]
    instances = CounterMetricFamily(
        "pacs_tasks_instances", "Files and instances with an outcome", labels=[*labels, "category"]
    )
    moved = CounterMetricFamily(
        "pacs_tasks_bytes",
        "Bytes that were transferred, by the outcome of their instance",
        labels=[*labels, "category"],
    )
    retries = CounterMetricFamily(
        "pacs_tasks_retries", "Files and rows that went to the remote in vain and were tried again", labels=labels
    )
    for about, numbers in sorted(work.items()):
        if about.direction in DIRECTIONS:
            for category in _CATEGORIES:
                if category in numbers:
                    instances.add_metric([*about, category], numbers[category])
            warned = numbers.get("warning_bytes", 0)
            moved.add_metric([*about, "success"], numbers.get("bytes", 0) - warned)
            moved.add_metric([*about, "warning"], warned)
        retries.add_metric(list(about), numbers.get("retries", 0))
    yield from (instances, moved, retries)


def _ended(work: Mapping[About, Mapping[str, int]]) -> Iterator[Metric]:
    ended = CounterMetricFamily("pacs_tasks_jobs_ended", "Jobs that ended", labels=["operation", "remote", "category"])
    seconds = HistogramMetricFamily(
        "pacs_tasks_job_seconds", "Seconds from the start of a job to its end", labels=["operation", "remote"]
    )
    for about, numbers in sorted(work.items()):
        of_job = [about.operation, about.remote]
        for ending in Category:
            # From 0 on: Prometheus sees no increase in a series that begins with its first failure.
            ended.add_metric([*of_job, ending], numbers.get(f"ended {ending}", 0))
        seconds.add_metric(of_job, _buckets(numbers, BOUNDS), numbers.get("milliseconds", 0) / _MILLISECONDS)
    yield from (ended, seconds)


def _buckets(numbers: Mapping[str, int], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """The buckets of a histogram, each with those before it."""
    count, found = 0, []
    for place, bound in enumerate(bounds, start=1):
        count += numbers.get(f"within {place}", 0)
        found.append(("+Inf" if math.isinf(bound) else f"{bound:g}", float(count)))
    return found


def _associations(leases: AssociationLeases) -> Iterator[Metric]:
    found = leases.in_use()
    for name, field, meaning in (
        ("pacs_tasks_associations", "in_use", "Associations that the fleet has open to a remote"),
        ("pacs_tasks_associations_limit", "limit", "Associations that the fleet may have open to a remote"),
        ("pacs_tasks_associations_waiting", "waiting", "Tasks that wait for an association to a remote"),
    ):
        gauge = GaugeMetricFamily(name, meaning, labels=["remote"])
        for each in found:
            gauge.add_metric([each.remote], getattr(each, field))
        yield gauge


def _outages(outages: Outages, now: float) -> Iterator[Metric]:
    parked = GaugeMetricFamily("pacs_tasks_parked_jobs", "Jobs that wait for a remote that is down", labels=["remote"])
    down = GaugeMetricFamily("pacs_tasks_remote_down_seconds", "Seconds since a remote went down", labels=["remote"])
    for each in outages.all():
        parked.add_metric([each.name], each.jobs)
        down.add_metric([each.name], max(0.0, now - each.since))
    yield from (parked, down)


def _queues(ledger: Ledger, now: float) -> Iterator[Metric]:
    labels = ["queue", "priority"]
    depth = GaugeMetricFamily("pacs_tasks_messages", "Messages that wait for a worker", labels=labels)
    age = GaugeMetricFamily(
        "pacs_tasks_oldest_message_seconds", "Age of the message that has waited longest", labels=labels
    )
    for queue in QUEUES:
        for priority in MESSAGE_PRIORITIES:
            key, names = queue_key(queue, priority), [queue, str(priority)]
            depth.add_metric(names, ledger.client.llen(key))
            oldest = cast("list[str]", ledger.client.lrange(key, -_HEADS, -1))
            ages = (_age(ledger, each, now) for each in reversed(oldest))
            age.add_metric(names, next(filter(None, ages), 0.0))
    yield from (depth, age)
    yield GaugeMetricFamily(
        "pacs_tasks_messages_taken", "Messages that workers have and have not done", value=ledger.client.hlen(UNACKED)
    )


def _age(ledger: Ledger, message: str, now: float) -> float:
    """Seconds since a message was published: a part with the start of its job, any other when its job was enqueued.

    A job that went back to its queue, such as for a retry, was enqueued then.

    Zero if the ledger does not know the job: the client of another service writes nothing there.
    """
    try:
        headers = json.loads(message)["headers"]
        job_id = str(headers["root_id"] or headers["id"])
        progress = ledger.progress(job_id)
        begun = progress.created if headers["task"] in OPERATIONS or not progress.started else progress.started
        begun = max(begun, ledger.queued_again(job_id))
    except (PacsTasksError, redis.ResponseError, LookupError, TypeError, ValueError):
        return 0.0
    return max(0.0, now - begun)


def _receivers(client: redis.Redis) -> Iterator[Metric]:
    active = running(client)
    yield GaugeMetricFamily("pacs_tasks_receivers", "Receivers that run", value=len(active))
    instances = CounterMetricFamily(
        "pacs_tasks_receiver_instances",
        "Instances that a receiver was sent: expected by a job, unsolicited, or refused",
        labels=["receiver", "category"],
    )
    moved = CounterMetricFamily("pacs_tasks_receiver_bytes", "Bytes that a receiver has stored", labels=["receiver"])
    counted = {(receiver, name): number for receiver, name, number in reception(client)}
    for receiver in sorted({*(each.ae_title for each in active), *(receiver for receiver, _ in counted)}):
        # From 0 on, as what jobs have done.
        for name in ("expected", "unsolicited", "refused"):
            instances.add_metric([receiver, name], counted.get((receiver, name), 0))
        moved.add_metric([receiver], counted.get((receiver, "bytes"), 0))
    yield from (instances, moved)
