"""The Python of the users' guide of the first ``dicom_pacs_transfer.py`` works as written there, by section."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_pacs_transfer import DicomPacsTransfer
from pacs_tasks import embedded
from pacs_tasks.settings import Settings
from pacs_tasks.testing import TestPACS
from tests.support.command import Terminal
from tests.support.dicom_files import write
from tests.support.known_study import STUDY_UID, known_study


@pytest.fixture
def pacs() -> Iterator[TestPACS]:
    """A PACS that holds the guide's study."""
    with TestPACS("PACS", instances=known_study()) as running:
        yield running


def test_6_defaults_of_the_class() -> None:
    """They are readable under the guide's names."""
    transfer = DicomPacsTransfer()
    told = (transfer.pacs_ip, transfer.pacs_port, transfer.ae_title, transfer.pacs_ae_title, transfer.timeout)
    assert told == ("127.0.0.1", 11112, "PYNETDICOM", "PACS", 30)


def test_6_changed_values_are_used(terminal: Terminal, pacs: TestPACS) -> None:
    """An attribute may be changed between calls."""
    program = f"""
from dicom_pacs_transfer import DicomPacsTransfer
transfer = DicomPacsTransfer()
transfer.pacs_port, transfer.ae_title, transfer.timeout = {pacs.port}, 'CHANGED', 5
assert len(transfer.query_pacs({{'PatientID': 'P12345'}})) == 1
"""
    _python(terminal, program)
    assert pacs.calling_aets == ["CHANGED"]


def test_7_log_of_a_program(terminal: Terminal, pacs: TestPACS) -> None:
    """The guide's `basicConfig` shows what the class does."""
    write(known_study()[0], terminal.directory / "dicom_files/image1.dcm")
    program = f"""
import logging
logging.basicConfig(
    level=logging.DEBUG,  # 修改日志级别为DEBUG
    format='%(asctime)s - %(levelname)s - %(message)s',
    handlers=[
        logging.FileHandler("dicom_transfer.log"),
        logging.StreamHandler()
    ]
)
from dicom_pacs_transfer import DicomPacsTransfer
DicomPacsTransfer(pacs_port={pacs.port}).send_dicom_file('dicom_files/image1.dcm')
"""
    said = _python(terminal, program)
    records = (terminal.directory / "dicom_transfer.log").read_text("utf-8").splitlines()
    assert [record for record in records if "send-file to PACS" in record and " - INFO - " in record]
    assert records[-1] in said


@pytest.mark.thorough
def test_9_from_python_with_nothing_configured(tmp_path: Path, pacs: TestPACS) -> None:
    """The guide's program runs as it stands, without a time-out and without any server."""
    desk = Terminal(tmp_path, settings=(("PACS_TASKS_IDLE_TIMEOUT", "0"),))
    write(known_study()[1], tmp_path / "path/to/dicom/file.dcm")
    program = f"""
from dicom_pacs_transfer import DicomPacsTransfer

# 创建传输实例
transfer = DicomPacsTransfer(
    pacs_ip='127.0.0.1',
    pacs_port={pacs.port},
    ae_title='MY_APP',
    pacs_ae_title='PACS'
)

# 发送文件
success = transfer.send_dicom_file('path/to/dicom/file.dcm')

# 查询DICOM文件
results = transfer.query_pacs({{
    'QueryRetrieveLevel': 'STUDY',
    'PatientID': 'P12345'
}})

# 检索DICOM文件
result = transfer.retrieve_study('1.2.3.4.5.6.7.8.9.10', 'output/directory')
assert success is True
assert [each.StudyInstanceUID for each in results] == ['1.2.3.4.5.6.7.8.9.10']
assert result
"""
    try:
        _python(desk, program)
    finally:
        embedded.stop(Settings(data_dir=desk.data_dir))
    assert pacs.stores == [f"{STUDY_UID}.1.2"]
    assert set(pacs.calling_aets) == {"MY_APP"}
    assert len(list(tmp_path.glob("output/directory/**/*.dcm"))) == len(pacs.instances)


def _python(desk: Terminal, program: str) -> str:
    """What a program prints that ends with 0, in the directory of ``desk``."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=desk.directory,
        env=desk.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
