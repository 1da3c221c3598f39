"""During a C-MOVE only the PACS that was asked delivers to the job; whatever else comes is unsolicited."""

from __future__ import annotations

from pathlib import Path

import pytest
from pynetdicom.presentation import build_context

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest, TransferOutcome
from pacs_tasks.ae import RemoteAE
from pacs_tasks.client import Job
from pacs_tasks.testing import Faults, TestPACS
from pacs_tasks.testing.association import Caller
from tests.integration.conftest import Receiver
from tests.support.callers import CT, EXPLICIT, GUARDED
from tests.support.dicom_files import data_set, instance, study_uid, write
from tests.support.waiting import wait_until

pytestmark = pytest.mark.holds((1, 1, 6))
#: How many instances have come when the stranger begins.
EARLY = 3


def enqueued(
    client: PacsClient, remote: RemoteAE, receiver: Receiver, directory: Path, study: int = 1
) -> Job[TransferOutcome]:
    return client.enqueue(
        RetrieveRequest(
            remote=remote,
            study_uid=study_uid(study),
            output_dir=str(directory),
            method=RetrieveMethod.MOVE,
            move_aet=receiver.ae_title,
        )
    )


def below(directory: Path) -> dict[str, bytes]:
    """The data set of each instance, by SOP Instance UID."""
    return {path.stem: data_set(path) for path in directory.rglob("*.dcm")}


def push(receiver: Receiver, source: str, calling_aet: str, originator: str, numbers: range) -> None:
    """Push forged instances of the series, from an address, with an AE title, as if by somebody's C-MOVE."""
    ae = Caller(calling_aet)
    ae.acse_timeout = ae.dimse_timeout = 15
    contexts = [build_context(CT, EXPLICIT)]
    assoc = ae.associate(
        "127.0.0.1", receiver.port, contexts, receiver.ae_title, evt_handlers=GUARDED, bind_address=(source, 0)
    )
    assert assoc.is_established
    try:
        for number in numbers:
            forged = instance(number, patient_id="FORGED")
            named, message_id = (originator, 1) if originator else (None, None)
            answer = assoc.send_c_store(forged, originator_aet=named, originator_id=message_id)
            assert answer.Status == 0x0000
    finally:
        assoc.release()


@pytest.mark.parametrize(
    ("source", "calling_aet", "originator"),
    [
        ("127.0.0.2", "TESTPACS", ""),
        ("127.0.0.2", "TESTPACS", "PYNETDICOM"),
        ("127.0.0.1", "STRANGER", ""),
        ("127.0.0.1", "TESTPACS", "STRANGER"),
        ("127.0.0.1", "TESTPACS", "PYNETDICOM"),
    ],
    ids=["address", "address-and-originator", "ae-title", "originator", "message-id"],
)
def test_what_a_stranger_pushes_amid_a_c_move_is_unsolicited(
    client: PacsClient,
    archive: TestPACS,
    receiver: Receiver,
    tmp_path: Path,
    source: str,
    calling_aet: str,
    originator: str,
) -> None:
    """Its forgeries have the UIDs that are still to come. The job gets all of the PACS's, and none of them."""
    forged = range(1_000_001 + EARLY, 1_000_007)
    archive.faults = Faults(hold_instances_after=EARLY)
    job = enqueued(client, archive.remote, receiver, tmp_path / "out")
    wait_until(lambda: len(below(tmp_path / "out")) >= EARLY, 30, "the first instances")
    push(receiver, source, calling_aet, originator, forged)
    archive.faults = Faults()
    job.wait(60)
    assert (job.outcome().category, job.outcome().counters.success) == (Category.SUCCESS, 6), job.outcome()
    assert below(tmp_path / "out") == {uid: held.data_set for uid, held in archive.instances.items()}
    kept = below(receiver.incoming.parent / "unsolicited")
    assert {str(instance(number).SOPInstanceUID) for number in forged} <= set(kept)


@pytest.mark.parametrize(
    ("faults", "wanted", "settings"),
    [
        (Faults(delivers_from="127.0.0.2"), 'receive_from = ["127.0.0.2"]', {"receive_from": ("127.0.0.0/30",)}),
        (
            Faults(delivers_as="NODE2"),
            'receive_from_ae_titles = ["NODE2"]',
            {"receive_from_ae_titles": ("NODE1", "NODE2")},
        ),
        (
            Faults(delivers_as="NODE2", delivers_from="127.0.0.2", originator="NODE1"),
            'receive_from = ["127.0.0.2"] and receive_from_ae_titles = ["NODE2", "NODE1"]',
            {"receive_from": ("127.0.0.2",), "receive_from_ae_titles": ("NODE1", "NODE2")},
        ),
        (
            Faults(originator="TESTPACS"),
            'receive_from_ae_titles = ["TESTPACS"]',
            {"receive_from_ae_titles": ("TESTPACS",)},
        ),
    ],
    ids=["address", "ae-title", "cluster", "originator"],
)
def test_a_cluster_that_delivers_from_elsewhere_is_named_with_its_setting(
    client: PacsClient,
    archive: TestPACS,
    receiver: Receiver,
    tmp_path: Path,
    faults: Faults,
    wanted: str,
    settings: dict[str, tuple[str, ...]],
) -> None:
    """The outcome names who delivered, and the setting with which everything comes."""
    archive.faults = faults
    job = enqueued(client, archive.remote, receiver, tmp_path / "out")
    job.wait(60)
    assert (job.outcome().category, job.outcome().counters.missing) == (Category.FAILED, 6)
    for each in job.outcome().problems:
        delivered = f"{faults.delivers_as or 'TESTPACS'} at {faults.delivers_from or '127.0.0.1'}"
        assert f"Instances of it came from {delivered}" in each.reason
        assert wanted in each.reason
    remote = RemoteAE.model_validate(archive.remote.model_dump() | settings)
    job = enqueued(client, remote, receiver, tmp_path / "out")
    job.wait(60)
    assert (job.outcome().category, job.outcome().counters.success) == (Category.SUCCESS, 6), job.outcome()
    assert below(tmp_path / "out") == {uid: held.data_set for uid, held in archive.instances.items()}


@pytest.mark.parametrize(
    ("level", "study"),
    [
        pytest.param("study", 2, marks=pytest.mark.holds((2, 1, 2))),
        pytest.param("series", 3, marks=pytest.mark.holds((3, 1, 2))),
    ],
)
def test_a_link_at_the_receiver_delivers_nothing(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path, level: str, study: int
) -> None:
    """Somebody has put a link to a directory of forgeries where the instances of the study are to arrive."""
    forged, series_uid = tmp_path / "forged", f"{study_uid(study)}.1"
    directory = forged / series_uid if level == "study" else forged
    directory.mkdir(parents=True)
    name = f"{series_uid}.1000001.dcm"
    write(instance(1_000_001, study=study, patient_id="FORGED"), directory / name)
    link = receiver.incoming / study_uid(study) / ("" if level == "study" else series_uid)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(forged)
    job = enqueued(client, archive.remote, receiver, tmp_path / "out", study)
    job.wait(60)
    assert job.outcome().category is Category.FAILED
    assert not below(tmp_path / "out")
    assert [path.name for path in forged.rglob("*.dcm")] == [name]
