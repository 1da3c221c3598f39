"""What the pages show of the fleet: remotes, queues and workers."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from redis import RedisError

from pacs_tasks.client import PacsClient
from pacs_tasks.fleet.leases import Associations, name_of
from pacs_tasks.fleet.outages import Outage, Outages
from pacs_tasks.operations import FIND_QUEUE, MESSAGE_PRIORITIES, MOVE_QUEUE, STORE_QUEUE, queue_key
from pacs_tasks.settings import Settings

#: Seconds that workers have to answer, and for which their answers are shown.
_PATIENCE = 1.0
_FRESH = 5.0
#: What the pages call the queues.
QUEUES = {STORE_QUEUE: "Send", FIND_QUEUE: "Query", MOVE_QUEUE: "Retrieve"}


@dataclass(frozen=True, slots=True)
class RemoteView:
    """A remote: by which names the settings know it, what it has open, and whether it is down."""

    name: str
    known_as: tuple[str, ...] = ()
    associations: Associations | None = None
    outage: Outage | None = None

    @property
    def share(self) -> float:
        """The share, of 100, of the associations that are in use."""
        found = self.associations
        return min(100.0, round(100 * found.in_use / found.limit, 2)) if found and found.limit else 0.0


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue, with the messages that wait in it by priority: what begins jobs and is urgent first."""

    name: str
    depths: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.depths)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker that answers."""

    name: str
    processes: int
    active: int
    done: int
    uptime: float


def remotes(client: PacsClient, settings: Settings) -> list[RemoteView]:
    """Read every remote that the settings name, that is in use or that is down; those that are down first."""
    redis = client.ledger.client
    names: dict[str, list[str]] = {name_of(settings.default_remote): []}
    for alias, remote in settings.remotes.items():
        names.setdefault(name_of(remote), []).append(alias)
    open_now = {each.remote: each for each in client.associations()}
    down = {each.name: each for each in Outages(redis).all()}
    found = [
        RemoteView(name, tuple(names.get(name, ())), open_now.get(name), down.get(name))
        for name in sorted({*names, *open_now, *down})
    ]
    return sorted(found, key=lambda each: (each.outage is None, each.associations is None))


def queues(client: PacsClient) -> list[QueueView]:
    """Read how many messages wait."""
    redis = client.ledger.client
    return [
        QueueView(name, tuple(int(redis.llen(queue_key(queue, each))) for each in MESSAGE_PRIORITIES))
        for queue, name in QUEUES.items()
    ]


class Workers:
    """The workers of a fleet, asked in the background: their answers take a second.

    Parameters
    ----------
    client
        The client of the fleet's Redis.
    settings
        Its settings.
    """

    def __init__(self, client: PacsClient, settings: Settings) -> None:
        self._client, self._settings = client, settings
        self._lock = threading.Lock()
        self._found: list[WorkerView] | None = None
        self._asked, self._asking = 0.0, False

    def known(self) -> list[WorkerView] | None:
        """Give the workers that answered last; None as long as none was asked. The next ones are asked meanwhile."""
        with self._lock:
            if not self._asking and time.monotonic() - self._asked > _FRESH:
                self._asking = True
                threading.Thread(target=self._ask, name="workers", daemon=True).start()
            return self._found

    def _ask(self) -> None:
        found: list[WorkerView] | None = None
        try:
            found = _answers(self._client.redis_url, self._settings)
        finally:
            with self._lock:
                self._asking, self._asked = False, time.monotonic()
                self._found = self._found if found is None else found


def _answers(redis_url: str, settings: Settings) -> list[WorkerView] | None:
    """Ask the workers; None if the Redis does not carry the question, which is said where it is read."""
    # These load Celery.
    from kombu.exceptions import OperationalError

    from pacs_tasks.app import create

    try:
        with create(redis_url, settings) as app, app.connection_for_write() as connection:
            inspect = app.control.inspect(timeout=_PATIENCE, connection=connection)
            stats: dict[str, Any] = inspect.stats() or {}
            active: dict[str, Any] = (inspect.active() or {}) if stats else {}
    except (OperationalError, RedisError):
        return None
    return [
        WorkerView(
            name=name,
            processes=int(each.get("pool", {}).get("max-concurrency") or 0),
            active=len(active.get(name) or ()),
            done=sum(each.get("total", {}).values()),
            uptime=float(each.get("uptime") or 0),
        )
        for name, each in sorted(stats.items())
    ]
