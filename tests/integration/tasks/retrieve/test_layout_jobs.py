"""Retrieves whose files are named by a template, by C-GET and through the receiver."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import DataElement, dcmread
from pydicom.config import IGNORE

from pacs_tasks.client import PacsClient
from pacs_tasks.outcome import Category, TransferOutcome
from pacs_tasks.request import RetrieveMethod, RetrieveRequest
from pacs_tasks.testing import TestPACS
from tests.support import dicom_files, ports, workers
from tests.support.command import Terminal
from tests.support.dicom_files import data_set, study_uid, write_series

pytestmark = pytest.mark.holds((1, 1, 5), (1, 2, 3))

TEMPLATE = "{PatientName}/{StudyDate}_{Modality}/{SeriesNumber:02}-{InstanceNumber:04}"


def _retrieved(client: PacsClient, archive: TestPACS, directory: Path, **options: object) -> TransferOutcome:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory)}
    job = client.enqueue(RetrieveRequest.model_validate({"method": RetrieveMethod.GET, **fields, **options}))
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _assert_complete(archive: TestPACS, directory: Path) -> None:
    """Every instance lies there once, exact to the byte, and nothing else does."""
    found = _files(directory)
    assert len(found) == len(archive.instances)
    assert {str(dcmread(path).SOPInstanceUID): data_set(path) for path in found} == {
        uid: held.data_set for uid, held in archive.instances.items()
    }


@pytest.mark.parametrize("method", [RetrieveMethod.GET, RetrieveMethod.MOVE])
def test_files_are_called_by_the_template(
    method: RetrieveMethod, client: PacsClient, archive: TestPACS, shared_redis_url: str, tmp_path: Path
) -> None:
    """The layout applies to both methods."""
    port = ports.free_port()
    (tmp_path / "receiver").mkdir()
    with workers.receiver(shared_redis_url, tmp_path / "receiver", port, "LAYOUT"):
        archive.destinations = {"LAYOUT": ("127.0.0.1", port)}
        options = {"move_aet": "LAYOUT"} if method is RetrieveMethod.MOVE else {}
        outcome = _retrieved(client, archive, tmp_path / "out", layout=TEMPLATE, method=method, **options)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 8), outcome
    names = [str(path.relative_to(tmp_path / "out")) for path in _files(tmp_path / "out")]
    assert len(set(names)) == len(archive.instances)
    assert all(name.startswith("张_三丰/20240115_CT/") for name in names), names
    assert {Path(name).name.partition("-")[0] for name in names} == {"01", "02"}
    _assert_complete(archive, tmp_path / "out")
    assert not list((tmp_path / "receiver").rglob("*.dcm"))


def test_one_name_for_all_keeps_all(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Two parts write at once; no file is overwritten, and a second retrieve finds all of them."""
    assert _retrieved(client, archive, tmp_path / "out", layout="{PatientID}/all").counters.success == 8
    _assert_complete(archive, tmp_path / "out")
    before = _files(tmp_path / "out")
    assert _retrieved(client, archive, tmp_path / "out", layout="{PatientID}/all").counters.present == 8
    outcome = _retrieved(client, archive, tmp_path / "out", layout="{PatientID}/all", overwrite=True)
    assert outcome.counters.success == 8
    assert _files(tmp_path / "out") == before


def test_two_jobs_of_two_studies_with_the_same_names_keep_both(client: PacsClient, tmp_path: Path) -> None:
    """At the same time, into the same directory."""
    held = [path for study in (1, 2) for path in write_series(tmp_path / f"held/{study}", 12, study=study)]
    with TestPACS(instances=held) as archive:
        jobs = [
            client.enqueue(
                RetrieveRequest(
                    remote=archive.remote,
                    study_uid=study_uid(study),
                    output_dir=str(tmp_path / "out"),
                    layout="{PatientID}/{InstanceNumber}",
                    method=RetrieveMethod.GET,
                )
            )
            for study in (1, 2)
        ]
        for job in jobs:
            job.wait(60)
            assert job.outcome().category is Category.SUCCESS
        _assert_complete(archive, tmp_path / "out")


@pytest.mark.parametrize("value", ["../../../../escaped", "/tmp/escaped", "..", "CON"])
def test_a_hostile_pacs_writes_nothing_elsewhere(value: str, client: PacsClient, tmp_path: Path) -> None:
    """The Patient ID is part of the path."""
    ds = dicom_files.instance(charset="ISO_IR 192")
    ds["PatientID"] = DataElement("PatientID", "LO", value, validation_mode=IGNORE)
    with TestPACS(instances=[dicom_files.write(ds, tmp_path / "held.dcm")]) as archive:
        outcome = _retrieved(client, archive, tmp_path / "deep/er/out", layout="{PatientID}/{PatientID}")
        assert outcome.category is Category.SUCCESS
        _assert_complete(archive, tmp_path / "deep/er/out")
    assert not any("escaped" in path.name for path in (tmp_path / "deep").iterdir())
    assert not Path("/tmp/escaped").exists()


def test_a_link_that_leads_out_fails_what_would_go_through_it(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """The other series arrives."""
    for directory in ("out", "elsewhere"):
        (tmp_path / directory).mkdir()
    (tmp_path / "out/1").symlink_to(tmp_path / "elsewhere")
    outcome = _retrieved(client, archive, tmp_path / "out", layout="{SeriesNumber}/{InstanceNumber}")
    assert (outcome.category, outcome.counters.success, outcome.counters.failed) == (Category.PARTIAL, 3, 5)
    assert all("A link inside the output directory leads out of it" in each.reason for each in outcome.problems)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_command_takes_a_layout_and_finds_what_is_there(
    terminal: Terminal, archive: TestPACS, tmp_path: Path
) -> None:
    """The second run fetches nothing; with --overwrite it fetches everything."""
    command = ["retrieve", "--study-uid", study_uid(), "--output-dir", tmp_path / "out", "--method", "get"]
    command += ["--ip", archive.host, "--port", archive.port, "--pacs-ae-title", archive.ae_title]
    command += ["--layout", TEMPLATE]
    first = terminal.run(*command)
    assert first.code == 0, str(first)
    assert "Received" in first.stdout
    second = terminal.run(*command)
    assert second.code == 0, str(second)
    assert "Already there  8" in second.stdout
    assert "Received" not in second.stdout
    third = terminal.run(*command, "--overwrite", "--json")
    assert (third.code, third.json["counters"]["success"], third.json["counters"]["present"]) == (0, 8, 0)
    _assert_complete(archive, tmp_path / "out")
