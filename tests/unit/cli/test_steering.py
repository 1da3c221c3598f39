"""Text of a remote or of a file steers no terminal, and is no formula in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest
from rich.console import Console

from pacs_tasks.cli.output.jobs import LiveView
from pacs_tasks.cli.output.sheet import csv_lines
from pacs_tasks.cli.output.terminal import Terminal
from pacs_tasks.cli.program import main
from pacs_tasks.outcome import JobState, Progress
from tests.unit.cli.test_narrow import on_pty

HOSTILE = "P1\x1b]0;owned\x07\x9b31m\x7f\u2028\u202eEVIL\u2066\r\x85"
_SHARED = f"""
import json
from pacs_tasks.cli.output.matches import match_rows, match_table
from pacs_tasks.cli.output.receipts import write_receipts
from pacs_tasks.cli.output.terminal import Cell, Fact, Table
from pacs_tasks.cli.output.view import problem_table
from pacs_tasks.ledger.receipts import Receipt
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import FindRequest
hostile = {HOSTILE!r}
matches = [{{"00100020": {{"vr": "LO", "Value": [hostile]}}}}]
receipt = Receipt.model_construct(**{{**dict.fromkeys(Receipt.model_fields), "path": hostile}})
problem = InstanceOutcome(subject=hostile, category=InstanceCategory.FAILED, reason=hostile)
table = Table("Name")
table.add(Cell(hostile, "red"))
"""
_PATHS = {
    "document": "terminal.document({'x': hostile})",
    "matches": "terminal.table(match_table(matches, FindRequest()))",
    "csv": "terminal.rows(match_rows(matches, FindRequest()))",
    "receipts as csv": "write_receipts([receipt], 'csv', None, terminal)",
    "receipts": "write_receipts([receipt], 'jsonl', None, terminal)",
    "facts": "terminal.facts([Fact('Worker', hostile, 'bold')])",
    "problems": "terminal.table(problem_table([problem], 'File'))",
    "table": "terminal.table(table)",
    "line": "terminal.line(hostile, 'green')",
}


def test_no_output_steers_a_terminal() -> None:
    """Only our own colours do."""
    program = "".join(f"terminal.write('== {name}\\n')\n{each}\n" for name, each in _PATHS.items())
    everything = on_pty(f"{_SHARED}\n{program}", 200)
    for colour in ("\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"):
        everything = everything.replace(colour, "")
    _, *parts = everything.split("== ")
    assert len(parts) == len(_PATHS)
    for part in parts:
        assert "\\u001b]0;owned\\u0007" in part
        assert all(line.isprintable() for line in part.split("\r\n")), ascii(part)
    assert json.loads(parts[0].partition("\r\n")[2]) == {"x": HOSTILE}


def test_a_program_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stdout is a pipe or a file."""
    terminal = Terminal()
    terminal.rows([["a", HOSTILE]])
    terminal.json_text(json.dumps(HOSTILE, ensure_ascii=False))
    said = capsys.readouterr().out
    assert next(csv.reader(io.StringIO(said, newline=""))) == ["a", HOSTILE]
    assert "\x9b31m\x7f\u2028\u202e" in said.rpartition('"P1')[2]


def test_no_sentence_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor the error about a wrong option, nor a bar."""
    terminal = Terminal()
    terminal.say(HOSTILE)
    terminal.complain(HOSTILE)
    assert main(["echo", "--tls-server-name", HOSTILE]) == 2
    assert main([HOSTILE]) == 2
    assert all(line.isprintable() for line in capsys.readouterr().err.split("\n"))


def test_a_reason_is_not_markup() -> None:
    """Of a remote that answers with brackets: rich would raise, or show a link."""
    screen = io.StringIO()
    with LiveView("send", Console(file=screen, force_terminal=True, width=120), delay=0) as view:
        progress = Progress(
            job_id="j", task="x", state=JobState.RUNNING, created=0, waiting_reason="[/red] [link=x]\x1b[2J"
        )
        view.update(progress)
    assert "[/red] [link=x]\\u001b[2J" in screen.getvalue()


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        *[(cell, f"'{cell}") for cell in ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", "=cmd|' /C calc'!A0")],
        *[(f"{hidden}=1", f"'{hidden}=1") for hidden in ("\ufeff", "\u200b", "\0", " \u2060\xad", '"', "'")],
        *[(f"{sign}1", f"'{sign}1") for sign in "\ufe62\ufe63\ufe66\ufe6b"],
        *[(f"{separator}=1", f"'{separator}'=1") for separator in "\t\r\n"],
        *[(f"A{separator}=1+1", f"A{separator}'=1+1") for separator in ";\t\r\n"],
        *[("A; \u200b+1;-2;b", "A;' \u200b+1;'-2;b"), (';"=1"', ';\'"=1"'), ("A;;\t@x", "A;;\t'@x")],
        *[("A=1+1", "A=1+1"), ("A; b", "A; b"), ("Zhang^San; 1-2", "Zhang^San; 1-2"), ("\tA", "'\tA")],
    ],
)
def test_a_spreadsheet_sees_no_formula(cell: str, shown: str) -> None:
    """But the text with an apostrophe, also where its separator is not a comma. Plain CSV has it as it is."""
    (row,) = csv.reader(io.StringIO(csv_lines([["1.2", cell, 3]], excel=True), newline=""))
    assert row == ["1.2", shown, "3"]
    (row,) = csv.reader(io.StringIO(csv_lines([["1.2", cell, 3]]), newline=""))
    assert row == ["1.2", cell, "3"]


def test_many_separators_take_little_time() -> None:
    """By their square, a value of a remote would take minutes."""
    begun = time.monotonic()
    csv_lines([["\t" * 1_000_000, "; " * 500_000, ";" + " " * 1_000_000]], excel=True)
    assert time.monotonic() - begun < 10


def test_csv_for_a_spreadsheet_begins_with_a_byte_order_mark_once(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    terminal = Terminal()
    terminal.excel = True
    terminal.rows([["PatientName"]])
    terminal.rows([["张^三"]])
    assert capsysbinary.readouterr().out == "\ufeffPatientName\r\n张^三\r\n".encode()


@pytest.mark.parametrize(
    "argv", [["query", "--excel"], ["query", "--excel", "--format", "json"], ["report", "x", "--excel"]]
)
def test_excel_is_csv(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "--excel has no effect without --format csv" in capsys.readouterr().err
