"""PACS that others wrote deliver to a receiver whose AE title has underscores, spaces and 16 characters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.outcome import InstanceCategory
from tests.support import peers, workers
from tests.support.dicom_files import data_set, study_uid, write_series
from tests.support.ports import free_port
from tests.support.processes import Process

_EACH = 20


def sent_to(remote: RemoteAE, directory: Path) -> Mapping[str, bytes]:
    """Give the peer a study of two series, over one association: the data sets by UID."""
    files = [path for series in (1, 2) for path in write_series(directory / str(series), _EACH, series=series)]
    instances = [read_instance(str(path)) for path in files]
    ((contexts, _),) = contexts_for(instances)
    with Association.open(LocalAE(), remote, contexts, Timeouts.of(20)) as assoc:
        assert all(outcome.category is InstanceCategory.SUCCESS for _, outcome in store_all(assoc, instances))
    return {each.sop_instance_uid: data_set(Path(each.path)) for each in instances}


def retrieved_twice_at_once(redis_url: str, remote: RemoteAE, move_aet: str, directory: Path) -> None:
    """Two jobs for the same study, each into a directory of its own."""
    with PacsClient(redis_url) as client:
        jobs = [
            client.enqueue(
                RetrieveRequest(
                    remote=remote,
                    study_uid=study_uid(),
                    output_dir=str(directory / name),
                    method=RetrieveMethod.MOVE,
                    move_aet=move_aet,
                )
            )
            for name in ("one", "two")
        ]
        for job in jobs:
            job.wait(60)
            assert job.outcome().category is Category.SUCCESS, job.outcome()


@pytest.mark.parametrize(
    ("program", "ae_title"),
    [
        pytest.param("Orthanc", "READING_ROOM  16", marks=pytest.mark.orthanc),
        pytest.param("dcmqrscp", "READING_ROOM__16", marks=pytest.mark.dcmtk),
    ],
)
def test_two_retrieves_of_a_study_at_once_are_complete(
    shared_redis_url: str, shared_worker: Process, tmp_path: Path, program: str, ae_title: str
) -> None:
    """Byte for byte, although the receiver takes nothing that nobody asked for; and nothing is left with it."""
    assert shared_worker.running(), shared_worker.said()
    port = free_port()
    destinations = {ae_title: ("127.0.0.1", port)}
    with ExitStack() as stack:
        start = peers.orthanc if program == "Orthanc" else peers.dcmqrscp
        remote = stack.enter_context(start(tmp_path, destinations=destinations)).remote
        settings = {"PACS_TASKS_UNSOLICITED": "refuse", "PACS_TASKS_RECEIVER_PROCESSES": "2"}
        receiver = stack.enter_context(workers.receiver(shared_redis_url, tmp_path, port, ae_title, **settings))
        promised = sent_to(remote, tmp_path / "held")
        retrieved_twice_at_once(shared_redis_url, remote, ae_title, tmp_path)
        receiver.end(20)
        assert "of those received and 0 of those refused" in receiver.said()
    for name in ("one", "two"):
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert {path.stem: data_set(path) for path in files} == promised
    assert not list((tmp_path / "data/received").rglob("*.dcm"))
