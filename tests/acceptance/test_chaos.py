"""The chaos suite's short form: one round of the cases that tell most, few files. ``make chaos`` plays them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.cases import CASES
from tests.chaos.results import Results
from tests.support.processes import ROOT, environment, started
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes and connections are found in /proc: Linux")

_CHAOS = [sys.executable, "-m", "tests.chaos"]
_CASES = ("worker", "redis", "pacs", "one-key")
_FILES = 40


@pytest.mark.timeout(400)
def test_that_nothing_is_lost_or_done_twice_whatever_dies(tmp_path: Path) -> None:
    """A round whose closing check does not hold would end it with 1, and say why."""
    output = tmp_path / "chaos.json"
    command = [*_CHAOS, "--fork", "--rounds=1", f"--files={_FILES}", f"--json={output}", f"--logs={tmp_path / 'logs'}"]
    command += [f"--only={name}" for name in _CASES]
    env = environment(TMPDIR=str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = Results.model_validate_json(output.read_text("utf-8"))
    assert {case.name for case in results.cases} == set(_CASES)
    for case in results.cases:
        (played,) = case.rounds
        assert not played.failure
        assert (played.files, played.strikes > 0) == (_FILES, True)
        assert played.sends is not None
        assert played.sends >= _FILES
        assert case.title in done.stdout


def test_that_every_case_has_a_name_and_a_title_of_its_own() -> None:
    """By which a person finds it in the table, and asks for it."""
    assert len({case.name for case in CASES}) == len({case.title for case in CASES}) == len(CASES)


@pytest.mark.timeout(120)
def test_that_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither a process nor a file; one sentence says so."""
    work = tmp_path / "work"
    work.mkdir()
    command = [*_CHAOS, "--only=pacs-gone", "--files=30", "--rounds=2", f"--json={tmp_path / 'json'}"]
    env = environment(TMPDIR=str(work))
    with started(command, tmp_path / "log", lambda _: len(_processes_below(work)) > 4, env=env, cwd=ROOT) as run:
        run.popen.send_signal(signal.SIGTERM)
        assert run.popen.wait(60) == 130, run.said()
        assert "interrupted" in run.said()
        assert "Traceback" not in run.said()
    wait_until(lambda: not _processes_below(work), 10, "the end of what it started")
    assert list(work.iterdir()) == []


def _processes_below(directory: Path) -> list[int]:
    """The processes whose command or environment names a directory, but for the run itself."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command, said = (each / "cmdline").read_bytes(), (each / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in command + said and b"tests.chaos\0" not in command:
            found.append(int(each.name))
    return found
