"""ZIP archives of DICOM files (PS3.12 annex V): their members, and one of them at a time as a file.

A member gets a number for its name on disk, so that no name in an archive leads out of the directory, and it is a file
only for as long as it is sent. Archives within archives stay as they are.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import NamedTuple, Self

from pacs_tasks.dimse.files.regular import read_regular
from pacs_tasks.errors import UnreadableInputError

_SIGNATURES = (b"PK\3\4", b"PK\5\6")
#: Where ``DICM`` stands in a file of PS3.10, whose preamble may hold anything.
_PREFIX, _HEAD = b"DICM", 132
_MOST_MEMBERS = 1_000_000
#: Deflate packs at most 1 to 1,032. Whatever claims more than this, and is large, was made to fill a disk.
_MOST_GROWTH, _HARMLESS = 1_100, 1 << 30
_PREFIX_OF_DIRECTORIES = "pacs-tasks-unpacked-"
#: Seconds after which a directory belongs to a worker that was killed: no task runs for so long.
_ABANDONED = 24 * 3600
_CHUNK = 1 << 20
_ENCRYPTED = 0x1


class Member(NamedTuple):
    """A file in an archive: its path below that of the archive, its size in bytes, its place in the directory."""

    path: str
    size: int
    place: int


def is_archive(path: str) -> bool:
    """Report whether a file is a ZIP archive, by its content."""
    try:
        with read_regular(path) as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return False
    return head.startswith(_SIGNATURES) and not head.endswith(_PREFIX)


def members(path: str) -> Iterator[Member]:
    """Give the files of an archive in its own order.

    Raises
    ------
    UnreadableInputError
        If it is damaged or not whole, or claims more than an archive can hold.
    """
    with _opened(path) as archive:
        found = archive.infolist()
        unpacked, packed = sum(each.file_size for each in found), Path(path).stat().st_size
        if len(found) > _MOST_MEMBERS or unpacked > max(_HARMLESS, _MOST_GROWTH * packed):
            raise UnreadableInputError(
                f"This ZIP archive claims {len(found)} files with {unpacked} bytes in {packed} bytes, as archives do "
                "that are made to fill a disk. Unpack it yourself if you trust it, and send the directory.",
                path,
            )
        for place, each in enumerate(found):
            if not each.is_dir():
                yield Member(f"{path}/{each.filename}", each.file_size, place)


@contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    try:
        with BufferedReader(read_regular(path)) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except OSError as error:
        raise UnreadableInputError(
            f"The ZIP archive cannot be read ({error.strerror}). Check its path and permissions, and the disk.", path
        ) from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise UnreadableInputError(
            "The ZIP archive is damaged or not whole. Copy or download it again.", path
        ) from None


class Unpacked:
    """The files of members for as long as this is a context, in a private directory of this process.

    Parameters
    ----------
    owner
        What they are unpacked for, under a claim; empty for nothing that is taken up again.
    taken_up
        A worker was killed that had unpacked for the same: what it left on this machine is removed.
    """

    def __init__(self, owner: str = "", *, taken_up: bool = False) -> None:
        self._prefix = _PREFIX_OF_DIRECTORIES + (f"{hashlib.sha256(owner.encode()).hexdigest()[:16]}-" if owner else "")
        if taken_up:
            _remove(self._prefix)
        self._stack = ExitStack()
        self._directory: Path | None = None
        self._archives: dict[str, zipfile.ZipFile] = {}
        #: By archive and place, the files that are unpacked.
        self._files: dict[tuple[str, int], str] = {}
        self._numbers = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def file(self, archive: str, member: Member) -> str:
        """Unpack a member, and give the path of its file.

        Raises
        ------
        UnreadableInputError
            If it cannot be unpacked whole: its checksum is wrong, it is encrypted, or the disk has no room.
        """
        place = archive, member.place
        if place not in self._files:
            try:
                self._files[place] = self._unpack(archive, member)
            except OSError as error:
                raise UnreadableInputError(
                    f"The file cannot be unpacked ({error.strerror}). Free some space in the worker's TMPDIR.",
                    member.path,
                ) from None
            except (zipfile.BadZipFile, EOFError, ValueError, zlib.error):
                raise UnreadableInputError(
                    "The file is damaged in its ZIP archive. Download the archive again.", member.path
                ) from None
            except (NotImplementedError, RuntimeError):
                raise UnreadableInputError(
                    "The file is packed by a method that Python does not know. Unpack the archive, and send the "
                    "directory.",
                    member.path,
                ) from None
        return self._files[place]

    def discard(self, archive: str, member: Member) -> None:
        """Remove the file of a member that is not sent."""
        Path(self._files.pop((archive, member.place))).unlink()

    def _unpack(self, path: str, member: Member) -> str:
        archive = self._archive(path)
        found = archive.infolist()
        info = found[member.place] if member.place < len(found) else None
        if info is None or (f"{path}/{info.filename}", info.file_size) != member[:2]:
            raise UnreadableInputError("The ZIP archive has changed since the job began. Send it again.", path)
        if info.flag_bits & _ENCRYPTED:
            raise UnreadableInputError("The file is encrypted. Unpack the archive and send the directory.", member.path)
        target = self._target(info.file_size, member)
        with archive.open(info) as source, target.open("xb") as file:
            # More than the size is never read, and the end verifies the checksum.
            shutil.copyfileobj(source, file, _CHUNK)
        return str(target)

    def _archive(self, path: str) -> zipfile.ZipFile:
        if path not in self._archives:
            self._archives[path] = self._stack.enter_context(_opened(path))
        return self._archives[path]

    def _target(self, size: int, member: Member) -> Path:
        if self._directory is None:
            _remove(_PREFIX_OF_DIRECTORIES, _ABANDONED)
            made = tempfile.TemporaryDirectory(prefix=self._prefix, ignore_cleanup_errors=True)
            self._directory = Path(self._stack.enter_context(made))
        if size > shutil.disk_usage(self._directory).free // 2:
            raise UnreadableInputError(
                f"The file unpacks to {size} bytes, more than half of the free space where the worker unpacks. Free "
                "some space, or set TMPDIR of the worker to a larger disk.",
                member.path,
            )
        return self._directory / str(next(self._numbers))


def _remove(prefix: str, age: float = 0) -> None:
    """Remove what workers left that were killed, if it is ``age`` seconds old."""
    for each in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            if time.time() - each.lstat().st_mtime >= age:
                shutil.rmtree(each, ignore_errors=True)
