"""What the views of all outcomes share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import OF_CATEGORY, ExitCode
from pacs_tasks.cli.output.terminal import STYLES, Cell, Fact, Table
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import Counters, InstanceCategory, InstanceOutcome, Outcome
from pacs_tasks.privacy import plain
from pacs_tasks.request import R

if TYPE_CHECKING:
    from pacs_tasks.cli.output.terminal import Terminal
    from pacs_tasks.client import Job

T = TypeVar("T", bound=Outcome)

#: Files, instances or studies that a table names; ``--json`` lists all of them.
LISTED = 20

#: What failed stands before what has only a remark.
_SEVERITY = {
    InstanceCategory.FAILED: "red",
    InstanceCategory.MISSING: "red",
    InstanceCategory.WARNING: "yellow",
    InstanceCategory.SKIPPED: "yellow",
    InstanceCategory.PRESENT: "green",
    InstanceCategory.SUCCESS: "green",
}
_ORDER = list(_SEVERITY)


class View(Generic[R, T]):
    """An outcome as people and programs read it. Each operation has its own view.

    Parameters
    ----------
    outcome
        The outcome.
    request, job
        Where it came from. The exit code and the JSON document need neither.
    """

    def __init__(self, outcome: T, request: R, job: Job) -> None:
        self.outcome = outcome
        self.request = request
        self.job = job

    @property
    def exit_code(self) -> ExitCode:
        return OF_CATEGORY[self.outcome.category]

    @property
    def advice(self) -> str:
        """What to do next; empty where everything is done."""
        return ""

    def facts(self) -> Iterator[Fact]:
        """The category, the remote, and the values of :meth:`details`."""
        category = self.outcome.category
        yield Fact("Result", str(category), STYLES[category])
        yield Fact("Remote", str(self.request.remote))
        yield from self.details()

    def details(self) -> Iterable[Fact]:
        """Named values, such as counts."""
        return ()

    def tables(self) -> Iterable[Table]:
        """The tables below the facts."""
        return ()

    def problems(self) -> Iterable[InstanceOutcome]:
        """What did not simply succeed."""
        return ()

    def remarks(self) -> Iterable[str]:
        """Sentences about the outcome."""
        return ()

    def show(self, terminal: Terminal) -> None:
        """Write everything about the outcome."""
        self.summarise(terminal)

    def summarise(self, terminal: Terminal) -> None:
        """Write facts, tables and problems to stdout, and remarks to stderr."""
        terminal.facts(self.facts())
        for table in self.tables():
            terminal.table(table)
        if (problems := problem_table(self.problems(), OPERATIONS[self.request.task].item)) is not None:
            terminal.table(problems)
        for remark in self.remarks():
            terminal.say(remark)

    def document(self) -> dict[str, Any]:
        """The outcome as a part of a JSON document. Status codes are hexadecimal, as the Standard writes them."""
        return {"category": str(self.outcome.category), **_hexadecimal(self.outcome.model_dump(mode="json"))}

    def write_document(self, terminal: Terminal, document: Mapping[str, Any]) -> None:
        """Write the whole JSON document of a command."""
        terminal.document(document)


def command_of(task: str) -> str:
    """The command that enqueues a public task. A task of a newer version goes by its own name."""
    known = OPERATIONS.get(task)
    return known.command if known else task.removeprefix("pacs_tasks.")


def done_of(task: str) -> str:
    """The verb for an item of a public task that succeeded, such as ``sent``."""
    known = OPERATIONS.get(task)
    return known.done if known else "done"


def of_all(count: int, total: int) -> str:
    """A count of this attempt, with that of all attempts beside it where it differs; nothing for 0."""
    return str(total or "") if count == total else f"{count} ({total} in all)"


def count_facts(done: str, counters: Counters, earlier: Counters) -> Iterator[Fact]:
    """Facts about the number of instances in each category; ``done`` is the verb for those that succeeded."""
    now = counters.since(earlier)
    named = (
        (done.capitalize(), now.success + now.warning, counters.success + counters.warning, "green"),
        ("  with a warning", now.warning, counters.warning, "yellow"),
        ("Already there", now.present, counters.present, "green"),
        ("Failed", now.failed, counters.failed, "red"),
        ("Missing", now.missing, counters.missing, "red"),
        ("Not DICOM", now.skipped, counters.skipped, "yellow"),
    )
    return (Fact(name, of_all(count, total), style) for name, count, total, style in named if total)


def positive(count: int) -> str:
    """A count, or nothing for 0."""
    return str(count or "")


def reason_of(instance: InstanceOutcome) -> str:
    """Why an instance did not simply succeed."""
    return instance.reason or str(instance.status or "") or instance.error


def problem_table(problems: Iterable[InstanceOutcome], item: str) -> Table | None:
    """List problems by reason, and for each reason a share of the names; None where there are no problems."""
    groups: dict[tuple[InstanceCategory, str], list[InstanceOutcome]] = {}
    for each in problems:
        groups.setdefault((each.category, reason_of(each)), []).append(each)
    if not groups:
        return None
    table = Table("Result", item, "Reason and next step")
    share = max(1, LISTED // len(groups))
    shown = sorted(groups.items(), key=lambda group: _ORDER.index(group[0][0]))[:LISTED]
    for (category, reason), members in shown:
        names = [plain(each.subject) for each in members[:share]]
        if len(members) > share:
            names.append(translated(f"... and {len(members) - share} more (--json lists all)"))
        label = Cell(f"{len(members)} {translated(category)}", _SEVERITY[category])
        table.add(label, "\n".join(names), translated(plain(reason)))
    if len(groups) > len(shown):
        table.add("", translated(f"... and {len(groups) - len(shown)} more reasons (--json lists all)"), "")
    return table


def _hexadecimal(value: Any) -> Any:
    if isinstance(value, dict):
        if {"code", "category", "meaning"} <= value.keys():
            return {**value, "code": f"{value['code']:04X}"}
        return {name: _hexadecimal(each) for name, each in value.items()}
    return [_hexadecimal(each) for each in value] if isinstance(value, list) else value
