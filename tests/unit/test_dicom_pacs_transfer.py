"""The class that existing users know, without any service."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import dicom_pacs_transfer
from dicom_pacs_transfer import DicomPacsTransfer
from pacs_tasks import BrokerUnavailableError, InvalidRequestError
from tests.support.ports import free_port


def test_the_defaults_are_those_of_the_guide() -> None:
    """Names, order and values."""
    parameters = inspect.signature(DicomPacsTransfer).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "pacs_ip": "127.0.0.1",
        "pacs_port": 11112,
        "ae_title": "PYNETDICOM",
        "pacs_ae_title": "PACS",
        "timeout": 30,
        "tls": None,
    }


def test_attributes_are_readable() -> None:
    """Under the names of the parameters."""
    transfer = DicomPacsTransfer("10.0.0.1", 104, "MY_APP", "ARCHIVE", 5)
    assert vars(transfer) == {
        "pacs_ip": "10.0.0.1",
        "pacs_port": 104,
        "ae_title": "MY_APP",
        "pacs_ae_title": "ARCHIVE",
        "timeout": 5,
        "tls": None,
    }


def test_a_wrong_attribute_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    """It names the field: False would blame the file."""
    with pytest.raises(InvalidRequestError, match=r"remote\.ae_title"):
        DicomPacsTransfer(pacs_ae_title="LONGER_THAN_SIXTEEN").send_dicom_file(tmp_path / "x.dcm")
    with pytest.raises(InvalidRequestError, match="level"):
        DicomPacsTransfer().query_pacs({"QueryRetrieveLevel": "EXAM"})
    with pytest.raises(InvalidRequestError, match="study_uid"):
        DicomPacsTransfer().retrieve_study("no UID", tmp_path)


def test_nothing_is_claimed_without_a_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It claims neither that a file was not sent nor that there is no match."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    monkeypatch.setenv("PACS_TASKS_REDIS_URL", url)
    with pytest.raises(BrokerUnavailableError):
        DicomPacsTransfer().send_dicom_file(tmp_path / "x.dcm")
    with pytest.raises(BrokerUnavailableError):
        DicomPacsTransfer().query_pacs({"PatientID": "P1"})


def test_importing_it_configures_no_logging() -> None:
    """The importing program configures it. This test runs a new process, since other tests configure logging."""
    assert dicom_pacs_transfer.logger is logging.getLogger("dicom_pacs_transfer")
    program = (
        "import logging, dicom_pacs_transfer as module; "
        "handlers = [type(each).__name__ for each in module.logger.handlers]; "
        "print(module.logger.level, handlers, logging.getLogger().handlers)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "0 ['NullHandler'] []\n"


@pytest.mark.parametrize("options", [["-S"], ["-I", "-S"]])
def test_the_script_says_what_to_install(options: list[str]) -> None:
    """After the guide's own installation, or copied elsewhere: one English and one Chinese sentence."""
    command = [sys.executable, *options, dicom_pacs_transfer.__file__, "echo"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=30, check=False)
    english, chinese = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert "celery" in english
    assert "python -m pip install" in english
    assert "缺少" in chinese
    assert "python -m pip install" in chinese
