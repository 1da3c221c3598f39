"""Write instances to disk as they arrive (PS3.10 section 7), under their own names only when complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import secrets
import struct
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pacs_tasks.dimse.files.elements import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Data,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.files.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import UID

#: Directories for instances without a study or series, such as colour palettes and hanging protocols.
NO_STUDY = "no-study"
NO_SERIES = "no-series"
#: How the hidden name of a file ends that is not complete.
UNFINISHED = ".part"
#: Bytes at the beginning of a data set that nearly always include the UIDs.
_HEAD = 1 << 16
#: Every instance has the first of these (PS3.3 section C.12.1).
_WANTED = (SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
_LONG_VRS = frozenset((b"OB", b"OW", b"UN"))
#: Attempts to rename a file: a cleaner may remove the new, still empty directory in between.
_MOST_TRIES = 100

_uid = TypeAdapter(UID)


def instance_path(directory: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
    """Give ``<directory>/<study>/<series>/<instance>.dcm``.

    Raises
    ------
    InvalidRequestError
        If one of them is not a UID: a remote must not choose where a file goes. An empty study or series UID is
        replaced by a name of its own.
    """
    study = _checked(study_uid) if study_uid else NO_STUDY
    series = _checked(series_uid) if series_uid else NO_SERIES
    return directory / study / series / f"{_checked(sop_instance_uid)}.dcm"


def _checked(uid: str) -> str:
    try:
        return _uid.validate_python(uid)
    except ValidationError:
        raise InvalidRequestError("A UID breaks the rules of PS3.5 section 9.1. Correct it, then try again.") from None


def unfinished_path(directory: Path, owner: str = "") -> Path:
    """A new, hidden name for a file that is not complete.

    Parameters
    ----------
    owner
        Who writes it, so that :func:`remove_unfinished` can remove the files that a killed process has left.
    """
    return directory / f"{_prefix(owner) if owner else '.'}{secrets.token_hex(12)}{UNFINISHED}"


def _prefix(owner: str) -> str:
    # An owner may have any name, also one with a slash.
    return f".{hashlib.sha256(owner.encode()).hexdigest()[:16]}-"


def remove_unfinished(directory: Path, owner: str) -> None:
    """Remove the unfinished files of an owner that no longer writes.

    Raises
    ------
    OSError
        If the directory cannot be listed, or a file not removed.
    """
    prefix = _prefix(owner)
    with os.scandir(directory) as entries:
        left = [each.path for each in entries if each.name.startswith(prefix) and each.name.endswith(UNFINISHED)]
    for path in left:
        Path(path).unlink(missing_ok=True)


class OtherInstanceError(ValueError):
    """The data set names another SOP instance than the request; under either name it could replace the wrong file."""


class IncomingFile:
    """A file that grows under a hidden, unique name until :meth:`finish` renames it.

    Parameters
    ----------
    directory
        An existing directory; the instance goes below it.
    calling_aet
        The sender: Source Application Entity Title, (0002,0016).
    owner
        As for :func:`unfinished_path`.

    Raises
    ------
    OSError
        From this and every method: the disk is full or not writable.
    """

    def __init__(
        self,
        directory: Path,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_aet: str,
        owner: str = "",
    ) -> None:
        self._directory = directory
        self._sop_instance_uid = sop_instance_uid
        self._transfer_syntax_uid = transfer_syntax_uid
        self._head = bytearray()
        #: Bytes written so far.
        self.size = 0
        self._placed = False
        self._owners: tuple[str, str] | None = None
        self._path = unfinished_path(directory, owner)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._descriptor: int | None = os.open(self._path, flags, 0o666)
        try:
            preamble = b"\0" * 128 + b"DICM"
            self._write(preamble + _meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_aet))
        except BaseException:
            self.discard()
            raise
        self._offset = self.size

    def write(self, chunk: memoryview) -> None:
        """Append bytes of the data set."""
        if len(self._head) < _HEAD:
            self._head += chunk[: _HEAD - len(self._head)]
        self._write(chunk)

    def _write(self, content: bytes | memoryview) -> None:
        if self._descriptor is None:
            raise ValueError("the file is finished")
        rest = memoryview(content)
        while rest:
            written = os.write(self._descriptor, rest)
            self.size += written
            rest = rest[written:]

    @property
    def path(self) -> Path:
        """The temporary path, or the final one after :meth:`finish`."""
        return self._path

    def belongs_to(self) -> tuple[str, str]:
        """Close the file, and give the UIDs of its study and series, empty where missing.

        Raises
        ------
        MalformedError
            If the data set cannot be read up to its study and series, or names no SOP instance.
        OtherInstanceError
            If the data set is of another instance than was announced.
        InvalidRequestError
            If a UID is malformed.
        """
        if self._owners is None:
            self._close()
            uids = self._uids()
            study, series = uids.get(STUDY_INSTANCE_UID, ""), uids.get(SERIES_INSTANCE_UID, "")
            # Checked here, because the caller may build a path from them.
            instance_path(self._directory, study, series, self._sop_instance_uid)
            if uids[SOP_INSTANCE_UID] != self._sop_instance_uid:
                raise OtherInstanceError("the data set is of another SOP instance than announced")
            self._owners = study, series
        return self._owners

    def finish(self, target: Path | None = None) -> Path:
        """Move the file to its final path, over an older file of the same instance.

        Parameters
        ----------
        target
            Path below the directory; the default is :func:`instance_path`.

        Raises
        ------
        MalformedError, OtherInstanceError, InvalidRequestError
            As :meth:`belongs_to`.
        """
        study, series = self.belongs_to()
        target = target or instance_path(self._directory, study, series, self._sop_instance_uid)
        for _ in range(_MOST_TRIES):
            try:
                self._path.replace(target)
            except FileNotFoundError:
                self._make_way(target)
            else:
                self._path, self._placed = target, True
                return target
        raise FileNotFoundError(errno.ENOENT, "the directory disappears each time it is made", str(target.parent))

    def moved(self, target: Path) -> Path:
        """Record that the caller has moved the file to ``target``, and give that path."""
        self._path, self._placed = target, True
        return target

    def _make_way(self, target: Path) -> None:
        """Make the directories between the top directory and the file, but never the top directory itself.

        If somebody removed that one, it must not reappear unnoticed.
        """
        with contextlib.suppress(FileNotFoundError):
            for parent in reversed(target.relative_to(self._directory).parents[:-1]):
                # exist_ok would still raise where the directory is gone again before pathlib checks its type.
                with contextlib.suppress(FileExistsError):
                    (self._directory / parent).mkdir()

    def _uids(self) -> dict[int, str]:
        is_all = self.size - self._offset <= len(self._head)
        try:
            found = self._read_uids(self._head, 0)
        except MalformedError:
            if is_all:
                raise
        else:
            # An element may end exactly where the head ends.
            if is_all or len(found) == len(_WANTED):
                return found
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return self._read_uids(whole, self._offset)

    def _read_uids(self, data: Data, position: int) -> dict[int, str]:
        found = read_uids(data, self._transfer_syntax_uid, _WANTED, position)
        if SOP_INSTANCE_UID not in found:
            raise MalformedError("it names no SOP instance")
        return found

    def discard(self) -> None:
        """Remove the file, unless it has its final path."""
        if self._placed:
            return
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_aet: str) -> bytes:
    """Encode File Meta Information (PS3.10 section 7.1), always Explicit VR Little Endian."""
    body = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _element(0x0002, b"UI", _ascii(sop_class_uid)),
            _element(0x0003, b"UI", _ascii(sop_instance_uid)),
            _element(0x0010, b"UI", _ascii(transfer_syntax_uid)),
            _element(0x0012, b"UI", _ascii(IMPLEMENTATION_CLASS_UID)),
            _element(0x0013, b"SH", _ascii(IMPLEMENTATION_VERSION_NAME)),
            _element(0x0016, b"AE", _ascii(calling_aet)),
        )
    )
    return _element(0x0000, b"UL", struct.pack("<L", len(body))) + body


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    if vr in _LONG_VRS:
        return struct.pack("<HH2sxxL", 2, element, vr, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def sync(paths: Iterable[Path], depth: int = 3) -> None:
    """Sync files and the directories that list them to disk, so that they survive a power failure.

    Parameters
    ----------
    depth
        Levels of directories above each file; by default the series, the study and the directory of studies.

    Raises
    ------
    OSError
        If the system cannot sync them.
    """
    directories: set[Path] = set()
    for path in paths:
        _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        directories.update(path.parents[:depth])
    _sync_directories(directories)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, and sync them to disk.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    _sync_directories(each.parent for each in missing)


def _sync_directories(directories: Iterable[Path]) -> None:
    if os.name == "posix":
        for directory in directories:
            _sync(directory, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
