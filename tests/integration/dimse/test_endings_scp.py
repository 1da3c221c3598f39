"""A caller ends the association at each step in each way: our receiver keeps complete instances and continues."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.outcome import Category
from tests.support import dicom_files, endings, messages, peculiar
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
#: Ends are noticed long before this.
PATIENT = Timeouts.of(60)


def _instance(number: int) -> bytes:
    return peculiar.data_set(b"1.2.%d\0" % number, peculiar.element(0x7FE0_0010, b"OW", bytes(2000)))


def _kept(directory: Path) -> dict[str, bytes]:
    """Give all files."""
    return {path.name: dicom_files.data_set(path) for path in directory.rglob("*") if path.is_file()}


def _call() -> bytes:
    """Make an association request and two instances."""
    found = messages.association_request()
    for number in (1, 2):
        found += messages.message(messages.store_request(f"1.2.{number}", number))
        found += b"".join(map(messages.p_data, messages.fragments(_instance(number), 1_500, messages.DATA)))
    return found


CALL = _call()


def _caller_cuts() -> Iterator[tuple[int, endings.Ending]]:
    edges = endings.boundaries(CALL)
    yield from ((at, ending) for at in edges for ending in endings.ENDINGS)
    yield from ((at + part, ending) for at in edges[:-1] for part in (3, 9) for ending in endings.BREAKS)


def test_callers_that_end_at_each_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Complete instances are kept, others leave no file, and the receiver continues."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", PATIENT) as scp:
        for at, ending in _caller_cuts():
            with endings.at_once():
                with socket.create_connection(("127.0.0.1", scp.port), timeout=30) as sock:
                    sock.sendall(CALL[:at])
                    with suppress(ConnectionError):
                        # The receiver may hang up first.
                        ending(sock)
                # Connections are accepted in order, so it has begun with this one when it responds to the next.
                assert echo(LOCAL, RemoteAE(port=scp.port), PATIENT).category is Category.SUCCESS
                wait_until(lambda: not scp._serving, 10, f"{endings.name(ending)} at {at} to be noticed")
            kept, whole = _kept(scp.directory), endings.whole(CALL[:at])
            assert kept.items() <= whole.items(), (endings.name(ending), at)
            if ending not in {endings.reset, endings.close}:
                assert kept == whole, (endings.name(ending), at)
            for path in scp.directory.rglob("*.dcm"):
                path.unlink()
    assert "fault" not in caplog.text
