"""Orthanc and dcmqrscp, cancelled in the middle of a study: what came counts, and a retry asks for the rest by name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pacs_tasks import Category, InstanceCategory, Job, JobState, PacsClient, RetrieveRequest, TransferOutcome
from pacs_tasks.ae import RemoteAE
from tests.chaos.line import Line, Plan
from tests.support import peers, workers
from tests.support.dicom_files import study_uid, write_series
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.waiting import wait_until

#: Instances of the study, and seconds before each byte that comes back over the line: so it takes a few seconds. What
#: comes back are instances for C-GET, and the answers to them for C-MOVE.
NUMBER = {"move": 80, "get": 24}
PAUSE = {"move": 0.0002, "get": 0.0001}


@pytest.fixture
def running(shared_redis_url: str, shared_worker: Process) -> Iterator[PacsClient]:
    """A client of the shared worker."""
    assert shared_worker.running(), shared_worker.said()
    with PacsClient(shared_redis_url) as client:
        yield client


def slow_receiver(stack: ExitStack, redis_url: str, directory: Path, ae_title: str) -> int:
    """A receiver behind a slow line: the port to which the PACS delivers."""
    port = free_port()
    (directory / "receiver").mkdir()
    stack.enter_context(workers.receiver(redis_url, directory / "receiver", port, ae_title))
    target = RemoteAE(ae_title=ae_title, host="127.0.0.1", port=port)
    return Line(stack, directory / "receiver", target, Plan(pause=PAUSE["move"])).remote.port


def cancelled(
    client: PacsClient, remote: RemoteAE, directory: Path, method: str, ae_title: str
) -> tuple[Job, set[str]]:
    """A retrieve that is cancelled when some instances are here, and what is here then."""
    fields = {"remote": remote, "study_uid": study_uid(), "output_dir": str(directory), "method": method}
    job = client.enqueue(RetrieveRequest.model_validate({**fields, "move_aet": ae_title}))
    wait_until(lambda: len(here(directory)) > 5, 60, "some instances")
    job.cancel()
    progress = job.wait(20)
    found = here(directory)
    assert progress.state is JobState.CANCELLED
    assert progress.counters.success == len(found) < NUMBER[method]
    return job, found


def here(directory: Path) -> set[str]:
    return {path.stem for path in directory.rglob("*.dcm")}


@pytest.mark.orthanc
@pytest.mark.parametrize("method", ["move", "get"])
def test_orthanc(running: PacsClient, shared_redis_url: str, tmp_path: Path, method: str) -> None:
    """One instance is deleted meanwhile: Orthanc refuses the whole list, and all others come all the same."""
    files, title = write_series(tmp_path / "files", NUMBER[method], rows=2), f"SLOW_{method}".upper()
    with ExitStack() as stack:
        port = slow_receiver(stack, shared_redis_url, tmp_path, title)
        orthanc = stack.enter_context(peers.orthanc(tmp_path, destinations={title: ("127.0.0.1", port)}))
        for path in files:
            orthanc.add(path)
        held = orthanc.instances()
        remote = orthanc.remote
        if method == "get":
            remote = Line(stack, tmp_path, remote, Plan(pause=PAUSE["get"])).remote
        job, found = cancelled(running, remote, tmp_path / "out", method, title)
        gone = sorted(held.keys() - found)[1]
        orthanc.delete(held[gone])
        job.retry().wait(90)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    (problem,) = outcome.problems
    assert (problem.subject, problem.category) == (gone, InstanceCategory.MISSING)
    assert here(tmp_path / "out") == held.keys() - {gone}


@pytest.mark.dcmtk
@pytest.mark.parametrize("method", ["move", "get"])
def test_dcmqrscp(running: PacsClient, shared_redis_url: str, tmp_path: Path, method: str) -> None:
    """All others come."""
    files, title = write_series(tmp_path / "files", NUMBER[method], rows=2), f"SLOW_{method}".upper()
    with ExitStack() as stack:
        port = slow_receiver(stack, shared_redis_url, tmp_path, title)
        archive = stack.enter_context(peers.dcmqrscp(tmp_path, destinations={title: ("127.0.0.1", port)}))
        send = ["dcmsend", "-aec", archive.ae_title, "127.0.0.1", str(archive.port), *map(str, files)]
        subprocess.run(send, env=peers.dcmtk_environment(), timeout=60, check=True)
        remote = archive.remote
        if method == "get":
            remote = Line(stack, tmp_path, remote, Plan(pause=PAUSE["get"])).remote
        job, found = cancelled(running, remote, tmp_path / "out", method, title)
        assert found
        job.retry().wait(90)
    assert job.outcome().category is Category.SUCCESS
    assert len(here(tmp_path / "out")) == NUMBER[method]
