"""Verifying against PACS that others wrote, as a person does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.command import Terminal
from tests.support.dicom_files import write_series


def _sent(terminal: Terminal, peer: peers.Peer, directory: Path) -> str:
    """Send a directory, over one association at a time: dcmqrscp loses instances otherwise."""
    result = terminal.run("send-dir", "--dir", directory, "--files-per-task", 1000, "--json", *peer.options)
    assert result.code == 0, str(result)
    return str(result.json["job_id"])


@pytest.mark.orthanc
def test_orthanc_is_asked_and_what_it_deleted_is_missing(
    terminal: Terminal, orthanc: peers.Orthanc, tmp_path: Path
) -> None:
    """Three series in as many queries; then one instance is deleted, and it is named."""
    for series in (1, 2, 3):
        write_series(tmp_path / "files" / str(series), 20, series=series)
    job_id = _sent(terminal, orthanc, tmp_path / "files")
    result = terminal.run("verify", job_id, "--json")
    assert (result.code, result.json["held"], result.json["queries"]) == (0, 60, 3)
    uid, lost = sorted(orthanc.instances().items())[30]
    orthanc.delete(lost)
    result = terminal.run("verify", job_id, "--json")
    assert (result.code, result.json["held"], result.json["missing"]) == (3, 59, 1)
    assert [each["sop_instance_uid"] for each in result.json["problems"]] == [uid]
    lines = [json.loads(line) for line in terminal.run("report", job_id).stdout.splitlines()]
    (path,) = {line["path"] for line in lines if line["sop_instance_uid"] == uid}
    assert result.json["problems"][0]["subject"] == path


@pytest.mark.dcmtk
def test_dcmqrscp_is_asked_and_what_it_never_got_is_missing(
    terminal: Terminal, dcmqrscp: peers.Directory, storescp: peers.Directory, tmp_path: Path
) -> None:
    """It answers only with study and series; a part of what another peer was sent is missing there."""
    write_series(tmp_path / "all" / "some", 12)
    assert terminal.run("verify", _sent(terminal, dcmqrscp, tmp_path / "all"), "--json").json["held"] == 12
    write_series(tmp_path / "all" / "more", 5, series=2)
    elsewhere = _sent(terminal, storescp, tmp_path / "all")
    result = terminal.run("verify", elsewhere, "--json", *dcmqrscp.options)
    assert (result.code, result.json["held"], result.json["missing"], result.json["unknown"]) == (3, 12, 5, 0)
    result = terminal.run("verify", elsewhere, "--json")
    assert (result.code, result.json["unknown"]) == (1, 17)


@pytest.mark.dcmtk
def test_a_peer_without_storage_commitment_says_so(
    terminal: Terminal, storescp: peers.Directory, tmp_path: Path
) -> None:
    """Exit code 4, as for every service that a peer does not offer, and the way that is left."""
    write_series(tmp_path / "files", 2)
    result = terminal.run("verify", _sent(terminal, storescp, tmp_path / "files"), "--commit")
    assert result.code == 4
    assert "Verify without it" in result.stderr
