"""A PACS in numbers, without a wire: it drives the tuning of a remote by a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from pacs_tasks.fleet.leases import lease_arguments, lease_keys, tuning_key
from pacs_tasks.fleet.tuning import Trouble
from pacs_tasks.ledger.keys import source

#: Seconds that one instance takes while so many associations are in use.
Service = Callable[[int], float]

_REPORT: Final = 0.1


@dataclass
class _Process:
    """What a worker process has moved since its last report."""

    reported: float
    used: float = 0.0
    instances: int = 0
    cycles: float = 0.0


@dataclass
class ModelPACS:
    """Worker processes that send to it as many files at once as the tuning allows.

    Attributes
    ----------
    service
        May be replaced at any time.
    limit
        The ceiling of associations.
    refuses
        It rejects an association beyond so many.
    accepts
        It lets an association beyond so many wait.
    opening
        Seconds to open an association.
    most
        Files that the workers send at once at most.
    pause
        Seconds between two associations that the workers open.
    history
        When the number changed, and to what.
    """

    client: redis.Redis
    service: Service
    limit: int = 64
    refuses: int = 10_000
    accepts: int = 10_000
    opening: float = 0.05
    most: int = 10_000
    pause: float = 0.0
    processes: int = 2
    size: int = 500_000
    spread: float = 0.1
    now: float = 1_000_000.0
    done: int = 0
    history: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = source("fleet", "tune").replace("redis.call('TIME')", "{ARGV[#ARGV], 0}")
        self._script = self.client.register_script(text)
        self._random = random.Random(1)
        self._moved = [_Process(self.now) for _ in range(self.processes)]
        self._numbers = itertools.count()
        self._next_opening = 0.0
        #: By association, its process, since when it is in use or its use was reported, and when its cycle began.
        self._open: dict[int, list[float]] = {}
        self._events: list[tuple[float, int]] = []
        self.number = 4
        self._report(0)

    def run(self, seconds: float) -> float:
        """Let time pass; give the instances a second."""
        end, before = self.now + seconds, self.done
        while True:
            self._fill()
            at, name = self._events[0]
            if at > end:
                self.now = end
                return (self.done - before) / seconds
            heapq.heappop(self._events)
            self.now = at
            self._complete(name)

    def report(self, seconds: float, in_use: float, cycle: float, opening: float = 0.0) -> None:
        """Let the first process report associations in use and being opened, and seconds for an instance on each."""
        for _ in range(round(seconds / _REPORT)):
            self.now += _REPORT
            instances = max(1, round(in_use * _REPORT / cycle))
            self._moved[0] = _Process(self.now - _REPORT, in_use * _REPORT, instances, instances * cycle)
            self._report(0, unaccepted=opening * _REPORT)

    def _fill(self) -> None:
        while len(self._open) < min(self.number, self.most, self.accepts) and self._next_opening <= self.now:
            self._next_opening = self.now + self.pause
            name = next(self._numbers)
            if len(self._open) >= self.refuses:
                self._report(name % self.processes, Trouble.REFUSED)
                return
            begun = self.now + self.opening
            self._open[name] = [name % self.processes, begun, begun]
            self._schedule(name, begun)

    def _waiting(self) -> int:
        """How many associations it lets wait."""
        return max(0, min(self.number, self.most) - max(self.accepts, len(self._open)))

    def _schedule(self, name: int, begun: float) -> None:
        spread = self._random.uniform(1 - self.spread, 1 + self.spread)
        heapq.heappush(self._events, (begun + self.service(len(self._open)) * spread, name))

    def _complete(self, name: int) -> None:
        place, _, begun = self._open[name]
        moved = self._moved[int(place)]
        self.done += 1
        moved.instances += 1
        moved.cycles += self.now - begun
        self._open[name][2] = self.now
        for each, process in enumerate(self._moved):
            if (each == place or self._waiting()) and self.now - process.reported >= _REPORT:
                self._report(each)
        if len(self._open) > self.number:
            moved.used += self.now - self._open.pop(name)[1]
        else:
            self._schedule(name, self.now)

    def _report(self, place: int, trouble: Trouble = Trouble.NONE, unaccepted: float = 0.0) -> None:
        moved = self._moved[place]
        used = moved.used
        for each in self._open.values():
            if each[0] == place and each[1] < self.now:
                used += self.now - each[1]
                each[1] = self.now
        numbers = [self.now - moved.reported, used, moved.instances, moved.instances * self.size]
        arguments: list[Any] = [*lease_arguments("MODEL", self.limit), "", f"process-{place}", *numbers]
        unaccepted += self._waiting() / self.processes * (self.now - moved.reported)
        arguments += [moved.cycles, moved.cycles, unaccepted, trouble.value, self.now]
        reply = self._script(keys=[*lease_keys("MODEL"), f"{tuning_key('MODEL')}:window"], args=arguments)
        assert all(json.loads(each) for each in reply[2::2])
        self._moved[place] = _Process(self.now)
        if reply[0] != self.number or not self.history:
            self.number = reply[0]
            self.history.append((self.now - 1_000_000.0, self.number))
