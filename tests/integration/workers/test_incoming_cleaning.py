"""The receiver sets aside uncollected instances, removes unfinished files, and touches nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs_tasks.dimse.files.storage import IncomingFile
from pacs_tasks.dimse.scp.storage_scp import IDLE
from pacs_tasks.fleet.receivers import INCOMING, MARKER, UNSOLICITED
from tests.support import workers
from tests.support.callers import CT, EXPLICIT
from tests.support.dicom_files import UID_ROOT, data_set, instance, study_uid, write
from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.waiting import wait_until
from workers.receiver.directory import Cleanup

DAY = 86_400
#: The shortest time for which instances are kept, in seconds.
SHORT = 60


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """The directory of the receiver that is started below ``tmp_path``."""
    return tmp_path / "data/received"


def put(path: Path, age: float) -> Path:
    """A file whose last write was ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age,) * 2)
    return path


def left(directory: Path) -> set[Path]:
    """Every file except the marker, and every empty directory; a file may vanish meanwhile."""
    found = set()
    for root, directories, files in os.walk(directory):
        found |= {Path(root, name) for name in files if name != MARKER}
        found |= {Path(root)} if not directories and not files else set()
    return found


@contextmanager
def receiver(redis_url: str, directory: Path, keep: int = DAY) -> Iterator[Process]:
    with workers.receiver(redis_url, directory, free_port(), PACS_TASKS_KEEP_INCOMING=str(keep)) as running:
        yield running


def test_what_no_job_took_in_time_is_set_aside(redis_url: str, tmp_path: Path, received: Path) -> None:
    """Its sender has a success status for it. Younger instances and unsolicited ones stay."""
    names = ("1.2/1.3/1.dcm", "1.2/1.3/2.dcm", "1.2/1.4/3.dcm")
    gone = [put(received / INCOMING / name, DAY + 100) for name in names]
    (received / INCOMING / "1.9/1.10").mkdir(parents=True)
    kept = {
        *(received / UNSOLICITED / name for name in names),
        put(received / INCOMING / "1.2/1.4/4.dcm", DAY - 1000),
        put(received / UNSOLICITED / "1.2/1.3/5.dcm", 1000 * DAY),
        # Files outside `incoming` are not the receiver's.
        put(received / "1.2/1.3/1.dcm", 1000 * DAY),
        put(received / "notes.txt", 1000 * DAY),
        put(received / ".hidden", 1000 * DAY),
    }
    with receiver(redis_url, tmp_path) as process:
        wait_until(lambda: not any(path.exists() for path in gone), 15, "old instances to go")
        wait_until(lambda: left(received) == kept, 15, f"empty directories to go, and nothing else: {left(received)}")
        wait_until(lambda: "Set aside 3 instances that no job had collected, and removed 0" in process.said(), 5)
        assert "1.2" not in process.said().replace("127.0.0.1", "")


@pytest.mark.parametrize("before", [b"aside", b"x"])
def test_what_came_twice_stays_twice_if_it_differs(tmp_path: Path, before: bytes) -> None:
    """It came once while a job expected its series, and once while none did."""
    put(tmp_path / INCOMING / "1.2/1.3/1.dcm", DAY + 100)
    aside = tmp_path / UNSOLICITED / "1.2/1.3/1.dcm"
    aside.parent.mkdir(parents=True)
    aside.write_bytes(before)
    Cleanup(tmp_path, DAY).clean()
    older = {aside.with_name("1.dcm.1")} if before != b"x" else set()
    assert left(tmp_path) == {aside, tmp_path / INCOMING} | older
    assert aside.read_bytes() == b"x"
    assert all(each.read_bytes() == before for each in older)


def test_what_a_killed_receiver_was_writing_goes(redis_url: str, tmp_path: Path, received: Path) -> None:
    """No operation takes longer; until then another receiver may be writing it."""
    old = put(received / ".0123456789abcdef01234567.part", IDLE.operation + 100)
    young = put(received / ".abcdef0123456789abcdef01.part", IDLE.operation - 100)
    with receiver(redis_url, tmp_path, keep=SHORT) as process:
        wait_until(lambda: not old.exists(), 15, "the old one to go")
        wait_until(lambda: "removed 1 unfinished files" in process.said(), 5)
        assert left(received) == {young}


def test_it_cleans_again_and_again(redis_url: str, tmp_path: Path, received: Path) -> None:
    """Cleaning repeats after the start."""
    with receiver(redis_url, tmp_path, keep=SHORT) as process:
        old = put(received / INCOMING / "1.2/1.3/1.dcm", SHORT + 1)
        wait_until(lambda: not old.exists(), 2 * SHORT / 10 + 10, "it to be gone")
        # The next round removes its directories.
        clean = {received / INCOMING, received / UNSOLICITED / "1.2/1.3/1.dcm"}
        wait_until(lambda: left(received) == clean, 10, f"it to be clean: {left(received)}")
        assert process.running()


def test_receivers_that_share_a_directory_clean_it_together(redis_url: str, tmp_path: Path, received: Path) -> None:
    """One tolerates that the other has just moved a file."""
    names = [f"1.2/1.{number}/1.dcm" for number in range(300)]
    for name in names:
        put(received / INCOMING / name, DAY + 100)
    clean = {received / INCOMING, *(received / UNSOLICITED / name for name in names)}
    with receiver(redis_url, tmp_path) as one, receiver(redis_url, tmp_path) as two:
        wait_until(lambda: left(received) == clean, 20, "it to be clean")
        for each in (one, two):
            assert "could not be cleaned" not in each.said()
            assert "Traceback" not in each.said()


def test_it_ends_soon_while_it_cleans(redis_url: str, tmp_path: Path, received: Path) -> None:
    """The receiver ends without an error when it is told to at once."""
    for number in range(2000):
        put(received / INCOMING / f"1.2/1.{number % 50}/{number}.dcm", DAY + 100)
    with receiver(redis_url, tmp_path) as process:
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(15) == 0
        assert "Traceback" not in process.said()


def test_what_arrives_at_the_moment_of_cleaning_stays(tmp_path: Path) -> None:
    """The directory may be removed at the moment an instance arrives."""
    encoded = data_set(write(instance(), tmp_path / "one.dcm"))
    (directory := tmp_path / "received").mkdir()
    cleaning, ended = Cleanup(directory, DAY), threading.Event()

    def clean() -> None:
        while not ended.is_set():
            cleaning.clean()

    cleaners = [threading.Thread(target=clean) for _ in range(4)]
    for each in cleaners:
        each.start()
    try:
        for number in range(150):
            file = IncomingFile(
                directory,
                sop_class_uid=CT,
                sop_instance_uid=f"{UID_ROOT}.1.1.1",
                transfer_syntax_uid=EXPLICIT,
                calling_aet="MODALITY",
            )
            file.write(memoryview(encoded))
            target = directory / INCOMING / f"{study_uid()}.{number}" / "1.2" / "1.dcm"
            assert file.finish(target) == target
            assert data_set(target) == encoded
            # The directories are empty again then.
            target.unlink()
    finally:
        ended.set()
        for each in cleaners:
            each.join(10)
    assert not [path for path in directory.rglob("*") if path.is_file()]
