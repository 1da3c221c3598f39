"""A program that is forked behaves like one that was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import nursery
from tests.support.command import PACS_TASKS, TRANSFER, Terminal
from tests.support.processes import ROOT, Process, environment

_COMMANDS = [["--version"], ["ecko"], ["config", "check"], ["echo", "--port", "x"], ["jobs"]]
_PIPES: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


@pytest.mark.parametrize("entry", [PACS_TASKS, TRANSFER, (sys.executable, "-m", "pacs_tasks.cli")])
def test_a_command_says_and_returns_the_same(entry: tuple[str, ...], tmp_path: Path) -> None:
    terminal = Terminal(ROOT, "redis://127.0.0.1:1/0", (("PACS_TASKS_DATA_DIR", str(tmp_path)),), entry)
    for command in _COMMANDS:
        forked = terminal.run(*command)
        with nursery.none():
            anew = terminal.run(*command)
        assert (forked.code, forked.stdout, forked.stderr) == (anew.code, anew.stdout, anew.stderr)


def _in_shell(script: str, path: str, tmp_path: Path, **settings: str) -> tuple[int, str, str]:
    env = environment(PATH=path, PACS_TASKS_DATA_DIR=str(tmp_path), PACS_TASKS_REDIS_URL="redis://127.0.0.1:1/0")
    done = subprocess.run(["bash", "-c", script], env=env | settings, cwd=tmp_path, timeout=60, check=False, **_PIPES)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "pacs-tasks --version | tr a-z A-Z; pacs-tasks ecko",
        "pacs-tasks echo --ip '张 三'",
        "PACS_TASKS_PORT=x pacs-tasks echo",
        "LANG=zh_CN.UTF-8 pacs-tasks ecko; exit 9",
    ],
)
def test_a_shell_finds_what_it_would_find(script: str, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    assert _in_shell(script, nursery.search_path(path), tmp_path) == _in_shell(script, path, tmp_path)


def _sharers(popen: subprocess.Popen[str]) -> list[int]:
    """The other processes that write to the stderr of a process."""
    found, pipe = [], Path(f"/proc/{popen.pid}/fd/2").readlink()
    for each in Path("/proc").glob("[0-9]*/fd/2"):
        with suppress(OSError):
            found += [int(each.parts[2])] if each.readlink() == pipe else []
    return sorted({*found} - {popen.pid})


@pytest.mark.parametrize(("killed", "codes"), [(False, {0, -signal.SIGTERM}), (True, {-signal.SIGKILL})])
def test_a_script_ends_as_what_it_stands_for(tmp_path: Path, *, killed: bool, codes: set[int]) -> None:
    """It passes a signal on; whoever did not get it would go on, and keep the pipes open."""
    settings = {"PACS_TASKS_REDIS_URL": "redis://127.0.0.1:1/0", "PACS_TASKS_DATA_DIR": str(tmp_path)}
    env = environment(PATH=nursery.search_path(os.environ["PATH"]), **settings)
    with subprocess.Popen(["bash", "-c", "exec pacs-tasks worker"], env=env, cwd=tmp_path, **_PIPES) as popen:
        assert popen.stderr is not None
        assert popen.stderr.readline()
        forked = _sharers(popen)
        try:
            assert b"-IS" in Path(f"/proc/{popen.pid}/cmdline").read_bytes()
            os.kill(forked[0] if killed else popen.pid, signal.SIGKILL if killed else signal.SIGTERM)
            popen.communicate(timeout=30)
        finally:
            for pid in forked:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert popen.returncode in codes


def start_worker(**settings: str) -> subprocess.Popen[str]:
    """A worker that tries to reach a Redis until it is told to end."""
    env = environment(PACS_TASKS_REDIS_URL="redis://127.0.0.1:1/0", **settings)
    command = [sys.executable, "-m", "workers", "--concurrency", "1"]
    return nursery.start(command, env, ROOT, session=True, **_PIPES)


def test_a_program_has_its_own_id_session_and_end(tmp_path: Path) -> None:
    with start_worker(PACS_TASKS_DATA_DIR=str(tmp_path)) as popen:
        assert type(popen) is not subprocess.Popen
        assert popen.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            popen.wait(0.1)
        fields = Path(f"/proc/{popen.pid}/stat").read_text().rpartition(")")[2].split()
        assert {int(fields[2]), int(fields[3])} == {popen.pid}
        handles = {each.readlink() for each in Path(f"/proc/{popen.pid}/fd").iterdir() if int(each.name) < 3}
        assert len(handles) == 3
        Process(popen, tmp_path / "log").kill()  # type: ignore[arg-type]  # its streams are text
        assert popen.poll() == -signal.SIGKILL
        assert popen.communicate(timeout=10)[0] is not None


def test_threads_start_programs_at_the_same_time() -> None:
    codes: list[int] = []
    terminal = Terminal(ROOT)
    threads = [threading.Thread(target=lambda: codes.append(terminal.run("--version").code)) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert codes == [0] * 8


@pytest.mark.parametrize("variable", ["LANG", "PYTHONPATH", "PACS_TASKS_LANGUAGE"])
def test_a_program_with_other_variables_than_settings_is_started_anew(variable: str) -> None:
    terminal = Terminal(ROOT, settings=((variable, "zh_CN.UTF-8"),))
    with terminal.starts("--version") as popen:
        assert type(popen) is subprocess.Popen
        popen.communicate(timeout=30)
