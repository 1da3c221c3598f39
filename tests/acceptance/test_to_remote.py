"""Straight from one PACS to another, with real ones at both ends: what was sent is what the destination keeps."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.testing import TestPACS
from tests.support import peers
from tests.support.command import Terminal
from tests.support.dicom_files import data_set, study_uid, write_series
from tests.support.ports import free_port

COUNT = 12


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A study of one series: dcmqrscp loses files that come on two associations at once."""
    return write_series(tmp_path / "files", COUNT)


@contextmanager
def _orthanc_with(files: list[Path], directory: Path, destinations: peers.Destinations) -> Iterator[peers.Peer]:
    with peers.orthanc(directory, destinations=destinations) as running:
        for path in files:
            running.add(path)
        yield running


@contextmanager
def _dcmqrscp_with(files: list[Path], directory: Path, destinations: peers.Destinations) -> Iterator[peers.Peer]:
    with peers.dcmqrscp(directory, destinations=destinations) as running:
        send = ["dcmsend", "-aec", running.ae_title, "127.0.0.1", str(running.port), *map(str, files)]
        subprocess.run(send, env=peers.dcmtk_environment(), timeout=60, check=True)
        yield running


def _forwarded(terminal: Terminal, source: peers.Peer, to: peers.Peer) -> Mapping[str, int]:
    """Have the study sent, as people do it; the counters of the job."""
    (terminal.directory / "pacs-tasks.toml").write_text(
        f'[remotes.second]\nae_title = "{to.ae_title}"\nhost = "127.0.0.1"\nport = {to.port}\n'
    )
    result = terminal.run("retrieve", "--study-uid", study_uid(), "--to-remote", "second", "--json", *source.options)
    assert result.code == 0, str(result)
    counters: Mapping[str, int] = result.json["counters"]
    return counters


@pytest.mark.orthanc
@pytest.mark.dcmtk
def test_orthanc_sends_a_study_to_dcmqrscp(terminal: Terminal, files: list[Path], tmp_path: Path) -> None:
    """Every instance is in dcmqrscp's directory; asked again, nothing is sent."""
    with (
        peers.dcmqrscp(tmp_path) as to,
        _orthanc_with(files, tmp_path, {to.ae_title: ("127.0.0.1", to.port)}) as source,
    ):
        assert _forwarded(terminal, source, to)["success"] == COUNT
        kept = {read_instance(str(path)).sop_instance_uid: data_set(path) for path in to.files()}
        assert kept.keys() == {read_instance(str(path)).sop_instance_uid for path in files}
        assert _forwarded(terminal, source, to)["present"] == COUNT
        assert len(to.files()) == COUNT


@pytest.mark.orthanc
@pytest.mark.dcmtk
def test_dcmqrscp_sends_a_study_to_orthanc(terminal: Terminal, files: list[Path], tmp_path: Path) -> None:
    """What Orthanc had before is not sent again."""
    with peers.orthanc(tmp_path) as to:
        for path in files[:5]:
            to.add(path)
        with _dcmqrscp_with(files, tmp_path, {to.ae_title: ("127.0.0.1", to.port)}) as source:
            counters = _forwarded(terminal, source, to)
        assert (counters["present"], counters["success"]) == (5, COUNT - 5)
        assert to.instances().keys() == {read_instance(str(path)).sop_instance_uid for path in files}


@pytest.mark.orthanc
def test_orthanc_that_does_not_know_the_destination_says_so(
    terminal: Terminal, files: list[Path], tmp_path: Path
) -> None:
    """With what its administrator is to add; nothing is claimed."""
    with _orthanc_with(files, tmp_path, {}) as source, TestPACS(ae_title="STRANGER") as to:
        (terminal.directory / "pacs-tasks.toml").write_text(
            f'[remotes.second]\nae_title = "STRANGER"\nhost = "127.0.0.1"\nport = {to.port}\n'
        )
        command = ["retrieve", "--study-uid", study_uid(), "--to-remote", "second", "--json", *source.options]
        result = terminal.run(*command)
        assert (result.code, result.json["counters"]["missing"]) == (1, COUNT), str(result)
        assert all("STRANGER" in each["reason"] for each in result.json["problems"]), result.json["problems"][0]
        assert not to.instances


@pytest.mark.orthanc
def test_orthanc_whose_destination_is_gone_claims_nothing(
    terminal: Terminal, files: list[Path], tmp_path: Path
) -> None:
    """It cannot reach it, nor can we."""
    port = free_port()
    with _orthanc_with(files, tmp_path, {"GONE": ("127.0.0.1", port)}) as source:
        (terminal.directory / "pacs-tasks.toml").write_text(
            f'[remotes.second]\nae_title = "GONE"\nhost = "127.0.0.1"\nport = {port}\n'
        )
        command = ["retrieve", "--study-uid", study_uid(), "--to-remote", "second", "--json", *source.options]
        result = terminal.run(*command)
        assert (result.code, result.json["counters"]["missing"]) == (1, COUNT), str(result)
        assert all("sent nothing" in each["reason"] for each in result.json["problems"])
