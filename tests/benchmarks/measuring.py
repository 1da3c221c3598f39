"""The contestants of a work take turns, round by round."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, cast

from tests.benchmarks.files import Files, Recipe, generate
from tests.benchmarks.results import BarResult, Measured, Trace, WorkResult

T = TypeVar("T")


class BenchError(Exception):
    """A work cannot be measured: one sentence says why."""


class Figure(NamedTuple):
    """One measured value."""

    value: float
    unit: str = "s"


@dataclass(frozen=True)
class Contestant:
    """One who does the work. ``run`` does it once, from an empty peer on, and gives figures by their names.

    ``once``: it takes minutes, so that the first round has to do.
    """

    name: str
    run: Callable[[], Mapping[str, Figure]]
    once: bool = False


@dataclass(frozen=True)
class Bar:
    """What is compared: the median of ``over`` over that of ``under``, or ``over`` alone where ``under`` is empty.

    Of several in ``under`` the smallest counts. ``limit`` None is a ratio to look at, without a bar. ``own``: we are
    compared with ourselves, which says nothing about other programs.
    """

    name: str
    over: str
    under: tuple[str, ...]
    limit: float | None
    #: What stands in the README's table: compared with whom, in English and in Chinese.
    against: tuple[str, str]
    at_least: bool = True
    unit: str = ""
    own: bool = False

    def result(self, medians: Mapping[str, float]) -> BarResult:
        under = min((medians[name] for name in self.under), default=None)
        over = medians[self.over]
        return BarResult(
            name=self.name,
            against=self.against,
            over=over,
            under=under,
            value=over if under is None else over / under,
            limit=self.limit,
            at_least=self.at_least,
            unit=self.unit,
            own=self.own or not self.under or not self.at_least,
        )


@dataclass(frozen=True)
class Work:
    """A row of the table: what is to be done, by whom, and what must be reached.

    ``scheduling``: it is about who waits for whom, and has a table of its own.
    """

    name: str
    #: In English and in Chinese.
    title: tuple[str, str]
    files: tuple[str, ...]
    #: Starts what all rounds share, and ends it.
    scene: Callable[[Bench], AbstractContextManager[Sequence[Contestant]]]
    bars: tuple[Bar, ...]
    scheduling: bool = False


@dataclass(frozen=True)
class Bench:
    """Where a run keeps its files, how large they are, and what several works share; a context manager.

    ``small``: the run shows that everything works, so that nothing need last. ``traces`` are those of the work that is
    measured now.
    """

    directory: Path
    recipes: Mapping[str, Recipe]
    say: Callable[[str], None]
    small: bool = False
    traces: dict[str, Trace] = field(default_factory=dict)
    _made: dict[str, Files] = field(default_factory=dict)
    _shared: dict[Callable[[Path], Any], Any] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def files(self, name: str) -> Files:
        """The files of this name, generated at first use."""
        if name not in self._made:
            self.say(f"generating {name}")
            self._made[name] = generate(name, self.recipes[name], self.directory / name)
        return self._made[name]

    def shared(self, start: Callable[[Path], AbstractContextManager[T]]) -> T:
        """What ``start`` gives; started at first use, ended at the end of the run."""
        if start not in self._shared:
            room = self._stack.enter_context(self.room())
            self._shared[start] = self._stack.enter_context(start(room))
        return cast(T, self._shared[start])

    @contextmanager
    def room(self) -> Iterator[Path]:
        """An empty directory, removed after the block: each round begins with empty peers."""
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            yield Path(name)

    def check_space(self, names: Sequence[str]) -> None:
        """Raise :class:`BenchError` if the disk is too small for these files and what is received of them."""
        sizes = [self.recipes[name].size for name in set(names)]
        needed = sum(sizes) + 2 * max(sizes)
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise BenchError(
                f"{self.directory.parent} has {free / 1e9:.1f} GB of free space and the benchmark needs "
                f"{needed / 1e9:.1f} GB; make room, or set TMPDIR to a directory that has it"
            )


def measure(bench: Bench, work: Work, rounds: int) -> WorkResult:
    """Let the contestants do the work in turns: A B C A B C ...

    Raises
    ------
    BenchError
        If one of them did not do all of it.
    """
    taken: dict[str, list[Figure]] = {}
    bench.traces.clear()
    with work.scene(bench) as contestants:
        for number in range(rounds):
            for contestant in contestants:
                if number and contestant.once:
                    continue
                figures = contestant.run()
                shown = ", ".join(f"{figure.value:.4g} {figure.unit}" for figure in figures.values())
                bench.say(f"{work.name}: round {number + 1} of {rounds}: {contestant.name}: {shown}")
                for name, figure in figures.items():
                    taken.setdefault(name, []).append(figure)
    measured = tuple(
        Measured(name=name, unit=each[0].unit, values=tuple(figure.value for figure in each))
        for name, each in taken.items()
    )
    medians = {each.name: each.median for each in measured}
    main = bench.files(work.files[0])
    return WorkResult(
        name=work.name,
        title=work.title,
        scheduling=work.scheduling,
        instances=main.count,
        bytes=main.size,
        figures=measured,
        bars=tuple(bar.result(medians) for bar in work.bars),
        traces=tuple(bench.traces.values()),
    )
