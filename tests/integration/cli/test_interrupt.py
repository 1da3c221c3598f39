"""Ctrl-C in the first moments of a command."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

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
    whole = 0.0
    for moment in range(_MOMENTS + 1):
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            began = time.monotonic()
            if moment:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(whole * random.uniform(moment - 1, moment) / _MOMENTS)
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            # The first one is left alone: it shows how long the others have.
            whole = whole or time.monotonic() - began
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        codes.append(process.returncode)
    assert codes[0] == ExitCode.FAILED
    assert set(codes[1:]) <= {ExitCode.FAILED, ExitCode.CANCELLED}
    assert codes.count(ExitCode.CANCELLED) >= _MOMENTS / 3


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
    command, env = [sys.executable, "-c", _LOST], environment(PYTHONPATH=str(ROOT))
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (ExitCode.CANCELLED, "")
