"""What is sent arrives to the byte, and what is retrieved is kept to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks.testing import TestPACS
from tests.support import dicom_files, peers, workers
from tests.support.command import Terminal
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer


def _linked(paths: tuple[Path, ...], directory: Path) -> Path:
    """A directory with these files under plain names."""
    directory.mkdir()
    for number, path in enumerate(paths):
        (directory / f"{number:04d}").write_bytes(path.read_bytes())
    return directory


@pytest.fixture(scope="module")
def one_at_a_time(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A command line whose worker opens one association at a time: dcmqrscp loses instances with more."""
    url, directory = redis_process.fresh_url(), tmp_path_factory.mktemp("one-at-a-time")
    with workers.worker(url, directory, concurrency=1):
        yield Terminal(directory, url)


def _even(data_set: bytes) -> bytes:
    """A deflated data set of odd length goes out with one byte of padding (PS3.5 section A.5)."""
    return data_set + b"\0" * (len(data_set) % 2)


@pytest.mark.dcmtk
def test_that_storescp_gets_every_byte(terminal: Terminal, storescp: peers.Directory, tmp_path: Path) -> None:
    """storescp, told to write what comes as it comes, holds the data sets of the files sent."""
    paths = dicom_files.write_series(tmp_path / "a", 5) + dicom_files.write_series(tmp_path / "b", 5, study=2, rows=300)
    result = terminal.run("send-dir", "--dir", tmp_path / "a", *storescp.options)
    assert result.code == 0, str(result)
    result = terminal.run("send-dir", "--dir", tmp_path / "b", *storescp.options)
    assert result.code == 0, str(result)
    assert sorted(map(dicom_files.data_set, storescp.files())) == sorted(map(dicom_files.data_set, paths))


def test_that_every_shipped_instance_arrives_and_returns(terminal: Terminal, pacs: TestPACS, tmp_path: Path) -> None:
    """Each of pydicom's instances, whatever its SOP class and syntax, survives send and C-GET to the byte."""
    paths = dicom_files.sendable()
    options = ["--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title]
    result = terminal.run("send-dir", "--dir", _linked(paths, tmp_path / "source"), "--json", *options)
    errors = {"DamagedFileError", "UnreadableInputError"}
    unreadable = {each["subject"] for each in result.json["problems"] if each["error"] in errors}
    assert len(result.json["problems"]) == len(unreadable) <= 3, str(result)
    held = {each.data_set for each in pacs.instances.values()}
    assert len(held) == len(paths) - len(unreadable)
    assert held <= {_even(dicom_files.data_set(path)) for path in paths}
    studies = {str(each.header.get("StudyInstanceUID", "")) for each in pacs.instances.values()} - {""}
    (batch := tmp_path / "studies.csv").write_text("\n".join(["StudyInstanceUID", *studies]))
    back = terminal.run("retrieve", "--batch", batch, "--output-dir", tmp_path / "back", "--method", "get", *options)
    assert back.code == 0, str(back)
    returned = {dicom_files.data_set(path) for path in (tmp_path / "back").rglob("*.dcm")}
    assert returned <= held
    assert len(returned) >= 100


@pytest.mark.dcmtk
def test_that_dcmqrscp_keeps_and_returns(one_at_a_time: Terminal, dcmqrscp: peers.Directory, tmp_path: Path) -> None:
    """A study goes into dcmqrscp, is found at every level, and comes back by C-GET."""
    terminal = one_at_a_time
    paths = dicom_files.write_series(tmp_path / "source", 6, charset="ISO_IR 192")
    assert terminal.run("echo", *dcmqrscp.options).code == 0
    result = terminal.run("send-dir", "--dir", tmp_path / "source", *dcmqrscp.options)
    assert result.code == 0, str(result)
    for level, count in {"PATIENT": 1, "STUDY": 1, "SERIES": 1, "IMAGE": 6}.items():
        keys = [] if level in {"PATIENT", "STUDY"} else ["--study-uid", dicom_files.study_uid()]
        keys += ["-k", f"SeriesInstanceUID={dicom_files.study_uid()}.1"] if level == "IMAGE" else []
        patient = ["--patient-id", "P12345"]
        found = terminal.run("query", "--level", level, *patient, *keys, "--json", *dcmqrscp.options)
        assert found.code == 0, str(found)
        assert len(found.json["matches"]) == count, str(found)
    command = ["retrieve", "--study-uid", dicom_files.study_uid(), "--output-dir", tmp_path / "back"]
    back = terminal.run(*command, "--method", "get", *dcmqrscp.options)
    assert back.code == 0, str(back)
    came = sorted(dicom_files.data_set(path) for path in (tmp_path / "back").rglob("*.dcm"))
    assert came == sorted(map(dicom_files.data_set, paths))


@pytest.mark.dcmtk
def test_that_dcmqrscp_moves_to_the_receiver(one_at_a_time: Terminal, tmp_path: Path) -> None:
    """With a receiver that dcmqrscp knows, retrieve takes C-MOVE by itself and every byte is there."""
    terminal, port = one_at_a_time, free_port()
    assert terminal.redis_url is not None
    known = {"PACS_TASKS": ("127.0.0.1", port)}
    paths = dicom_files.write_series(tmp_path / "source", 6)
    with (
        peers.dcmqrscp(tmp_path, "MOVEONLY", known, "--disable-get") as archive,
        workers.receiver(terminal.redis_url, terminal.directory, port),
    ):
        assert terminal.run("send-dir", "--dir", tmp_path / "source", *archive.options).code == 0
        command = ["retrieve", "--study-uid", dicom_files.study_uid(), "--output-dir", tmp_path / "back"]
        result = terminal.run(*command, *archive.options)
        assert result.code == 0, str(result)
        said = archive.process.said()
    came = sorted(dicom_files.data_set(path) for path in (tmp_path / "back").rglob("*.dcm"))
    assert came == sorted(map(dicom_files.data_set, paths)), said
