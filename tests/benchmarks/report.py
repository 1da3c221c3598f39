"""The results for people: tables for a terminal, and as Markdown for the READMEs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.results import BarResult, Measured, Results, WorkResult


def seconds(value: float) -> str:
    """Seconds as people read them."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def amount(value: float, unit: str) -> str:
    """A figure with its unit; a ratio has none."""
    if unit == "s":
        return seconds(value)
    if unit:
        return f"{value:.1f} {unit}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def show(results: Results, console: Console) -> None:
    """Print every figure and every bar."""
    machine = results.machine
    console.print(f"{machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}")
    console.print(", ".join(f"{name} {version}" for name, version in machine.versions.items()))
    if results.small:
        console.print("The small form shows that everything works; its figures and bars say nothing.")
    console.print(_figures(results))
    console.print(_bars(results))
    for work in results.works:
        if work.failure:
            console.print(f"{work.name} could not be measured: {work.failure}", markup=False)


def _figures(results: Results) -> Table:
    table = Table("Work", "Who", "Median", "Rounds", "Rate", title="Figures")
    for work in results.works:
        for each in work.figures:
            rounds = " ".join(f"{value:.4g}" for value in each.values)
            table.add_row(work.name, each.name, amount(each.median, each.unit), rounds, _rate(work, each))
        table.add_section()
    return table


def _rate(work: WorkResult, measured: Measured) -> str:
    # The name of a figure that is about a part of the work begins with what part, and a colon.
    whole = measured.unit == "s" and ":" not in measured.name and not work.scheduling
    return f"{work.bytes / measured.median / 1e6:.0f} MB/s" if whole else ""


def _bars(results: Results) -> Table:
    table = Table("Work", "Compared with", "Ratio", "Bar", "Reached", title="Bars")
    for work in results.works:
        for bar in work.bars:
            reached = {None: "", True: "yes", False: "NO"}[bar.reached]
            table.add_row(
                _plain(work.title[0]), _plain(bar.against[0]), amount(bar.value, bar.unit), _bar(bar), reached
            )
    return table


def _bar(bar: BarResult) -> str:
    if bar.limit is None:
        return ""
    return f"{'at least' if bar.at_least else 'at most'} {bar.limit:g}{f' {bar.unit}' if bar.unit else ''}"


def _plain(text: str) -> str:
    return text.replace("`", "")


@dataclass(frozen=True)
class _Language:
    """Headers in one language; ``place`` is that of its words in titles."""

    place: int
    speeds: tuple[str, ...]
    growths: tuple[str, ...]
    bounds: tuple[str, str]


_LANGUAGES: Final = (
    _Language(
        0,
        ("Work", "Compared with", "pacs-tasks", "The other", "Times as fast", "Aim"),
        ("Work", "Figure, or compared with", "Measured", "Aim"),
        ("at most", "at least"),
    ),
    _Language(
        1,
        ("任务", "对比", "pacs-tasks", "对方", "倍数", "目标"),
        ("任务", "数值或对比", "实测", "目标"),
        ("不超过", "不低于"),
    ),
)


def markdown(results: Results) -> str:
    """The tables of the documentation: beside others, what grows, and who waits."""
    return "\n".join(_markdown(results, language) for language in _LANGUAGES)


def _markdown(results: Results, language: _Language) -> str:
    speeds: list[list[str]] = []
    growths: list[list[str]] = []
    schedules: list[list[str]] = []
    for work in results.works:
        for bar in work.bars:
            cells = [work.title[language.place], bar.against[language.place]]
            if bar.own or bar.under is None:
                (schedules if work.scheduling else growths).append([*cells, *_own(bar, language)])
            else:
                aim = "" if bar.limit is None else f"{bar.limit:g}"
                speeds.append([*cells, seconds(bar.under), seconds(bar.over), amount(bar.value, ""), aim])
    tables = [(language.speeds, speeds), (language.growths, growths), (language.growths, schedules)]
    return "\n".join(line for header, rows in tables for line in [*_table(header, rows), ""])


def _own(bar: BarResult, language: _Language) -> list[str]:
    """What was measured, and the aim."""
    aim = "" if bar.limit is None else f"{language.bounds[bar.at_least]} {bar.limit:g} {bar.unit}".strip()
    return [amount(bar.value, bar.unit), aim]


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [list(header), *map(list, rows)]
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return [f"| {' | '.join(cells)} |" for cells in ruled]
