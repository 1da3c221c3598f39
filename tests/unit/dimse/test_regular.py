"""Only regular files are read: a pipe keeps its content, and nothing blocks."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs_tasks.dimse.files import damage, part10
from pacs_tasks.dimse.files.data_set import DataSetFile
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.files.regular import is_regular, open_regular, read_regular
from pacs_tasks.dimse.files.whole import whole_instance
from pacs_tasks.dimse.sources import archive
from pacs_tasks.errors import PacsTasksError
from tests.support import dicom_files

CONTENT = b"what somebody else needs"
UID = str(dicom_files.instance().SOPInstanceUID)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of this process with a message in it."""
    reading, writing = os.pipe()
    os.write(writing, CONTENT)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def _judged(path: str) -> object:
    return damage.judged(StoredInstance(path, 10, 2, "1.2", UID, "1.2.840.10008.1.2.1"))


def _data_set(path: str) -> object:
    return DataSetFile(StoredInstance(path, 10, 2, "1.2", UID, "1.2.840.10008.1.2.1"))


READERS: dict[str, Callable[[str], object]] = {
    "the file to send": part10.read_instance,
    "its data set": _data_set,
    "its elements": _judged,
    "the members of an archive": lambda path: list(archive.members(path)),
    "anything": read_regular,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="this system has no /dev/fd")
def test_an_open_pipe_keeps_its_content(pipe: tuple[int, int], reader: str) -> None:
    """A worker's own pipe holds its next task."""
    for directory in ("/dev/fd", "/proc/self/fd"):
        with pytest.raises((PacsTasksError, OSError), match="not a regular file"):
            READERS[reader](f"{directory}/{pipe[0]}")
        assert not archive.is_archive(f"{directory}/{pipe[0]}")
        assert whole_instance(f"{directory}/{pipe[0]}", UID) is None
    os.set_blocking(pipe[0], False)
    assert os.read(pipe[0], 100) == CONTENT


@pytest.mark.parametrize("reader", READERS)
def test_a_named_pipe_keeps_its_content_and_its_writer(tmp_path: Path, reader: str) -> None:
    """Not even an open wakes the process at its other end, through a link neither."""
    path, link = tmp_path / "pipe", tmp_path / "link.dcm"
    os.mkfifo(path)
    link.symlink_to(path)
    opened = threading.Event()

    def write() -> None:
        with path.open("wb") as file:
            opened.set()
            file.write(CONTENT)

    writer = threading.Thread(target=write)
    writer.start()
    for each in (path, link):
        with pytest.raises((PacsTasksError, OSError), match="not a regular file"):
            READERS[reader](str(each))
        assert not is_regular(str(each))
    assert not opened.is_set()
    assert path.read_bytes() == CONTENT
    writer.join(10)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero", "socket"])
def test_devices_and_sockets_are_refused(tmp_path: Path, name: str) -> None:
    """A device without end ends nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        if name == "socket":
            name = str(tmp_path / "socket")
            listener.bind(name)
        with pytest.raises(PacsTasksError, match="not a regular file"):
            part10.read_instance(name)


def test_a_pipe_that_takes_the_place_of_a_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor is checked too, not the path alone."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "1.dcm")
    found = path.stat()
    path.unlink()
    os.mkfifo(path)
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda name, **options: found if name == str(path) else real(name, **options))
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(str(path))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_files_of_the_kernel_are_not_read() -> None:
    """They have no size, and some lose what is read."""
    with pytest.raises(PacsTasksError, match="not a DICOM file"):
        part10.read_instance("/proc/self/status")
