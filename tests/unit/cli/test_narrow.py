"""Output on a narrow terminal."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys

import pytest
from rich.console import Console

from pacs_tasks.cli.output.jobs import LiveView, association_table, job_table
from pacs_tasks.cli.output.matches import match_table
from pacs_tasks.cli.output.terminal import Table, Terminal
from pacs_tasks.cli.output.view import problem_table
from pacs_tasks.fleet.leases import Associations
from pacs_tasks.outcome import Counters, InstanceCategory, InstanceOutcome, JobState, Progress
from pacs_tasks.request import FindRequest
from tests.support.processes import ROOT, environment

JOB_ID = "1f3870be274f6c49b3e31a0c6728957f"
STUDY_UID = "1.2.826.0.1.3680043.8.498.12345678901234567890123456789012345678"
REASON = "MY_PACS at 192.168.100.200:11112 rejected the association: called AE title not recognised. Check it."


class _Screen(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, table: Table | None, columns: int) -> str:
    """A table as a terminal with this many columns shows it, without its colours."""
    assert table is not None
    screen = _Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", screen)
    Terminal().table(table)
    return _plain(screen.getvalue())


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _jobs(remote: str = "A at 10.0.0.1:1", **counters: int) -> Table:
    done = Counters(**counters)
    job = Progress(job_id=JOB_ID, task="pacs_tasks.echo", state=JobState.DONE, created=0, remote=remote, counters=done)
    return job_table([job] * 3)


def _matches() -> Table:
    values = {"0020000D": {"vr": "UI", "Value": [STUDY_UID]}, "00081030": {"vr": "LO", "Value": ["a long text"]}}
    return match_table([values] * 3, FindRequest())


def _problems(subject: str) -> Table | None:
    failed = InstanceOutcome(subject=subject, category=InstanceCategory.FAILED, reason=REASON)
    return problem_table([failed, failed], "File")


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize(("table", "wanted"), [(_jobs(), JOB_ID), (_matches(), STUDY_UID)], ids=["jobs", "matches"])
def test_an_id_stays_in_one_piece(monkeypatch: pytest.MonkeyPatch, table: Table, wanted: str, columns: int) -> None:
    """A person can select all of it for the next command."""
    assert shown(monkeypatch, table, columns).count(wanted) == 3


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_figures_of_the_progress_are_not_cut_short(columns: int) -> None:
    """The bar gives way to them."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=columns)
    counters = Counters(total=1500, success=1027, bytes=10_000_000)
    with LiveView("send-dir", console, delay=0) as view:
        view.update(Progress(job_id="j", task="x", state=JobState.RUNNING, counters=counters, created=0))
    assert "1027/1500" in screen.getvalue()
    assert "…" not in screen.getvalue()


@pytest.mark.parametrize("columns", [20, 60, 120])
@pytest.mark.parametrize(
    ("table", "id_", "remote"),
    [
        (_jobs(), JOB_ID, "10.0.0.1:1"),
        (_problems("/data/a/file.dcm"), "/data/a/file.dcm", "192.168.100.200:11112"),
        (_problems(f"/data/{STUDY_UID}/{STUDY_UID}"), f"/data/{STUDY_UID}/{STUDY_UID}", "192.168.100.200:11112"),
    ],
    ids=["jobs", "problems", "long paths"],
)
def test_a_table_fits_or_gives_each_value_a_line(
    monkeypatch: pytest.MonkeyPatch, table: Table, id_: str, remote: str, columns: int
) -> None:
    """No word is broken by us: neither an id nor a port."""
    said = shown(monkeypatch, table, columns)
    lines = [line for line in said.splitlines() if line.strip()]
    assert id_ in said
    # The least important columns are left out first.
    assert remote in said or (id_ == JOB_ID and "Remote" not in said)
    if "─" in said:
        assert max(map(len, lines)) <= columns
    else:
        names = {"Job", "Command", "State", "Remote", "Created", "Result", "File", "Reason and next step", ""}
        assert {line.partition("  ")[0] for line in lines} <= names


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_count_stays_on_one_line(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """In jobs as in associations."""
    remote = Associations(remote="A_LONG_AE_TITLE at archive.hospital.example:11112", in_use=3, limit=4, waiting=0)
    assert shown(monkeypatch, _jobs("A", total=8, success=7), columns).count("7 of 8") == 3
    assert "3 of 4 in use" in shown(monkeypatch, association_table([remote]), columns)


def test_at_80_columns_jobs_are_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(monkeypatch, _jobs(), 80)
    assert said.count("10.0.0.1:1") == 3
    assert "Failed" not in said
    assert "─" in said


def on_pty(program: str, columns: int) -> str:
    """What a program writes to a terminal of the system with this many columns."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        script = f"from pacs_tasks.cli.output.terminal import Table, Terminal\nterminal = Terminal()\n{program}"
        variables = {name: value for name, value in environment(TERM="xterm").items() if name != "COLUMNS"}
        subprocess.run([sys.executable, "-c", script], stdout=theirs, cwd=ROOT, env=variables, timeout=60, check=True)
        return os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_width_is_that_of_the_terminal() -> None:
    program = "table = Table('Reason')\ntable.add('word ' * 40)\nterminal.table(table)"
    lines = _plain(on_pty(program, 47)).splitlines()
    assert 40 < max(map(len, lines)) <= 47
    assert sum(line.count("word") for line in lines) == 40
