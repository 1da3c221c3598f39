"""Our Storage SCP with many simultaneous callers, valid and invalid."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.scp import storage_scp
from pacs_tasks.dimse.scp.callers import Caller, Callers
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.outcome import Category, InstanceCategory
from tests.support import attacks, dicom_files
from tests.support.processes import environment
from tests.support.sending import store

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[StorageSCP]:
    """Run a Storage SCP with its files in ``received``."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received") as running:
        yield running


def test_callers_that_never_ask_do_not_pile_up(
    scp: StorageSCP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two hundred silent connections use no thread, and associations begin and continue meanwhile."""
    [path] = dicom_files.write_series(tmp_path / "files", 1)
    instance = part10.read_instance(str(path))
    [(proposed, _)] = contexts.contexts_for([instance])
    with contextlib.ExitStack() as stack:
        assoc = stack.enter_context(
            Association.open(LOCAL, RemoteAE(ae_title="RECEIVER", port=scp.port), proposed, PATIENT)
        )
        before = threading.active_count()
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", scp.port), timeout=10))
        assert store(assoc, instance).category is InstanceCategory.SUCCESS
        assert echo(LOCAL, RemoteAE(ae_title="RECEIVER", port=scp.port), PATIENT).category is Category.SUCCESS
        assert threading.active_count() <= before + 1, "the thread of the echo may still end"
    assert echo(LOCAL, RemoteAE(ae_title="RECEIVER", port=scp.port), PATIENT).category is Category.SUCCESS
    assert "fault" not in caplog.text


def test_an_idle_stranger_gives_way_where_strangers_crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before: a PACS may keep its association open between studies. The limit is half a minute; here it is less."""
    monkeypatch.setattr(storage_scp, "IDLE_WHEN_CROWDED", 0.3)
    known = Callers([Caller("KNOWN", (ipaddress.ip_network("127.0.0.1"),))])
    with (
        StorageSCP("127.0.0.1", 0, tmp_path, max_associations=4, max_per_caller=4, callers=known) as scp,
        contextlib.ExitStack() as stack,
    ):

        def associated(title: str) -> socket.socket:
            sock = stack.enter_context(attacks.connected(scp.port, "127.0.0.1", attacks.request(title)))
            assert attacks.answered(sock) is None
            return sock

        named, first = associated("KNOWN"), associated("STRANGER")
        first.settimeout(1.5)
        with pytest.raises(TimeoutError):
            first.recv(1)
        associated("STRANGER")
        first.settimeout(10)
        assert first.recv(1) == b"\7", "an A-ABORT"
        named.settimeout(1.5)
        with pytest.raises(TimeoutError):
            named.recv(1)


@pytest.mark.dcmtk
def test_fifty_senders_at_once(scp: StorageSCP, tmp_path: Path) -> None:
    """Fifty DCMTK senders, ten of them with the same files, deliver everything unchanged."""
    series = [dicom_files.write_series(tmp_path / str(number), 5, series=number) for number in range(1, 42)]
    command_line = ["-aec", "RECEIVER", "+sd", "127.0.0.1", str(scp.port)]
    senders = [
        subprocess.Popen(
            [("dcmsend", "storescu")[number % 2], *command_line, str(tmp_path / str(max(number - 9, 0) or 1))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(TCP_NODELAY="1"),
        )
        for number in range(1, 51)
    ]
    assert [sender.wait(60) for sender in senders] == [0] * 50
    held = {path.stem: dicom_files.data_set(path) for path in scp.directory.rglob("*.dcm")}
    sent = [path for files in series for path in files]
    assert held == {part10.read_instance(str(path)).sop_instance_uid: dicom_files.data_set(path) for path in sent}
    assert not list(scp.directory.glob(".*"))
