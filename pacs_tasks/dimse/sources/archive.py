"""Members of archives (ZIP, PS3.12 annex V, and tar) and objects, each as a file for as long as it is sent.

A member gets a number for its name on disk, so that no name in an archive leads out of the directory. Archives within
archives stay as they are.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import IO, Any, Self

from pacs_tasks.dimse.files.regular import read_regular
from pacs_tasks.dimse.sources import objects
from pacs_tasks.dimse.sources.members import Member, Packed, Tar, Zip
from pacs_tasks.dimse.sources.zip_directory import ZIP, has_more_than
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.source import is_url

#: The beginnings of a compressed tar, and what reads each. Each verifies its own checksum at the end.
_COMPRESSED: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
#: Where the header of a tar has this (POSIX ustar, and GNU).
_TAR, _AT = b"ustar", 257
#: Where ``DICM`` stands in a file of PS3.10, whose preamble may hold anything.
_PREFIX, _HEAD = b"DICM", 132
#: What Python raises at damaged archives, beside OSError without a number.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError)
_MOST_MEMBERS = 1_000_000
#: Bytes of a name, as file systems have them, and characters of all names, which are in memory together.
_LONGEST_NAME, _MOST_NAMES = 4_096, 1 << 28
#: Deflate packs at most 1 to 1,032. Whatever claims more than this, and is large, was made to fill a disk.
_MOST_GROWTH, _HARMLESS = 1_100, 1 << 30
_PREFIX_OF_DIRECTORIES = "pacs-tasks-unpacked-"
#: Seconds after which a directory belongs to a worker that was killed: no task runs for so long.
_ABANDONED = 24 * 3600
_CHUNK = 1 << 20


def is_archive(path: str) -> bool:
    """Report whether a file or an object is a ZIP or tar archive, or something compressed, by its content."""
    if is_url(path):
        head = objects.head(path, _AT + len(_TAR))
    else:
        try:
            with read_regular(path) as file:
                head = file.read(_AT + len(_TAR))
        except (OSError, ValueError):
            return False
    known = head.startswith((*ZIP, *_COMPRESSED)) or head[_AT:] == _TAR
    return known and head[_HEAD - len(_PREFIX) : _HEAD] != _PREFIX


def members(path: str, check: Callable[[], object] = lambda: None) -> Iterator[Member]:
    """Give the files of an archive in its own order.

    Parameters
    ----------
    check
        It is called for each entry, directories too, and ends this by raising.

    Raises
    ------
    UnreadableInputError
        If it is damaged or not whole, or claims more than an archive can hold.
    """
    with _opened(path) as (archive, packed):
        most = max(_HARMLESS, _MOST_GROWTH * packed)
        size = names = 0
        for number, each in enumerate(archive.members(), 1):
            check()
            if each is not None:
                _check_name(path, each)
                size += each.size
                names += len(each.path)
            unpacked = max(size, archive.unpacked)
            if number > _MOST_MEMBERS or names > _MOST_NAMES or unpacked > most:
                raise _too_much(path, number - 1, unpacked, packed)
            if each is not None:
                yield each
        archive.check_end(most)


def _too_much(path: str, number: int, unpacked: int, packed: int) -> UnreadableInputError:
    return UnreadableInputError(
        f"This archive claims more than {number} files with {unpacked} bytes in {packed} bytes, as archives do that "
        "are made to fill a disk. Unpack it yourself if you trust it, and send the directory.",
        path,
    )


def _check_name(path: str, member: Member) -> None:
    if len(member.path.encode(errors="replace")) - len(path.encode(errors="replace")) > _LONGEST_NAME:
        raise UnreadableInputError(
            "A name in the archive has more than 4,096 bytes, which no file system allows. Unpack the archive yourself "
            "if you trust it, and send the directory.",
            path,
        )


@contextmanager
def _opened(path: str) -> Iterator[tuple[Packed, int]]:
    """An archive, and its size in bytes."""
    try:
        with objects.opened(path) if is_url(path) else BufferedReader(read_regular(path)) as file:
            packed = file.seek(0, 2)
            file.seek(0)
            head = file.read(_HEAD)
            with ExitStack() as stack:
                if head.startswith(ZIP) and has_more_than(_MOST_MEMBERS, file):
                    raise _too_much(path, _MOST_MEMBERS, 0, packed)
                file.seek(0)
                yield _read(path, file, head, stack), packed
    except OSError as error:
        if error.errno is None:
            # gzip and bz2 say so of damaged data.
            raise _damaged(path) from None
        raise UnreadableInputError(
            f"The archive cannot be read ({error.strerror}). Check its path and permissions, and the disk.", path
        ) from None
    except (*_DAMAGED, NotImplementedError):
        raise _damaged(path) from None


def _read(path: str, file: IO[bytes], head: bytes, stack: ExitStack) -> Packed:
    if head.startswith(ZIP):
        return Zip(path, stack.enter_context(zipfile.ZipFile(file)))
    decompress = next((each for start, each in _COMPRESSED.items() if head.startswith(start)), None)
    if decompress is None:
        return Tar(path, file, in_order=False)
    content: IO[bytes] = stack.enter_context(decompress(file))
    archive = Tar(path, content, in_order=True)
    _check_tar(archive, content.read(tarfile.BLOCKSIZE), path)
    return archive


def _check_tar(archive: Tar, head: bytes, path: str) -> None:
    """Refuse what is compressed without being a tar, such as one DICOM file."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed does not know it
        # A tar without members.
        return
    except tarfile.HeaderError:
        # A damaged one has a wrong checksum at its end.
        with suppress(tarfile.ReadError):
            archive.check_end(_HARMLESS)
        raise UnreadableInputError(
            "The file is compressed, but it is not a tar archive. Unpack it, and send the file that was in it.", path
        ) from None


