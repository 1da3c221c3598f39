"""The class that existing users know, against a real PACS."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_pacs_transfer import DicomPacsTransfer
from pacs_tasks import TLS, AssociationRejectedError, Category, JobFailedError, UnreadableInputError
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from pacs_tasks.testing.faults import CALLED_AET_NOT_RECOGNISED
from tests.support.certificates import Authority
from tests.support.dicom_files import CHINESE_NAME, data_set, study_uid, write_series, write_text
from tests.support.ports import free_port
from tests.support.processes import Process


@pytest.fixture
def transfer(
    shared_redis_url: str, shared_worker: Process, pacs: TestPACS, monkeypatch: pytest.MonkeyPatch
) -> DicomPacsTransfer:
    """A transfer object for the empty PACS."""
    assert shared_worker.running(), shared_worker.said()
    monkeypatch.setenv("PACS_TASKS_REDIS_URL", shared_redis_url)
    return DicomPacsTransfer(pacs_ip=pacs.host, pacs_port=pacs.port, ae_title="MY_APP", pacs_ae_title=pacs.ae_title)


def test_a_file_is_sent_or_not(
    transfer: DicomPacsTransfer, pacs: TestPACS, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """True only if the PACS has stored it. Each False has a line in the log, without the path."""
    file = write_series(tmp_path, 1)[0]
    caplog.set_level(logging.INFO, "dicom_pacs_transfer")
    assert transfer.send_dicom_file(str(file)) is True
    assert pacs.calling_aets == ["MY_APP"]
    assert [each.data_set for each in pacs.instances.values()] == [data_set(file)]
    assert transfer.send_dicom_file(write_text(tmp_path / "text.dcm")) is False
    assert transfer.send_dicom_file(tmp_path / "none.dcm") is False
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA900})
    assert transfer.send_dicom_file(file) is False
    transfer.pacs_port = free_port()
    assert transfer.send_dicom_file(file) is False
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["ERROR"] * 4
    assert str(tmp_path) not in caplog.text


def test_everything_goes_over_tls_where_that_is_asked_for(transfer: DicomPacsTransfer, tmp_path: Path) -> None:
    """Send, query and retrieve. A PACS that is not trusted gets nothing."""
    authority = Authority(tmp_path)
    files = write_series(tmp_path / "files", 2)
    with TestPACS(transfer.pacs_ae_title, tls=authority.identity().shown) as pacs:
        transfer.pacs_port, transfer.tls = pacs.port, TLS()
        assert transfer.send_dicom_file(files[0]) is False
        assert pacs.instances == {}
        transfer.tls = TLS(ca_file=str(authority.file))
        assert transfer.send_directory(tmp_path / "files")
        assert [each.PatientName for each in transfer.query_pacs({"PatientID": "P12345"})] == [CHINESE_NAME]
        assert transfer.retrieve_study(study_uid(), tmp_path / "out")
    assert sorted(map(data_set, (tmp_path / "out").rglob("*.dcm"))) == sorted(map(data_set, files))


def test_a_directory_gives_its_outcome(transfer: DicomPacsTransfer, pacs: TestPACS, tmp_path: Path) -> None:
    """True when everything is sent. A missing directory has no outcome."""
    write_series(tmp_path / "files", 3)
    outcome = transfer.send_directory(tmp_path / "files")
    assert outcome
    assert outcome.counters.success == 3
    assert len(pacs.instances) == 3
    with pytest.raises(UnreadableInputError):
        transfer.send_directory(tmp_path / "none")


def test_a_query_gives_data_sets(transfer: DicomPacsTransfer, tmp_path: Path) -> None:
    """With the attributes to retrieve them, whatever the query requests. Values may be of any type."""
    with TestPACS(instances=write_series(tmp_path, 2)) as filled:
        transfer.pacs_port = filled.port
        (match,) = transfer.query_pacs({"QueryRetrieveLevel": "STUDY", "PatientID": "P12345", "StudyTime": None})
        assert match.PatientName == CHINESE_NAME
        assert match.StudyInstanceUID == study_uid()
        assert match.StudyTime == "120000"
        keys = {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": study_uid(), "InstanceNumber": 1000001}
        assert len(transfer.query_pacs(keys)) == 1
        assert transfer.query_pacs({"PatientID": "NOBODY"}) == []


def test_values_of_a_query_may_be_what_python_has_for_them(transfer: DicomPacsTransfer, pacs: TestPACS) -> None:
    """A day, numbers, several values, and a data set of pydicom with all of them."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "IMAGE"
    wanted.StudyInstanceUID = ["1.2.3", "1.2.4"]
    wanted.InstanceNumber = 2
    for query in (wanted, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": ("1.2.3", "1.2.4"), "InstanceNumber": 2}):
        transfer.query_pacs(query)
        assert list(pacs.identifiers[-1].StudyInstanceUID) == ["1.2.3", "1.2.4"]
        assert pacs.identifiers[-1].InstanceNumber == 2
    transfer.query_pacs({"StudyDate": datetime.date(2023, 6, 1)})
    assert pacs.identifiers[-1].StudyDate == "20230601"


def test_a_query_without_an_answer_claims_nothing(transfer: DicomPacsTransfer, pacs: TestPACS) -> None:
    """An empty list would claim that there is no match."""
    pacs.faults = Faults(find_status=0xC001)
    with pytest.raises(JobFailedError, match="C001"):
        transfer.query_pacs({"PatientID": "P1"})
    pacs.faults = Faults(rejection=CALLED_AET_NOT_RECOGNISED)
    with pytest.raises(AssociationRejectedError):
        transfer.query_pacs({"PatientID": "P1"})


def test_a_study_is_true_only_when_complete(transfer: DicomPacsTransfer, tmp_path: Path) -> None:
    """Partial is a category of its own, and the problems list what is missing."""
    files = write_series(tmp_path / "files", 3)
    with TestPACS(instances=files) as filled:
        transfer.pacs_port = filled.port
        assert transfer.retrieve_study(study_uid(), tmp_path / "whole")
        assert len(list((tmp_path / "whole").rglob("*.dcm"))) == 3
        lost = f"{study_uid()}.1.1000002"
        filled.faults = Faults(lost=[lost])
        outcome = transfer.retrieve_study(study_uid(), str(tmp_path / "partial"))
    assert not outcome
    assert outcome.category is Category.PARTIAL
    assert [each.subject for each in outcome.problems] == [lost]
