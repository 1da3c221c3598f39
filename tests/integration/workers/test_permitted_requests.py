"""A worker with permissions serves what they allow, and tells nothing about what they do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import (
    Category,
    EchoRequest,
    InvalidRequestError,
    PacsClient,
    RemoteAE,
    RetrieveMethod,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
)
from pacs_tasks.request import AnyRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import instance, study_uid, write_many
from tests.support.ports import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def client(redis_url: str, pacs: TestPACS, tmp_path: Path) -> Iterator[PacsClient]:
    """A client of a worker that sends from and writes to one directory, and knows one PACS."""
    (tmp_path / "root").mkdir()
    known = {"archive": json.loads(pacs.remote.model_dump_json())}
    with (
        workers.worker(
            redis_url,
            tmp_path,
            concurrency=1,
            PACS_TASKS_SOURCE_ROOTS=str(tmp_path / "root"),
            PACS_TASKS_OUTPUT_ROOTS=str(tmp_path / "root"),
            PACS_TASKS_NAMED_REMOTES_ONLY="true",
            PACS_TASKS_REMOTES=json.dumps(known),
        ),
        PacsClient(redis_url) as running,
    ):
        yield running


def _refusal(client: PacsClient, request: AnyRequest) -> str:
    job = client.enqueue(request)
    job.wait(60)
    with pytest.raises(InvalidRequestError) as raised:
        job.outcome()
    return raised.value.message


def test_an_output_directory_that_becomes_a_link_is_not_followed(
    client: PacsClient, pacs: TestPACS, tmp_path: Path
) -> None:
    """Somebody who may write below the root exchanges it amid the job. What the link names stays empty."""
    out, elsewhere = tmp_path / "root/out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pacs.hold(*(instance(number) for number in range(6)))
    pacs.faults = Faults(hold_instances_after=2)
    request = RetrieveRequest(remote=pacs.remote, study_uid=study_uid(), output_dir=str(out), method=RetrieveMethod.GET)
    job = client.enqueue(request)
    wait_until(lambda: len(list(out.rglob("*.dcm"))) == 2, 30, "two instances")
    out.rename(out.with_name("moved"))
    out.symlink_to(elsewhere)
    pacs.faults = Faults()
    job.wait(60)
    assert job.outcome().category is not Category.SUCCESS
    assert not list(elsewhere.iterdir())


def test_what_is_not_permitted_is_refused_in_one_sentence(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """A file or port gets the same answer whether it is there or not; what is permitted in the same job is done."""
    root = tmp_path / "root"
    write_many(root / "files", (1, 1, 2))
    [outside] = write_many(tmp_path / "outside", (2, 2, 1))
    (root / "files/link").symlink_to(outside)
    (root / "files/directory").symlink_to(outside.parent)
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(root / "files")))
    job.wait(60)
    assert (job.outcome().counters.done, job.outcome().counters.failed) == (2, 2)
    assert {each.reason for each in job.outcome().problems if "outside the directories" in each.reason}
    assert len(pacs.instances) == 2

    paths = (str(outside), f"{outside}x", str(root / "files/link"), f"{root}/../nothing")
    assert len({_refusal(client, StoreRequest(remote=pacs.remote, path=path)) for path in paths}) == 1
    output = str(tmp_path / "elsewhere")
    assert "outside" in _refusal(client, RetrieveRequest(remote=pacs.remote, study_uid="1.2.3", output_dir=output))
    assert not Path(output).exists()
    with TestPACS("OTHER") as other:
        remotes = (other.remote, RemoteAE(ae_title="OTHER", port=free_port()), RemoteAE(host="169.254.169.254"))
        assert len({_refusal(client, EchoRequest(remote=remote)) for remote in remotes}) == 1
        assert not other.associations
