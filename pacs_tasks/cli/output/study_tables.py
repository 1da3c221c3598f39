"""What became of each study of a retrieve, as people read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from pacs_tasks.cli.output.tables import STYLES, new_table
from pacs_tasks.cli.output.terminal import plain
from pacs_tasks.outcome import Category, Proof, StudyOutcome

#: Studies that a table names; ``--json`` has all of them.
LISTED = 20
#: Rows of a batch file that one study names.
_ROWS = 5
_ORDER = (Category.FAILED, Category.PARTIAL, Category.CANCELLED, Category.WARNING, Category.SUCCESS)


def study_table(studies: Sequence[StudyOutcome]) -> Table:
    """One row for each study, those with problems first, and what there are more.

    Columns that would be empty stay away, and why something is as it is stands below the study: terminals are narrow.
    """
    ordered = sorted(studies, key=lambda each: _ORDER.index(each.category))
    columns = [(name, cell) for name, cell in _COLUMNS if any(cell(each) for each in ordered[:LISTED])]
    table = new_table("Study", "Result", *(name for name, _ in columns))
    for column in table.columns[1:]:
        column.no_wrap = True
    told: set[str] = set()
    for each in ordered[:LISTED]:
        name = Text(plain(_name_of(each)))
        if each.reason:
            name.append("\n(as above)" if each.reason in told else f"\n{plain(each.reason)}", style="dim")
            told.add(each.reason)
        result = Text(str(each.category), style=STYLES[each.category])
        table.add_row(name, result, *(cell(each) for _, cell in columns))
    if len(studies) > LISTED:
        more = ordered[LISTED:]
        whole = sum(each.category in {Category.SUCCESS, Category.WARNING} for each in more)
        table.add_row(f"... and {len(more)} more, {whole} of them complete (--json lists all)")
    return table


def promised(study: StudyOutcome) -> str:
    """How many instances, and by which proof where the peer did not list them."""
    if study.proof is Proof.COUNTS:
        return f"{study.promised}\n(counted)"
    if study.proof is Proof.NONE and study.promised:
        return f"{study.promised}\n(unlisted)"
    return str(study.promised)


_COLUMNS: tuple[tuple[str, Callable[[StudyOutcome], str]], ...] = (
    ("Promised", promised),
    ("Received", lambda each: str(each.received)),
    ("Already there", lambda each: str(each.present or "")),
    ("Missing", lambda each: str(each.missing + each.failed or "")),
    ("Way", lambda each: "\n".join(each.ways)),
)


def _name_of(study: StudyOutcome) -> str:
    rows = ", ".join(map(str, study.rows[:_ROWS])) + (", ..." if len(study.rows) > _ROWS else "")
    shown = f"row {rows}" if rows else ""
    if study.study_uid and shown:
        return f"{study.study_uid} ({shown})"
    return study.study_uid or shown or "none found"
