"""The table of a run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.chaos.results import CaseResult, Results, Round


def show(results: Results, console: Console) -> None:
    """Print what every case came to, and why rounds failed."""
    console.print(", ".join(f"{name} {version}" for name, version in results.versions.items()))
    console.print(
        f"{results.files} files a round, {results.jobs} rounds side by side, seed {results.seed}, "
        f"{results.seconds:.0f} s"
    )
    table = Table(title="Chaos")
    for name in ("Case", "Injured"):
        table.add_column(name)
    for name in ("Rounds", "Files", "Kills", "Sends", "Twice", "Told", "Recovery", "Longest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Result", no_wrap=True)
    for case in results.cases:
        table.add_row(*_row(case))
    console.print(table)
    console.print(
        "Kills: failures injected. Sends: C-STORE requests per file, by the PACS's count. Twice: instances that came "
        "to it more than once for a job, in the median and the worst round. Told: those whose receipt says so. "
        "Recovery: seconds from the first failure to the end of the job, median and longest.",
        highlight=False,
    )
    for case in results.cases:
        for each in case.rounds:
            if each.failure:
                console.print(
                    f"{case.name} {each.number} (seed {each.seed}): {each.failure}; logs: {each.logs}",
                    markup=False,
                    highlight=False,
                )


def _row(case: CaseResult) -> list[str]:
    whole = [each for each in case.rounds if not each.failure]
    recovery = case.recovery
    return [
        case.name,
        case.title,
        str(len(case.rounds)),
        str(sum(each.files for each in whole)),
        str(sum(each.strikes for each in case.rounds)),
        _sends(whole),
        _spread([each.twice for each in whole if each.twice is not None]),
        _spread([each.told_twice for each in whole]),
        "" if recovery is None else f"{recovery[0]:.1f} s",
        "" if recovery is None else f"{recovery[1]:.1f} s",
        f"[red]{case.failed} failed[/red]" if case.failed else "ok",
    ]


def _sends(rounds: Sequence[Round]) -> str:
    counted = [each for each in rounds if each.sends is not None and each.files]
    if not counted:
        return ""
    return f"{sum(each.sends or 0 for each in counted) / sum(each.files for each in counted):.3f}"


def _spread(counts: Sequence[int]) -> str:
    return f"{median(counts):g} / {max(counts)}" if counts else ""
