"""Ctrl-C in the first moments of a command, and its last moments."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from pacs_tasks.cli.output.exit_codes import ExitCode
from tests.support.ports import free_port
from tests.support.processes import ROOT, environment

_MOMENTS = 8
#: Each says when Ctrl-C is ours to answer: what Python does before that, no program can change.
_PACS_TASKS = "from pacs_tasks.cli.interrupt import guarded; from pacs_tasks.cli.__main__ import _command as command"
_TRANSFER = "from pacs_tasks.cli.interrupt import guarded; from dicom_pacs_transfer import main as command"
_PROGRAM = "import sys; {}; sys.exit(guarded(lambda: [print('ready', flush=True), command()][1]))"


@pytest.mark.parametrize("program", [_PACS_TASKS, _TRANSFER], ids=["pacs-tasks", "dicom_pacs_transfer.py"])
def test_a_command_that_is_interrupted_at_its_start_shows_no_traceback(program: str, tmp_path: Path) -> None:
    """At any moment, amid imports too. It ends as cancelled, or as it would have ended if it was nearly over."""
    env = environment(
        PACS_TASKS_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", XDG_CONFIG_HOME=str(tmp_path), PYTHONPATH=str(ROOT)
    )
    command = [sys.executable, "-c", _PROGRAM.format(program), "echo"]
    codes = []
    whole = math.inf
    # The first two are left alone: the faster one shows how long the others have, also if the machine was busy once.
    for moment in range(-1, _MOMENTS + 1):
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            began = time.monotonic()
            if moment > 0:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(whole * random.uniform(moment - 1, moment) / _MOMENTS)
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            if moment <= 0:
                whole = min(whole, time.monotonic() - began)
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        codes.append(process.returncode)
    assert codes[:2] == [ExitCode.FAILED] * 2
    assert set(codes[2:]) <= {ExitCode.FAILED, ExitCode.CANCELLED}
    assert codes.count(ExitCode.CANCELLED) >= _MOMENTS / 3, codes


_LOST = """
import os, signal, sys
from pacs_tasks.cli.interrupt import guarded

class Ending:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass  # The interrupt is raised here, where Python can only report it.

def command():
    Ending()
    signal.pause()

sys.exit(guarded(command))
"""


def test_ctrl_c_that_comes_where_nothing_can_be_raised_is_not_lost() -> None:
    """Such as in a destructor, from which Python would print the exception and go on."""
    ended = _run(_LOST)
    assert (ended.returncode, ended.stderr) == (ExitCode.CANCELLED, "")


_LEAVES = """
import atexit, sys, threading, time
from pacs_tasks.cli.interrupt import leave

class Kept:
    def __del__(self):
        print("taken apart")

atexit.register(print, "at the end")
kept = Kept()
if {thread}:
    threading.Thread(target=lambda: (threading.main_thread().join(), print("the thread"))).start()
sys.stdout.write("said, ")
leave({code})
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_has_ended_does_what_it_registered_and_does_not_take_its_modules_apart(code: int) -> None:
    ended = _run(_LEAVES.format(code=code, thread=False))
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "said, at the end\n", "")


def test_a_command_with_a_thread_that_works_waits_for_it() -> None:
    ended = _run(_LEAVES.format(code=3, thread=True))
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout.startswith("said, the thread\nat the end\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no /dev/full")
def test_output_that_cannot_be_written_at_the_end_is_told_as_python_does() -> None:
    with Path("/dev/full").open("w") as full:
        ended = _run(_LEAVES.format(code=0, thread=False), stdout=full)
    assert ended.returncode == 120
    assert "No space left on device" in ended.stderr


def _run(script: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    # Empty: output is buffered until the end.
    command, env = [sys.executable, "-c", script], environment(PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="")
    return subprocess.run(command, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
