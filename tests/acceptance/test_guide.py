"""The commands of the users' guide of the first ``dicom_pacs_transfer.py`` work as written there, by section.

Its addresses, ports and Windows paths are replaced by those of the test; everything else is as people typed it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from pacs_tasks import embedded
from pacs_tasks.settings import load
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support.command import Result, Terminal
from tests.support.dicom_files import write, write_series, write_text
from tests.support.known_study import STUDY_UID, known_study
from tests.support.ports import free_port

NO_FAULT_OF_TITLES = Faults(require_called_aet=True)


@pytest.fixture
def pacs() -> Iterator[TestPACS]:
    """The guide's PACS under its default AE title; it answers to no other."""
    with TestPACS("PACS", instances=known_study(), faults=NO_FAULT_OF_TITLES) as running:
        yield running


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[str, str], ...]]:
    """Settings for the private server that Windows has, which is ended after the last test."""
    directory = tmp_path_factory.mktemp("fakeredis")
    yield (("PACS_TASKS_EMBEDDED", "fakeredis"), ("PACS_TASKS_DATA_DIR", str(directory)))
    embedded.stop(load(data_dir=directory))


@pytest.fixture(params=["fleet", "windows"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Terminal:
    """Where somebody works: with the guide's directory and file, and a fleet or what Windows has in its place."""
    if request.param == "fleet":
        terminal: Terminal = request.getfixturevalue("terminal")
    else:
        terminal = Terminal(tmp_path, settings=request.getfixturevalue("windows"))
    files = terminal.directory / "dicom_files"
    write_series(files, 4)
    write(known_study()[0], files / "image1.dcm")
    return terminal


def typed(desk: Terminal, pacs: TestPACS, line: str) -> Result:
    """Run a command line of the guide."""
    line = line.replace(r"D:\dicom_files\image1.dcm", "dicom_files/image1.dcm")
    line = line.replace(r"D:\dicom_files", "dicom_files").replace(r"D:\downloaded_dicoms", "downloaded_dicoms")
    line = line.replace("192.168.1.100", "127.0.0.1").replace("11112", str(pacs.port))
    program, script, *arguments = shlex.split(line)
    assert (program, script) == ("python", "dicom_pacs_transfer.py")
    return desk.run(*arguments)


# --- section 4: commands and options


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("send-file", ["--file"]),
        ("send-dir", ["--dir"]),
        ("query", ["--patient-id", "--patient-name", "--study-date"]),
        ("retrieve", ["--study-uid", "--output-dir"]),
    ],
)
def test_4_commands_and_options(desk: Terminal, command: str, options: list[str]) -> None:
    """Each command has its own options and the global ones with the defaults that the guide names."""
    result = desk.run(command, "--help")
    assert result.code == 0, str(result)
    said = " ".join(result.stdout.split())
    for option in options:
        assert re.search(rf"{option} [A-Z]", said), option
    for option, default in {
        "--ip": "127.0.0.1",
        "--port": "11112",
        "--ae-title": "PYNETDICOM",
        "--pacs-ae-title": "PACS",
    }.items():
        assert re.search(rf"{option} [^\]]*default: {re.escape(default)}\b", said), option


@pytest.mark.parametrize(
    ("command", "missing"),
    [("send-file", "--file"), ("send-dir", "--dir"), ("retrieve", "--study-uid"), ("retrieve", "--output-dir")],
)
def test_4_required_options(desk: Terminal, command: str, missing: str) -> None:
    """Without a required option nothing is done, and the message names it."""
    other = {"--study-uid": ["--output-dir", "x"], "--output-dir": ["--study-uid", "1.2.3"]}.get(missing, [])
    result = desk.run(command, *other)
    assert result.code == 2
    assert missing in result.stderr


def test_4_ae_titles_by_default(desk: Terminal, pacs: TestPACS) -> None:
    """Without AE titles PYNETDICOM calls PACS."""
    result = typed(desk, pacs, "python dicom_pacs_transfer.py query --ip 192.168.1.100 --port 11112")
    assert result.code == 0, str(result)
    assert set(pacs.calling_aets) == {"PYNETDICOM"}


def test_4_our_ae_title(desk: Terminal, pacs: TestPACS) -> None:
    """`--ae-title` is who calls."""
    line = "python dicom_pacs_transfer.py query --patient-name 张* --ae-title MY_APP --ip 192.168.1.100 --port 11112"
    result = typed(desk, pacs, line)
    assert result.code == 0, str(result)
    assert pacs.calling_aets[-1] == "MY_APP"


# --- section 5: examples


def test_5_1_send_one_file(desk: Terminal, pacs: TestPACS) -> None:
    """The PACS holds it afterwards."""
    line = r'python dicom_pacs_transfer.py send-file --file "D:\dicom_files\image1.dcm" --ip 192.168.1.100 --port 11112'
    result = typed(desk, pacs, line)
    assert result.code == 0, str(result)
    assert pacs.stores == [f"{STUDY_UID}.1.1"]


