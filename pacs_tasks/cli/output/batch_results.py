"""What the rows of a batch have found: as a table, as CSV, as JSON lines, or as the one JSON document."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from pacs_tasks.cli.output.matches import columns_of, new_match_table, text_of
from pacs_tasks.cli.output.render import show_outcome
from pacs_tasks.cli.output.terminal import Terminal, plain
from pacs_tasks.ledger.matches import RowAnswer
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, TransferOutcome
from pacs_tasks.request import FindBatchRequest

#: Failed rows that a sentence names; the others are counted.
_NAMED = 10


class Tally:
    """Counts rows as they pass."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.matches = 0
        self._reasons: dict[str, list[int]] = {}

    def over(self, answers: Iterable[RowAnswer]) -> Iterator[RowAnswer]:
        for answer in answers:
            self.matches += len(answer.matches)
            self.rows[category_of(answer)] += 1
            self.rows["without a match"] += answer.outcome is not None and _answered(answer) and not answer.matches
            if answer.outcome is not None and answer.outcome.category is not InstanceCategory.SUCCESS:
                self._reasons.setdefault(reason_of(answer.outcome), []).append(answer.row)
            yield answer

    def sentences(self) -> Iterator[str]:
        """How many rows went how."""
        total = sum(self.rows[each] for each in (*InstanceCategory, _NOT_ASKED))
        named = {
            "without a match": self.rows["without a match"],
            "failed": self.rows[InstanceCategory.FAILED],
            "with a warning": self.rows[InstanceCategory.WARNING],
            _NOT_ASKED: self.rows[_NOT_ASKED],
        }
        told = ", ".join(f"{count} {name}" for name, count in named.items() if count)
        yield f"{_count(self.matches, 'match', 'matches')} for {_count(total, 'row', 'rows')}{told and ': '}{told}."

    def reasons(self) -> Iterator[str]:
        """Why rows did not simply succeed, with some of their numbers."""
        for reason, rows in self._reasons.items():
            more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
            yield f"Row {', '.join(map(str, rows[:_NAMED]))}{more}: {reason}"


_NOT_ASKED = "not asked"


def category_of(answer: RowAnswer) -> str:
    """How a row went."""
    return _NOT_ASKED if answer.outcome is None else str(answer.outcome.category)


def reason_of(outcome: InstanceOutcome) -> str:
    """Why a row did not simply succeed."""
    return outcome.reason or (str(outcome.status) if outcome.status else "") or outcome.error


def _answered(answer: RowAnswer) -> bool:
    return category_of(answer) in {InstanceCategory.SUCCESS, InstanceCategory.WARNING}


def show(terminal: Terminal, request: FindBatchRequest, outcome: TransferOutcome, answers: Iterable[RowAnswer]) -> None:
    """Put what was found on stdout, and what there is to say about it on stderr."""
    tally = Tally()
    counted = tally.over(answers)
    if terminal.jsonl:
        for answer in counted:
            terminal.write("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in _lines(answer)))
    elif terminal.csv:
        _write_csv(terminal, request, counted)
    else:
        _show_table(terminal, request, counted)
        show_outcome(terminal, request, outcome)
    if terminal.csv:
        for sentence in tally.reasons():
            terminal.say(plain(sentence))
    for sentence in tally.sentences():
        terminal.say(sentence)


def write_document(terminal: Terminal, head: Mapping[str, Any], answers: Iterable[RowAnswer]) -> None:
    """Put one JSON document on stdout: ``head`` and the rows, of which few are in memory at once."""
    terminal.write(json.dumps(head, ensure_ascii=False, indent=2).removesuffix("\n}") + ',\n  "rows": [')
    separator = "\n    "
    for answer in answers:
        row = {"row": answer.row, "category": category_of(answer), "matches": answer.matches, **_why(answer)}
        terminal.write(separator + json.dumps(row, ensure_ascii=False))
        separator = ",\n    "
    terminal.write("\n  ]\n}\n")


def _lines(answer: RowAnswer) -> Iterator[dict[str, Any]]:
    """An object for each match of a row, or one that says that it has none."""
    common = {"row": answer.row, "category": category_of(answer), **_why(answer)}
    yield from ({**common, "match": match} for match in answer.matches or (None,))


def _why(answer: RowAnswer) -> dict[str, str]:
    outcome = answer.outcome
    if outcome is None:
        return {}
    status = {"status": f"{outcome.status.code:04X}"} if outcome.status else {}
    reason = reason_of(outcome)
    return {**status, **({"reason": reason} if reason else {})}


def _columns(request: FindBatchRequest) -> tuple[str, ...]:
    return columns_of(request.level, request.keys, request.model)


def _write_csv(terminal: Terminal, request: FindBatchRequest, answers: Iterable[RowAnswer]) -> None:
    """RFC 4180: a line of keywords, then a line for each match, each with the number of its row."""
    columns = _columns(request)
    terminal.write(_csv([("row", *columns)]))
    for _, chunk in groupby(enumerate(answers), key=lambda numbered: numbered[0] // 100):
        lines = [
            (answer.row, *(text_of(match, each) for each in columns)) for _, answer in chunk for match in answer.matches
        ]
        terminal.write(_csv(lines))


def _csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue()


def _show_table(terminal: Terminal, request: FindBatchRequest, answers: Iterable[RowAnswer]) -> None:
    columns = _columns(request)
    table: Table = new_match_table(columns, before=("Row",))
    matches = chain.from_iterable(((answer.row, match) for match in answer.matches) for answer in answers)
    for row, match in matches:
        table.add_row(str(row), *(Text(plain(text_of(match, column))) for column in columns))
    if table.row_count:
        terminal.show(table)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else f"no {one}"
