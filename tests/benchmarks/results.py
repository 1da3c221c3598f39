"""What a run measured: values that go to JSON and come back."""

from __future__ import annotations

import statistics

from pydantic import BaseModel, ConfigDict, computed_field


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Measured(_Value):
    """The figures of every round of one contestant, in ``unit``."""

    name: str
    unit: str
    values: tuple[float, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def median(self) -> float:
        return statistics.median(self.values)


class BarResult(_Value):
    """What was compared, and whether the bar is reached; without a ``limit`` there is none."""

    name: str
    against: tuple[str, str]
    over: float
    under: float | None
    value: float
    limit: float | None
    at_least: bool
    unit: str
    #: It is about us alone, and not about how fast others are.
    own: bool

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reached(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Sample(_Value):
    """What was seen at a moment: seconds since the begin, outcomes in the ledger, and connections at the peer."""

    at: float
    recorded: int
    associations: int


class Trace(_Value):
    """What a job did, moment by moment; ``mark`` is when something was done to its peer, in seconds."""

    title: str
    samples: tuple[Sample, ...]
    mark: float | None = None
    mark_title: str = ""


class WorkResult(_Value):
    """One work: the figures of its contestants and what came of its bars. ``failure`` says why there is none."""

    name: str
    title: tuple[str, str]
    scheduling: bool = False
    instances: int = 0
    bytes: int = 0
    figures: tuple[Measured, ...] = ()
    bars: tuple[BarResult, ...] = ()
    traces: tuple[Trace, ...] = ()
    failure: str = ""


class Machine(_Value):
    """Where a run took place."""

    system: str
    processor: str
    cores: int
    python: str
    #: By name of program or package.
    versions: dict[str, str]


class Results(_Value):
    """A whole run. ``small``: with few and small files, to see that everything works; its figures say nothing."""

    machine: Machine
    small: bool
    rounds: int
    works: tuple[WorkResult, ...]
