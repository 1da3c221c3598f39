"""An instance counts as received once it survives a power cut: file and directories are synced first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks import Category, Job, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.connection import connect
from pacs_tasks.testing import TestPACS
from tests.support import workers
from tests.support.dicom_files import study_uid, write_series
from tests.support.ports import free_port

#: A module that Python runs first: it logs each synced file and directory with the time.
_WATCHED = """
import os, time

_fsync = os.fsync

def fsync(descriptor):
    _fsync(descriptor)
    line = f"{time.time():.6f} {os.readlink(f'/proc/self/fd/{descriptor}')}\\n"
    with open(os.environ["TESTS_SYNCED"], "a") as log:
        log.write(line)

os.fsync = fsync
"""
_COUNT = 45


@pytest.fixture
def synced(tmp_path: Path, redis_url: str) -> Iterator[Path]:
    """The log of a worker's syncs: a line with the time for each."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first/sitecustomize.py").write_text(_WATCHED)
    log = tmp_path / "synced"
    with workers.worker(redis_url, tmp_path, PYTHONPATH=str(tmp_path / "first"), TESTS_SYNCED=str(log)):
        yield log


@contextmanager
def commands_seen(redis_url: str) -> Iterator[list[dict[str, Any]]]:
    """The commands that Redis receives during the block, with the time; complete after the block."""
    seen: list[dict[str, Any]] = []
    with connect(redis_url, 20) as client, connect(redis_url, 20) as other, client.monitor() as monitor:

        def listen() -> None:
            for each in monitor.listen():
                seen.append(each)
                if each["command"] == "ECHO the end":
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield seen
        finally:
            other.echo("the end")
            listener.join(20)


def retrieved(redis_url: str, archive: TestPACS, output: Path, method: RetrieveMethod) -> Job:
    with PacsClient(redis_url) as client:
        job = client.enqueue(
            RetrieveRequest(remote=archive.remote, study_uid=study_uid(), output_dir=str(output), method=method)
        )
        job.wait(60)
        assert job.outcome().category is Category.SUCCESS, job.outcome()
        return job


@pytest.mark.parametrize("method", [RetrieveMethod.MOVE, RetrieveMethod.GET])
def test_what_is_told_is_synced(redis_url: str, synced: Path, tmp_path: Path, method: RetrieveMethod) -> None:
    """Each file, its series, its study, and the directories that were created for it."""
    port, output = free_port(), tmp_path / "made/for/this"
    with (
        TestPACS(
            instances=write_series(tmp_path / "held", _COUNT), destinations={"PACS_TASKS": ("127.0.0.1", port)}
        ) as archive,
        workers.receiver(redis_url, tmp_path, port),
        commands_seen(redis_url) as commands,
    ):
        retrieved(redis_url, archive, output, method)
    when: dict[str, list[float]] = {}
    for line in synced.read_text().splitlines():
        moment, _, path = line.partition(" ")
        when.setdefault(path, []).append(float(moment))
    files = sorted(output.rglob("*.dcm"))
    assert len(files) == _COUNT
    evaluated = [each for each in commands if each["command"].startswith("EVALSHA")]
    for file in files:
        # The command is sent twice if this Redis does not know the script yet.
        told = min(each["time"] for each in evaluated if str(file) in each["command"])
        assert when[str(file)][0] <= told, "its content"
        # The last change of the file is its name.
        named = file.stat().st_ctime
        assert any(named <= moment <= told for moment in when[str(file.parent)]), "its name"
        for parent in [*file.parents][1:6]:
            assert when[str(parent)][0] <= told, parent
