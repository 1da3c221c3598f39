"""Each way to fail has its exit code and one clear sentence (no command here may show a traceback)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, peers
from tests.support.command import Result, Terminal
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Orthanc]:
    """An Orthanc that stays empty, since it refuses everything here."""
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def _error(result: Result, code: int) -> str:
    """The one sentence on stderr that says what is wrong."""
    assert result.code == code, str(result)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, str(result)
    return lines[0]


def _commands(directory: Path) -> dict[str, list[object]]:
    file = dicom_files.write_series(directory / "series", 2)[0]
    return {
        "echo": ["echo"],
        "send-file": ["send-file", "--file", file],
        "send-dir": ["send-dir", "--dir", file.parent],
        "query": ["query", "--patient-id", "P12345"],
        "retrieve": ["retrieve", "--study-uid", "1.2.3", "--output-dir", directory / "out"],
    }


@pytest.mark.parametrize("command", ["echo", "send-file", "send-dir", "query", "retrieve"])
def test_that_an_unreachable_port_is_4(terminal: Terminal, tmp_path: Path, command: str) -> None:
    """Nothing listens there: 4, and the address is named."""
    port = free_port()
    error = _error(terminal.run(*_commands(tmp_path)[command], "--ip", "127.0.0.1", "--port", port), 4)
    assert f"127.0.0.1:{port}" in error


@pytest.mark.orthanc
@pytest.mark.parametrize("command", ["echo", "send-file", "send-dir", "query", "retrieve"])
def test_that_a_wrong_ae_title_is_4(terminal: Terminal, orthanc: peers.Orthanc, tmp_path: Path, command: str) -> None:
    """Orthanc does not know this called AE title: 4, and the message says to check the title."""
    address = ["--ip", "127.0.0.1", "--port", str(orthanc.port), "--pacs-ae-title", "WRONG"]
    error = _error(terminal.run(*_commands(tmp_path)[command], *address), 4)
    assert "AE title" in error
    assert "WRONG" in error
    assert orthanc.count() == 0


@pytest.mark.dcmtk
def test_that_dcmqrscp_refuses_a_wrong_ae_title(terminal: Terminal, dcmqrscp: peers.Directory) -> None:
    """DCMTK refuses a wrong called AE title too: 4."""
    address = ["--ip", "127.0.0.1", "--port", str(dcmqrscp.port), "--pacs-ae-title", "WRONG"]
    assert "AE title" in _error(terminal.run("echo", *address), 4)


def test_that_a_refused_calling_ae_title_is_4(terminal: Terminal, pacs: TestPACS) -> None:
    """The PACS does not know us: 4, and the message names our AE title."""
    pacs.faults = Faults(calling_aets=["SOMEBODY"])
    address = ["--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title, "--ae-title", "STRANGER"]
    assert "STRANGER" in _error(terminal.run("echo", *address), 4)


def test_that_a_missing_directory_is_2(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """No such directory: 2, its path is named, and nobody is called."""
    missing = tmp_path / "missing"
    error = _error(terminal.run("send-dir", "--dir", missing, "--port", pacs.port), 2)
    assert str(missing) in error
    assert pacs.calling_aets == []


def test_that_a_text_file_named_dcm_is_2(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """A text file is no DICOM file whatever its name: 2, and nothing is stored."""
    path = dicom_files.write_text(tmp_path / "letter.dcm")
    result = terminal.run("send-file", "--file", path, "--port", pacs.port)
    assert result.code == 2, str(result)
    assert "DICOM" in result.stdout + result.stderr
    assert str(path) in result.stdout + result.stderr
    assert pacs.stores == []


def test_that_a_directory_without_dicom_is_2(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """A directory without any instance: 2."""
    (tmp_path / "letters").mkdir()
    dicom_files.write_text(tmp_path / "letters" / "a.dcm")
    result = terminal.run("send-dir", "--dir", tmp_path / "letters", "--port", pacs.port)
    assert result.code == 2, str(result)
    assert pacs.stores == []


@pytest.mark.orthanc
@pytest.mark.parametrize("method", ["auto", "get"])
def test_that_an_unknown_study_is_1(terminal: Terminal, orthanc: peers.Orthanc, tmp_path: Path, method: str) -> None:
    """Orthanc lists no instance of it: 1, and the output directory holds no file."""
    command = ["retrieve", "--study-uid", "1.2.3.4", "--output-dir", tmp_path / "out", "--method", method]
    error = _error(terminal.run(*command, *orthanc.options), 1)
    assert "Study Instance UID" in error
    assert [path for path in (tmp_path / "out").rglob("*.dcm") if path.is_file()] == []


def test_that_a_refused_sop_class_is_1(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """The PACS takes us but not this SOP class: the file failed, which is 1, and the class is named."""
    ds = dicom_files.instance(sop_class_uid=dicom_files.PRIVATE_SOP_CLASS)
    path = dicom_files.write(ds, tmp_path / "private" / "instance")
    pacs.faults = Faults(refused_sop_classes=[dicom_files.PRIVATE_SOP_CLASS])
    result = terminal.run("send-dir", "--dir", path.parent, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title)
    assert dicom_files.PRIVATE_SOP_CLASS in result.stdout + result.stderr
    assert result.code == 1, str(result)


def test_that_an_unknown_job_is_7(terminal: Terminal) -> None:
    """No job has this id: 7, for each command that takes one."""
    for command in ("status", "wait", "cancel", "retry"):
        assert "no-such-job" in _error(terminal.run(command, "no-such-job"), 7)


def test_that_wrong_usage_is_2(terminal: Terminal) -> None:
    """What click refuses is 2 as well."""
    assert terminal.run("query", "--level", "HOUSE").code == 2
    assert terminal.run("send-dir").code == 2
    assert terminal.run("echo", "--port", "99999").code == 2


def test_that_a_broker_that_does_not_answer_is_told_within_5_seconds(tmp_path: Path, redis_url: str) -> None:
    """An unreachable Redis is one sentence within 5 s of the start of a command, whatever that takes here."""
    start = Terminal(tmp_path, redis_url).run("jobs").seconds
    result = Terminal(tmp_path, f"redis://127.0.0.1:{free_port()}/0").run("echo")
    assert result.code != 0
    assert result.seconds - start < 5, str(result)
    assert "Redis" in result.stderr, str(result)
