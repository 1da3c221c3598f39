"""How many requests each remote answered within how many seconds, by service, counted for the whole fleet.

A worker process counts in its memory and adds that to Redis whenever it has used an association, so no file costs a
command. What a process has not added when it dies is missing.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from pacs_tasks.ae import RemoteAE
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.ledger.keys import Scripts

if TYPE_CHECKING:
    import redis

#: The direction of these numbers among those of :meth:`.Ledger.measure`.
ANSWERED = "answered"
#: Upper bounds in seconds; longer ones have a place of their own.
BOUNDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, math.inf)


class ResponseTimes:
    """The response times that one process has measured and not yet added; safe in threads.

    Parameters
    ----------
    client
        Returns the Redis of the fleet. Asked only when something is added: a response that is counted waits for no
        Redis.
    """

    def __init__(self, client: Callable[[], redis.Redis]) -> None:
        self._client, self._lock = client, threading.Lock()
        #: By remote, and then by service and what is counted, as ``lua/metrics.lua`` of the ledger names it.
        self._counts: dict[str, Counter[tuple[str, str]]] = {}

    def note(self, remote: RemoteAE, service: str, seconds: float) -> None:
        """Count one final response."""
        place = bisect_left(BOUNDS, seconds) + 1
        with self._lock:
            counts = self._counts.setdefault(name_of(remote), Counter())
            counts[service, f"within {place}"] += 1
            counts[service, "microseconds"] += max(0, round(1_000_000 * seconds))

    def add(self, remote: str) -> None:
        """Add what was counted of a remote, which goes by its :func:`~pacs_tasks.fleet.leases.name_of`.

        Raises
        ------
        BrokerUnavailableError, redis.RedisError
            If Redis does not answer; what was counted is lost.
        """
        with self._lock:
            counts = self._counts.pop(remote, None)
        if counts:
            numbers = [text for key, number in counts.items() for text in (*key, number)]
            self._scripts.run("add_response_times", [], [ANSWERED, remote, *numbers])

    @cached_property
    def _scripts(self) -> Scripts:
        return Scripts(self._client(), "fleet")
