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

from pacs_tasks.cli.output.jobs import LiveView
from pacs_tasks.outcome import Counters, JobState, Progress
from tests.support.processes import ROOT, environment

JOB_ID = "1f3870be274f6c49b3e31a0c6728957f"
STUDY_UID = "1.2.826.0.1.3680043.8.498.12345678901234567890123456789012345678"
_JOBS = (
    "from pacs_tasks.cli.output.jobs import job_table\n"
    "from pacs_tasks.outcome.transfer import Progress, JobState\n"
    "job = Progress(job_id={id!r}, task='pacs_tasks.echo', state=JobState.DONE, created=0, remote='A at 10.0.0.1:1')\n"
    "terminal.table(job_table([job] * 3))\n"
)
_MATCHES = (
    "from pacs_tasks.cli.output.matches import match_table\n"
    "from pacs_tasks.request import FindRequest\n"
    "match = {{'0020000D': {{'vr': 'UI', 'Value': [{id!r}]}}, '00081030': {{'vr': 'LO', 'Value': ['a long text']}}}}\n"
    "terminal.table(match_table([match] * 3, FindRequest()))\n"
)


def shown(program: str, columns: int) -> str:
    """The output of a program on a terminal with this many columns."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        script = f"from pacs_tasks.cli.output.terminal import Terminal\nterminal = Terminal()\n{program}"
        variables = {name: value for name, value in environment(TERM="xterm").items() if name != "COLUMNS"}
        subprocess.run([sys.executable, "-c", script], stdout=theirs, cwd=ROOT, env=variables, timeout=60, check=True)
        return os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize(("program", "wanted"), [(_JOBS, JOB_ID), (_MATCHES, STUDY_UID)])
def test_an_id_stays_in_one_piece(program: str, wanted: str, columns: int) -> None:
    """A person can select all of it for the next command."""
    assert shown(program.format(id=wanted), columns).count(wanted) == 3


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


_PROBLEMS = (
    "from pacs_tasks.cli.output.view import problem_table\n"
    "from pacs_tasks.outcome import InstanceCategory, InstanceOutcome\n"
    "reason = 'MY_PACS at 192.168.100.200:11112 rejected the association: called AE title not recognised. Check it.'\n"
    "failed = InstanceOutcome(subject={id!r}, category=InstanceCategory.FAILED, reason=reason)\n"
    "terminal.table(problem_table([failed, failed], 'File'))\n"
)


@pytest.mark.parametrize("columns", [20, 60, 120])
@pytest.mark.parametrize(
    ("program", "id_", "remote"),
    [
        (_JOBS, JOB_ID, "10.0.0.1:1"),
        (_PROBLEMS, "/data/a/file.dcm", "192.168.100.200:11112"),
        (_PROBLEMS, f"/data/{STUDY_UID}/{STUDY_UID}", "192.168.100.200:11112"),
    ],
    ids=["jobs", "problems", "long paths"],
)
def test_a_table_fits_or_gives_each_value_a_line(program: str, id_: str, remote: str, columns: int) -> None:
    """No word is broken by us: neither an id nor a port."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", shown(program.format(id=id_), columns))
    lines = [line for line in said.splitlines() if line.strip()]
    assert id_ in said
    # The least important columns are left out first.
    assert remote in said or (program is _JOBS and "Remote" not in said)
    if "─" in said:
        assert max(map(len, lines)) <= columns
    else:
        names = {"Job", "Command", "State", "Remote", "Created", "Result", "File", "Reason and next step", ""}
        assert {line.partition("  ")[0] for line in lines} <= names


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_count_stays_on_one_line(columns: int) -> None:
    """In jobs as in associations."""
    program = _JOBS.replace("remote='A at 10.0.0.1:1'", "remote='A', counters=Counters(total=8, success=7)")
    program = f"from pacs_tasks.outcome import Counters\n{program}".format(id=JOB_ID)
    program += (
        "from pacs_tasks.cli.output.jobs import association_table\n"
        "from pacs_tasks.fleet.leases import Associations\n"
        "remote = 'A_LONG_AE_TITLE at archive.hospital.example:11112'\n"
        "terminal.table(association_table([Associations(remote=remote, in_use=3, limit=4, waiting=0)]))\n"
    )
    said = shown(program, columns)
    assert said.count("7 of 8") == 3
    assert "3 of 4 in use" in said


def test_at_80_columns_jobs_are_a_table() -> None:
    said = shown(_JOBS.format(id=JOB_ID), 80)
    assert said.count("10.0.0.1:1") == 3
    assert "Failed" not in said
    assert "─" in said
