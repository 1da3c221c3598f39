"""Senders that fill the disk: instances and associations without end, and a reserve that stays free."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.testing import TestPACS
from tests.support import scripted, workers
from tests.support.cost import bounded
from tests.support.dicom_files import study_uid, write_series
from tests.support.ports import free_port
from tests.support.sending import store
from tests.support.waiting import wait_until

MIB = 1 << 20
OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def port() -> int:
    return free_port()


def _sent(port: int, files: list[Path]) -> list[InstanceOutcome]:
    instances = [read_instance(str(each)) for each in files]
    ((proposed, _),) = contexts_for(instances)
    remote = RemoteAE(ae_title="PACS_TASKS", port=port)
    with Association.open(LocalAE(), remote, proposed, Timeouts.of(20)) as assoc:
        return [store(assoc, each) for each in instances]


def _codes(outcomes: list[InstanceOutcome]) -> list[int]:
    return [each.status.code if each.status else 0 for each in outcomes]


def _without_end(port: int, most: int) -> int:
    """Send an instance without end; give how many bytes the receiver let pass, or ``most``."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        proposed = (acse.ProposedContext(1, CTImageStorage, (ExplicitVRLittleEndian,)),)
        sock.sendall(acse.encode_request(acse.AssociateRequest("PACS_TASKS", "ENDLESS", proposed)))
        assert scripted.receive_pdu(sock)[0] == 2
        elements: dict[int, int | str] = {
            command.AFFECTED_SOP_CLASS_UID: CTImageStorage,
            command.COMMAND_FIELD: command.C_STORE_RQ,
            command.MESSAGE_ID: 1,
            command.AFFECTED_SOP_INSTANCE_UID: "1.2.3",
        }
        sock.sendall(scripted.p_data(1, 3, command.encode(elements, data_set=True)))
        pdu, sent = scripted.p_data(1, 0, bytes(65_536)), 0
        with suppress(OSError):
            while sent < most:
                sock.sendall(pdu)
                sent += 65_536
        return sent


def _left(directory: Path) -> list[str]:
    return [each.name for each in directory.rglob("*.dcm")] + [each.name for each in directory.rglob("*.part")]


def test_an_instance_without_end_ends_its_association(
    redis_url: str, tmp_path: Path, port: int, record_property: Callable[[str, object], None]
) -> None:
    """It leaves no file; larger instances than the limit are refused, others received on the same association."""
    large, small = write_series(tmp_path / "a", 1, rows=800), write_series(tmp_path / "b", 1, series=2, rows=64)
    with workers.receiver(redis_url, tmp_path, port, PACS_TASKS_MAX_INSTANCE_BYTES=str(MIB)) as running:
        with bounded(running, 60, 100 * MIB, record_property):
            assert _without_end(port, 2 << 30) < 200 * MIB
        assert _codes(_sent(port, [*large, *small])) == [OUT_OF_RESOURCES, 0]
        assert len(_left(tmp_path / "data/received")) == 1
        wait_until(lambda: "sent an instance without end" in running.said(), 10, "the log to say so")
        assert "the instance is larger than this receiver accepts" in running.said()


def test_an_association_without_end_ends(
    redis_url: str, tmp_path: Path, port: int, record_property: Callable[[str, object], None]
) -> None:
    """The instance beyond its limit is refused, and the next one aborts it."""
    files = write_series(tmp_path / "a", 4, rows=400)
    with workers.receiver(redis_url, tmp_path, port, PACS_TASKS_RECEIVER_MAX_ASSOCIATION_BYTES=str(MIB)) as running:
        assert _codes(_sent(port, files[:2])) == [0, 0]
        assert _codes(_sent(port, files[:1])) == [0]
        with bounded(running, 60, 100 * MIB, record_property), pytest.raises(PeerUnavailableError):
            _sent(port, [*files, *files])
        said = "went on to send after its association had reached the limit of bytes"
        wait_until(lambda: said in running.said(), 10, "the log to say so")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Give a file system of 64 MiB and a reserve of 16 MiB for it, or a directory and all that is free there.

    Only root may mount one. Then the reserve alone stands for a full disk.
    """
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(directory)], check=False, capture_output=True
    )
    if mounted.returncode:
        yield directory, 1 << 60
        return
    yield directory, 16 * MIB
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_the_reserve_of_free_space_stays(
    redis_url: str,
    tmp_path: Path,
    port: int,
    small_disk: tuple[Path, int],
    record_property: Callable[[str, object], None],
) -> None:
    """An instance that does not fit is refused before it touches the reserve, and leaves nothing behind."""
    directory, reserve = small_disk
    large = write_series(tmp_path / "a", 1, rows=5_500)
    with workers.receiver(
        redis_url,
        tmp_path,
        port,
        PACS_TASKS_RECEIVER_DIR=str(directory),
        PACS_TASKS_KEEP_FREE_BYTES=str(reserve),
        PACS_TASKS_MAX_INSTANCE_BYTES=str(128 * MIB),
    ) as running:
        before = shutil.disk_usage(directory).free
        assert _codes(_sent(port, large)) == [OUT_OF_RESOURCES]
        with bounded(running, 60, 100 * MIB, record_property):
            assert _without_end(port, 1 << 30) < 400 * MIB
        assert _left(directory) == []
        if reserve < 1 << 60:
            assert shutil.disk_usage(directory).free >= before - MIB
            assert _codes(_sent(port, write_series(tmp_path / "b", 1, series=2))) == [0]
        assert "the disk of the receiver is almost full" in running.said()


def test_a_retrieve_by_c_get_keeps_the_reserve(redis_url: str, tmp_path: Path, small_disk: tuple[Path, int]) -> None:
    """Instances that do not fit fail with the reason, and leave nothing behind."""
    directory, reserve = small_disk
    held = write_series(tmp_path / "held", 1, rows=5_500)
    with (
        TestPACS(instances=held) as archive,
        workers.worker(redis_url, tmp_path, PACS_TASKS_KEEP_FREE_BYTES=str(reserve), PACS_TASKS_MAX_RETRIES="0"),
        PacsClient(redis_url) as client,
    ):
        job = client.enqueue(
            RetrieveRequest(
                remote=archive.remote,
                study_uid=study_uid(),
                output_dir=str(directory),
                method=RetrieveMethod.GET,
            )
        )
        job.wait(60)
        outcome = job.outcome()
        assert outcome.category is Category.FAILED, outcome
        assert "almost full" in str(outcome)
    assert _left(directory) == []
