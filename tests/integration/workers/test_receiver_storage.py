"""The receiver's storage and the output directory: the same directory, or on different file systems."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest, TransferOutcome
from pacs_tasks.testing import Faults, TestPACS
from tests.support import ports, workers
from tests.support.dicom_files import study_uid

pytestmark = pytest.mark.holds((1, 1, 5))

#: A file system other than that of temporary files.
_OTHER = Path("/dev/shm")


@pytest.fixture
def storage(shared_redis_url: str, tmp_path: Path, archive: TestPACS) -> Iterator[Path]:
    """The directory of a receiver that the PACS knows as RECEIVER."""
    port = ports.free_port()
    (tmp_path / "receiver").mkdir()
    with workers.receiver(shared_redis_url, tmp_path / "receiver", port, "RECEIVER"):
        archive.destinations = {"RECEIVER": ("127.0.0.1", port)}
        yield tmp_path / "receiver" / "data" / "received"


def retrieved(client: PacsClient, archive: TestPACS, directory: Path, method: RetrieveMethod) -> TransferOutcome:
    job = client.enqueue(
        RetrieveRequest(
            remote=archive.remote,
            study_uid=study_uid(),
            output_dir=str(directory),
            method=method,
            move_aet="RECEIVER" if method is RetrieveMethod.MOVE else None,
            overwrite=True,
        )
    )
    job.wait(30)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def found(directory: Path) -> set[str]:
    return {path.stem for path in directory.rglob("*.dcm")}


def test_what_is_already_there_is_not_given_up_for_what_does_not_come(
    client: PacsClient, archive: TestPACS, storage: Path
) -> None:
    """The study goes to the receiver's own storage, then comes again from a remote that sends nothing."""
    assert retrieved(client, archive, storage, RetrieveMethod.MOVE).counters.success == 5
    assert retrieved(client, archive, storage, RetrieveMethod.MOVE).counters.success == 5
    archive.faults = Faults(lost=list(archive.instances))
    outcome = retrieved(client, archive, storage, RetrieveMethod.MOVE)
    assert (outcome.category, outcome.counters.missing) == (Category.FAILED, 5)
    assert found(storage) == set(archive.instances)


def test_what_is_where_it_came_to_stays_there(client: PacsClient, archive: TestPACS, storage: Path) -> None:
    """The output directory is the one that the receiver writes to; an instance does not count as a duplicate."""
    archive.faults = Faults(delay=0.05)
    outcome = retrieved(client, archive, storage / "incoming", RetrieveMethod.MOVE)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 5)
    assert found(storage / "incoming") == set(archive.instances)


@pytest.mark.skipif(not _OTHER.is_dir(), reason="there is no second file system here")
def test_another_file_system_is_no_hindrance(client: PacsClient, archive: TestPACS, storage: Path) -> None:
    """No unfinished or hidden file is left, and the permissions are as on one file system."""
    output = Path(tempfile.mkdtemp(dir=_OTHER))
    try:
        assert output.stat().st_dev != storage.stat().st_dev
        assert retrieved(client, archive, output, RetrieveMethod.MOVE).counters.success == 5
        files = [path for path in output.rglob("*") if path.is_file()]
        assert {path.stem for path in files} == set(archive.instances)
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert not found(storage)
    finally:
        shutil.rmtree(output)