def test_5_2_send_a_directory(desk: Terminal, pacs: TestPACS) -> None:
    """All of it, to a PACS of another AE title."""
    line = (
        r'python dicom_pacs_transfer.py send-dir --dir "D:\dicom_files" --ip 192.168.1.100 --port 11112 '
        "--pacs-ae-title MY_PACS"
    )
    assert typed(desk, pacs, line).code == 4, "this PACS has another name"
    with TestPACS("MY_PACS", faults=NO_FAULT_OF_TITLES) as named:
        result = typed(desk, named, line)
        assert result.code == 0, str(result)
        assert len(named.instances) == 5


@pytest.mark.parametrize("criteria", ['--patient-id "P12345"', '--study-date "20230101-20231231"'])
def test_5_3_and_5_4_query(desk: Terminal, pacs: TestPACS, criteria: str) -> None:
    """By patient and by range of dates; the study is shown with its UID."""
    line = f"python dicom_pacs_transfer.py query {criteria} --ip 192.168.1.100 --port 11112"
    result = typed(desk, pacs, line)
    assert result.code == 0, str(result)
    assert re.search(rf"P12345 .*张\^三丰 .*{re.escape(STUDY_UID)}", result.stdout), str(result)


def test_5_5_retrieve_a_study(desk: Terminal, pacs: TestPACS) -> None:
    """Its instances lie below the output directory."""
    line = (
        f'python dicom_pacs_transfer.py retrieve --study-uid "{STUDY_UID}" '
        r'--output-dir "D:\downloaded_dicoms" --ip 192.168.1.100 --port 11112'
    )
    result = typed(desk, pacs, line)
    assert result.code == 0, str(result)
    arrived = {dcmread(path).SOPInstanceUID for path in desk.directory.glob("downloaded_dicoms/**/*.dcm")}
    assert arrived == set(pacs.instances)


# --- section 7: logs


RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (?P<level>[A-Z]+) - \S.*")


def test_7_log_file_and_console(desk: Terminal, pacs: TestPACS) -> None:
    """Both have time, level and message of the same records; the file is appended to; no patient is in it."""
    line = 'python dicom_pacs_transfer.py query --patient-id "P12345" --ip 192.168.1.100 --port 11112'
    result = typed(desk, pacs, line)
    log = desk.directory / "dicom_transfer.log"
    records = log.read_text("utf-8").splitlines()
    assert records
    assert all(RECORD.fullmatch(record) for record in records)
    assert {match["level"] for record in records if (match := RECORD.fullmatch(record))} == {"INFO"}
    assert records == [line for line in result.stderr.splitlines() if RECORD.fullmatch(line)]
    typed(desk, pacs, f"{line} --log-level DEBUG")
    assert log.read_text("utf-8").splitlines()[: len(records)] == records
    assert not re.search("P12345|张", log.read_text("utf-8"))


# --- section 8: problems


def test_8_1_connection_fails(desk: Terminal) -> None:
    """The message says to check address, port, that the PACS runs, and that it lets us in."""
    result = desk.run("query", "--ip", "127.0.0.1", "--port", free_port())
    assert result.code == 4
    for word in ("Cannot connect to PACS at 127.0.0.1", "address and port", "running", "let this machine connect"):
        assert word in result.stderr, str(result)


def test_8_2_sending_fails_for_a_file_that_is_no_dicom(desk: Terminal, pacs: TestPACS) -> None:
    """The message says so."""
    write_text(desk.directory / "text.dcm")
    result = typed(desk, pacs, "python dicom_pacs_transfer.py send-file --file text.dcm --port 11112")
    assert result.code == 2
    assert "not a DICOM file" in result.stderr
    assert "valid DICOM" in result.stderr


def test_8_2_sending_fails_at_the_pacs(desk: Terminal, pacs: TestPACS) -> None:
    """The message says to check space and permission there."""
    pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xC000})
    result = typed(desk, pacs, r'python dicom_pacs_transfer.py send-dir --dir "D:\dicom_files" --port 11112')
    assert result.code == 1
    assert "C000" in result.stdout
    for word in ("valid DICOM", "space left", "lets us store"):
        assert word in result.stderr, str(result)


def test_8_3_query_finds_nothing(desk: Terminal, pacs: TestPACS) -> None:
    """No failure, and the advice is to check the criteria and to try wider ones."""
    result = typed(desk, pacs, "python dicom_pacs_transfer.py query --patient-id NOBODY --port 11112")
    assert result.code == 0
    assert "Check the query" in result.stderr
    assert "wider criteria" in result.stderr


def test_8_4_retrieving_an_unknown_study(desk: Terminal, pacs: TestPACS) -> None:
    """The message says to check the UID, the directory's permissions and its space."""
    line = "python dicom_pacs_transfer.py retrieve --study-uid 1.2.3 --output-dir out --port 11112"
    result = typed(desk, pacs, line)
    assert result.code == 1
    for word in ("Check the Study Instance UID", "is writable", "space left"):
        assert word in result.stderr, str(result)


def test_8_4_retrieving_to_a_place_that_cannot_be_written(desk: Terminal, pacs: TestPACS) -> None:
    """The message names it; nothing is asked of the PACS."""
    (desk.directory / "out").write_text("in the way")
    result = typed(
        desk, pacs, f"python dicom_pacs_transfer.py retrieve --study-uid {STUDY_UID} --output-dir out --port 11112"
    )
    assert result.code == 2
    assert str(desk.directory / "out") in result.stderr
