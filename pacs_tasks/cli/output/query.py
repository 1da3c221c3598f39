"""The outcomes of a query and of a batch of queries."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pacs_tasks.cli.output.terminal import counted, duration, sentence
from pacs_tasks.cli.output.transfer import TransferView
from pacs_tasks.cli.output.view import View, reason_of
from pacs_tasks.outcome import Category, Doubt, FindOutcome, InstanceCategory, StatusCategory
from pacs_tasks.privacy import plain
from pacs_tasks.request import FindBatchRequest, FindRequest

if TYPE_CHECKING:
    from pacs_tasks.cli.output.terminal import Terminal
    from pacs_tasks.ledger.outcomes import RowAnswer

_NO_MATCHES = (
    "Check the query for typing errors, or try wider criteria: fewer of them, a longer range, NAME* for a name."
)
_REFUSED = (
    "Check the level and the keys. A query at SERIES or IMAGE level usually needs --study-uid, and some PACS refuse "
    "keys that they do not know."
)
_SPLIT = "Query again with --split-dates, or narrow the query"
_TOO_MANY = f"{_SPLIT}: some PACS answer like this when there are too many matches."
_STRICT = "Query with --strict, which lists only the matches that have these values."
_NEXT = {
    Doubt.LIMIT: "Raise --limit or narrow the query, since there are more matches.",
    Doubt.STATUS: f"{_SPLIT}, since the PACS did not return all matches.",
    Doubt.ROUND: f"{_SPLIT}, since this number of matches looks like a limit of the PACS.",
    Doubt.UNSPLIT: "Narrow the query by another key, such as --modality or --patient-id.",
    Doubt.UNDATED: "Query for studies without a date or time by another key, such as --patient-id.",
    Doubt.QUERIES: "Narrow the query, or query for a shorter range of dates at a time.",
    Doubt.CUT_OFF: "Narrow the query, or raise the limit if the PACS really holds so much.",
}
#: How the names of characters begin in which people write family and given name without a space.
_IDEOGRAPHIC = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA")
#: Ranges that a sentence about a split query names.
_RANGES = 3
#: Failed rows that a sentence names.
_ROWS = 10
_NOT_ASKED = "not asked"


def _hint_at_name(name: str) -> str:
    """How a PACS may have a name that found nothing; empty where nothing is unusual."""
    if not name or set(name) & set("^*?=\\"):
        return ""
    words = name.split()
    if len(words) > 1:
        family, given = f"{words[-1]}^{' '.join(words[:-1])}", f"{words[0]}^{' '.join(words[1:])}"
        return f"Names are written FAMILY^GIVEN. Try {family!r}, {given!r} or '*{words[-1]}*'."
    if name.isascii() or not name.isalpha() or not unicodedata.name(name[0], "").startswith(_IDEOGRAPHIC):
        return ""
    # Two characters of four are a family name of two, such as 欧阳.
    size = 2 if len(name) > 3 else 1
    split = f"{name[:size]}^{name[size:]}"
    return (
        f"Names are written FAMILY^GIVEN. Try {split!r} or '{name[:size]}*', or '*={split}*' where the PACS has the "
        "name in Latin letters first."
    )


class QueryView(View[FindRequest, FindOutcome]):
    """The matches of a query, and why there may be more."""

    @property
    def advice(self) -> str:
        outcome = self.outcome
        if outcome.category is Category.FAILED:
            transient = outcome.status.category is StatusCategory.TRANSIENT
            return _TOO_MANY if transient and not outcome.split else _REFUSED
        if outcome.doubts:
            return _NEXT[outcome.doubts[0]]
        if not outcome.matches:
            return _hint_at_name(self.request.keys.get("PatientName", "")) or _NO_MATCHES
        return _STRICT if outcome.keys_unmatched and not self.request.strict else ""

    def summarise(self, terminal: Terminal) -> None:
        # The data dictionary, which names the columns, takes as long to import as a whole echo.
        from pacs_tasks.cli.output.matches import match_rows, match_table

        matches = self.outcome.matches
        if terminal.csv:
            terminal.rows(match_rows(matches, self.request))
        elif terminal.jsonl:
            for match in matches:
                terminal.json_text(json.dumps({"match": match}, ensure_ascii=False) + "\n")
        elif matches:
            terminal.table(match_table(matches, self.request))
        # A failed query has nothing else to show.
        failed = terminal.quiet and self.outcome.category is Category.FAILED
        for remark in self.remarks():
            (terminal.complain if failed else terminal.say)(remark)

    def remarks(self) -> Iterator[str]:
        outcome = self.outcome
        if outcome.category is Category.FAILED:
            yield sentence(f"The PACS answered {outcome.status}")
        else:
            found = counted(len(outcome.matches), "match", "matches") if outcome.matches else "No match"
            yield f"{found} in {duration(outcome.seconds)}."
        if outcome.limit_hit:
            yield "The limit was reached, and there are more matches."
        if outcome.keys_left_out:
            yield f"The PACS refused some keys, so the query left out {', '.join(outcome.keys_left_out)}."
        if outcome.split:
            were = f"{counted(len(outcome.split), 'range')} {'was' if len(outcome.split) == 1 else 'were'}"
            yield f"{counted(outcome.queries, 'query', 'queries')} sent; {were} split: {self._ranges()}."
        if Doubt.STATUS in outcome.doubts:
            yield sentence(f"The PACS ended with {outcome.status}")
        yield from map(sentence, outcome.remarks)

    def _ranges(self) -> str:
        split = self.outcome.split
        ranges = [f"{each.date or 'all days'}{' ' if each.time else ''}{each.time}" for each in split[:_RANGES]]
        more = f" and {len(split) - _RANGES} more" if len(split) > _RANGES else ""
        return f"{', '.join(ranges)}{more}"

    def document(self) -> dict[str, Any]:
        # DICOM JSON is the remote's data: nothing in it may be changed.
        return {**super().document(), "matches": list(self.outcome.matches)}


class BatchView(TransferView[FindBatchRequest]):
    """What each row of a batch of queries has found: as a table, CSV, JSON lines or one JSON document."""

    def show(self, terminal: Terminal) -> None:
        tally = _Tally()
        answers = tally.count(self.job.matches())
        if terminal.jsonl:
            for answer in answers:
                lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in _json_lines(answer))
                terminal.json_text("".join(lines))
        elif terminal.csv:
            self._write_csv(terminal, answers)
            for reason in tally.reasons():
                terminal.say(reason)
        else:
            self._show_table(terminal, answers)
            self.summarise(terminal)
        terminal.say(tally.summary())

    def write_document(self, terminal: Terminal, document: Mapping[str, Any]) -> None:
        """Write the document and its rows, of which few are in memory at once."""
        head = json.dumps(document, ensure_ascii=False, indent=2).removesuffix("\n}")
        terminal.json_text(f'{head},\n  "rows": [')
        separator = "\n    "
        for answer in self.job.matches():
            row = {"row": answer.row, "category": _category_of(answer), "matches": answer.matches, **_reason(answer)}
            terminal.json_text(separator + json.dumps(row, ensure_ascii=False))
            separator = ",\n    "
        terminal.json_text("\n  ]\n}\n")

    def _write_csv(self, terminal: Terminal, answers: Iterable[RowAnswer]) -> None:
        """A line of keywords, then a line for each match, each with the number of its row."""
        from pacs_tasks.cli.output.matches import columns_of, text_of

        columns = columns_of(self.request)
        terminal.rows([("row", *columns)])
        for _, chunk in groupby(enumerate(answers), key=lambda numbered: numbered[0] // 100):
            terminal.rows(
                (answer.row, *(text_of(match, each) for each in columns))
                for _, answer in chunk
                for match in answer.matches
            )

    def _show_table(self, terminal: Terminal, answers: Iterable[RowAnswer]) -> None:
        from pacs_tasks.cli.output.matches import columns_of, new_match_table, text_of

        columns = columns_of(self.request)
        table = new_match_table(columns, before=("Row",))
        for answer in answers:
            for match in answer.matches:
                table.add(str(answer.row), *(plain(text_of(match, column)) for column in columns))
        if table.rows:
            terminal.table(table)


class _Tally:
    """Counts rows as they pass."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._matches = 0
        self._without_match = 0
        self._reasons: dict[str, list[int]] = {}

    def count(self, answers: Iterable[RowAnswer]) -> Iterator[RowAnswer]:
        for answer in answers:
            category = _category_of(answer)
            self._matches += len(answer.matches)
            self._rows[category] += 1
            self._without_match += category in {"success", "warning"} and not answer.matches
            if answer.outcome is not None and answer.outcome.category is not InstanceCategory.SUCCESS:
                self._reasons.setdefault(reason_of(answer.outcome), []).append(answer.row)
            yield answer

    def summary(self) -> str:
        """How many rows went how."""
        named = {
            "without a match": self._without_match,
            "failed": self._rows[InstanceCategory.FAILED],
            "with a warning": self._rows[InstanceCategory.WARNING],
            _NOT_ASKED: self._rows[_NOT_ASKED],
        }
        details = ", ".join(f"{count} {name}" for name, count in named.items() if count)
        found = counted(self._matches, "match", "matches") if self._matches else "No match"
        rows = counted(self._rows.total(), "row")
        return f"{found} for {rows}: {details}." if details else f"{found} for {rows}."

    def reasons(self) -> Iterator[str]:
        """Why rows did not simply succeed, with some of their numbers."""
        for reason, rows in self._reasons.items():
            more = f" and {len(rows) - _ROWS} more" if len(rows) > _ROWS else ""
            yield sentence(f"Row {', '.join(map(str, rows[:_ROWS]))}{more}: {reason}")


def _category_of(answer: RowAnswer) -> str:
    return _NOT_ASKED if answer.outcome is None else str(answer.outcome.category)


def _reason(answer: RowAnswer) -> dict[str, str]:
    outcome = answer.outcome
    if outcome is None:
        return {}
    status = {"status": f"{outcome.status.code:04X}"} if outcome.status else {}
    reason = reason_of(outcome)
    return {**status, **({"reason": reason} if reason else {})}


def _json_lines(answer: RowAnswer) -> Iterator[dict[str, Any]]:
    """An object for each match of a row, or one that shows that the row has none."""
    common = {"row": answer.row, "category": _category_of(answer), **_reason(answer)}
    yield from ({**common, "match": match} for match in answer.matches or (None,))