def _damaged(path: str) -> UnreadableInputError:
    return UnreadableInputError("The archive is damaged or not whole. Copy or download it again.", path)


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
        self._archives: dict[str, Packed] = {}
        #: By archive and place, the files that are unpacked.
        self._files: dict[tuple[str, int], str] = {}
        self._numbers = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def file(self, archive: str, member: Member) -> str:
        """Unpack a member, or fetch an object, and give the path of its file.

        Raises
        ------
        UnreadableInputError
            If it cannot be unpacked whole: its checksum is wrong, it is encrypted, or the disk has no room.
        """
        place = archive, member.place
        if place not in self._files:
            try:
                self._files[place] = self._unpack(archive, member)
            except (NotImplementedError, RuntimeError):
                raise UnreadableInputError(
                    "The file is packed by a method that Python does not know. Unpack the archive, and send the "
                    "directory.",
                    member.path,
                ) from None
            except (OSError, *_DAMAGED) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise UnreadableInputError(
                        f"The file cannot be unpacked ({error.strerror}). Free some space in the worker's TMPDIR.",
                        member.path,
                    ) from None
                raise UnreadableInputError(
                    "The file is damaged in its archive. Download the archive again.", member.path
                ) from None
        return self._files[place]

    def discard(self, archive: str, member: Member) -> None:
        """Remove the file of a member that is not sent."""
        Path(self._files.pop((archive, member.place))).unlink()

    def clear(self) -> None:
        """Remove all files: those of the next members take their room."""
        for path in self._files.values():
            Path(path).unlink()
        self._files.clear()

    def _unpack(self, path: str, member: Member) -> str:
        target = self._target(member)
        if path == member.path:
            objects.fetch(objects.Object(path, member.size), target)
        else:
            archive = self._archive(path)
            with archive.opened(member) as source, target.open("xb") as file:
                # More than the size is never read, and the end verifies the checksum where there is one.
                shutil.copyfileobj(source, file, _CHUNK)
            if target.stat().st_size != member.size:
                raise EOFError
        return str(target)

    def _archive(self, path: str) -> Packed:
        if path not in self._archives:
            self._archives[path], _ = self._stack.enter_context(_opened(path))
        return self._archives[path]

    def _target(self, member: Member) -> Path:
        if self._directory is None:
            _remove(_PREFIX_OF_DIRECTORIES, _ABANDONED)
            made = tempfile.TemporaryDirectory(prefix=self._prefix, ignore_cleanup_errors=True)
            self._directory = Path(self._stack.enter_context(made))
        if member.size > shutil.disk_usage(self._directory).free // 2:
            raise UnreadableInputError(
                f"The file has {member.size} bytes, more than half of the free space where the worker unpacks. Free "
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
