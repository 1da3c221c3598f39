"""One machine without any configuration, and an interactive terminal."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs_tasks import embedded
from pacs_tasks.settings import load
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.command import Terminal
from tests.support.dicom_files import write_series

#: What the guide for users shows, for a POSIX shell.
GUIDE = """
send-file --file dicom_files/000001.dcm --ip 127.0.0.1 --port {port}
send-dir --dir dicom_files --ip 127.0.0.1 --port {port} --pacs-ae-title PACS
query --patient-id P12345 --ip 127.0.0.1 --port {port}
query --study-date 20230101-20241231 --ip 127.0.0.1 --port {port}
retrieve --study-uid 2.25.314159265358979.1 --output-dir downloaded_dicoms --ip 127.0.0.1 --port {port}
"""


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Terminal]:
    """A directory with a private server of its own, which is ended afterwards."""
    terminal = Terminal(tmp_path, settings=(("PACS_TASKS_IDLE_TIMEOUT", "5"), ("PACS_TASKS_CONCURRENCY", "1")))
    yield terminal
    embedded.stop(load(data_dir=terminal.data_dir))


def test_every_command_of_the_guide_works_as_written(alone: Terminal) -> None:
    """Its jobs can be listed afterwards."""
    write_series(alone.directory / "dicom_files", 2)
    with TestPACS(ae_title="PACS") as pacs:
        for line in GUIDE.format(port=pacs.port).strip().splitlines():
            result = alone.run(*line.split())
            assert result.code == 0, result
        assert len(pacs.instances) == 2
    assert len(list((alone.directory / "downloaded_dicoms").rglob("*.dcm"))) == 2
    listed = alone.run("jobs", "--json").json["jobs"]
    assert [job["task"] for job in listed][::-1] == [
        "pacs_tasks.store_file",
        "pacs_tasks.store_directory",
        "pacs_tasks.find",
        "pacs_tasks.find",
        "pacs_tasks.retrieve",
    ]


def test_what_is_missing_here_is_told_before_anything_is_started(alone: Terminal) -> None:
    """The worker runs on the same machine, so the command can check."""
    for arguments in (("send-dir", "--dir", "none"), ("send-file", "--file", "none")):
        result = alone.run(*arguments)
        assert result.code == 2, result
        assert "There is no such" in result.stderr
    assert not alone.data_dir.exists()


def test_the_id_of_a_large_job_is_there_at_once(redis_url: str, pacs: TestPACS, tmp_path: Path) -> None:
    """The command does not wait for ten thousand files to be listed, and a cancel ends the job early."""
    write_series(tmp_path / "many", 10_000)
    terminal = Terminal(tmp_path, redis_url)
    peer = ("--port", pacs.port, "--pacs-ae-title", pacs.ae_title)
    detached = terminal.run("send-dir", "--dir", tmp_path / "many", "--detach", *peer)
    assert detached.code == 0, detached
    job_id = detached.stdout.strip()
    # There is no worker that could have listed anything.
    assert terminal.run("status", job_id, "--json").json["job"]["state"] == "queued"
    pacs.faults = Faults(hold_instances_after=1_000)
    with workers.worker(redis_url, tmp_path):
        cancelled = terminal.run("cancel", job_id)
        assert cancelled.code == 0, cancelled
        assert terminal.run("status", job_id, "--json").json["job"]["state"] == "cancelled"
    assert len(pacs.stores) < 2_000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_a_bar_moves_where_somebody_looks(terminal: Terminal, tmp_path: Path) -> None:
    """Files, bytes per second and time left; the summary follows it."""
    write_series(tmp_path / "files", 40)
    with TestPACS(faults=Faults(hold_instances_after=1)) as pacs:
        arguments = ["send-dir", "--dir", str(tmp_path / "files"), "--port", str(pacs.port)]
        arguments += ["--pacs-ae-title", pacs.ae_title]

        def look(shown: str) -> None:
            """The remote continues when the bar is shown, and finishes when the test has seen all of it."""
            if "send-dir: running" in shown:
                pacs.faults = Faults(delay=0.05, hold_instances_after=30)
            if "kB/s" in shown and "left" in shown:
                pacs.faults = Faults()

        said = _on_a_terminal([*terminal.entry, *arguments], terminal, look)
    assert "send-dir: running" in said
    assert "/40" in said
    assert "kB/s" in said
    assert "left" in said
    assert said.index("send-dir: running") < said.rindex("Result")


def _on_a_terminal(command: list[str], terminal: Terminal, look: Callable[[str], None]) -> str:
    """Run a command on a pseudo-terminal and return its output. ``look`` gets the output so far whenever it grows."""
    ours, theirs = os.openpty()
    env = {**terminal.environment(), "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=terminal.directory
    ) as process:
        os.close(theirs)
        shown = b""
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                if select.select([ours], [], [], 0.5)[0]:
                    piece = os.read(ours, 65_536)
                    if not piece:
                        break
                    shown += piece
                    look(shown.decode("utf-8", "replace"))
        except OSError:
            pass  # Linux ends a pseudo-terminal so
        finally:
            os.close(ours)
        assert process.wait(30) == 0, shown.decode()
    return shown.decode()
