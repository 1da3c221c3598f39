"""Instances on disk (PS3.10 section 7): written as they came, visible under their name only when whole."""

from __future__ import annotations

import contextlib
import errno
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
from pacs_tasks.dimse.upper_layer.pdu import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import UID

#: Where instances go that belong to no study or series, as colour palettes and hanging protocols do.
NO_STUDY = "no-study"
NO_SERIES = "no-series"
#: The UIDs stand in front of the pixel data, nearly always in the first few kilobytes.
_HEAD = 1 << 16
#: Every data set of an instance has the first (PS3.3 section C.12.1), or it is none.
_WANTED = (SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
_LONG_VRS = frozenset((b"OB", b"OW", b"UN"))
#: How often an instance tries to have its name: whoever cleans up may remove the empty directory again that it made.
_MOST_TRIES = 100

_uid = TypeAdapter(UID)


def instance_path(directory: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
    """Give ``<directory>/<study>/<series>/<instance>.dcm``.

    Raises
    ------
    InvalidRequestError
        If one of them is no UID: a peer must not choose where a file goes. A study or series without a UID has a
        name of its own.
    """
    study = _checked(study_uid) if study_uid else NO_STUDY
    series = _checked(series_uid) if series_uid else NO_SERIES
    return directory / study / series / f"{_checked(sop_instance_uid)}.dcm"


def _checked(uid: str) -> str:
    try:
        return _uid.validate_python(uid)
    except ValidationError:
        raise InvalidRequestError(
            "what should be a UID is none (PS3.5 section 9.1), so no file is named after it"
        ) from None


class OtherInstanceError(ValueError):
    """The data set names another SOP instance than the request: under either name it could replace the wrong file."""


class IncomingFile:
    """A file that grows under a hidden, unique name until :meth:`finish` gives it its own.

    Parameters
    ----------
    directory
        Which must exist; the instance goes below it.
    calling_aet
        Who sends it: Source Application Entity Title, (0002,0016).

    Raises
    ------
    OSError
        From this and every method: the disk is full, or may not be written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_aet: str,
    ) -> None:
        self._directory = directory
        self._sop_instance_uid = sop_instance_uid
        self._transfer_syntax_uid = transfer_syntax_uid
        self._head = bytearray()
        #: Bytes of the file so far.
        self.size = 0
        self._placed = False
        self._owners: tuple[str, str] | None = None
        self._path = directory / f".{secrets.token_hex(12)}.part"
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
        """Add the next bytes of the data set."""
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
        """Its temporary name, or its own once it has that."""
        return self._path

    def belongs_to(self) -> tuple[str, str]:
        """Close the file, and give the UIDs of its study and series; one that it does not name is empty.

        Raises
        ------
        MalformedError
            If the data set cannot be read as far as its study and series, or names no SOP instance.
        OtherInstanceError
            If it is another instance than it was announced as.
        InvalidRequestError
            If one of its UIDs is none.
        """
        if self._owners is None:
            self._close()
            uids = self._uids()
            study, series = uids.get(STUDY_INSTANCE_UID, ""), uids.get(SERIES_INSTANCE_UID, "")
            # Whoever decides where it goes is told of UIDs alone.
            instance_path(self._directory, study, series, self._sop_instance_uid)
            if uids[SOP_INSTANCE_UID] != self._sop_instance_uid:
                raise OtherInstanceError("the data set is of another SOP instance than it was announced as")
            self._owners = study, series
        return self._owners

    def finish(self, target: Path | None = None) -> Path:
        """Put the file in its place, over an older one of the same instance.

        Parameters
        ----------
        target
            Below the directory; left out, as :func:`instance_path` has it.

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
        raise FileNotFoundError(errno.ENOENT, "a directory disappears as often as it is made", str(target.parent))

    def moved(self, target: Path) -> Path:
        """Note that somebody else has put the file in its place, which this gives."""
        self._path, self._placed = target, True
        return target

    def _make_way(self, target: Path) -> None:
        """Make the directories between ours and the file's.

        Not our own: one that was taken away is not to be filled in secret.
        """
        with contextlib.suppress(FileNotFoundError):
            for parent in reversed(target.relative_to(self._directory).parents[:-1]):
                # With exist_ok it would still raise where the directory is gone again when pathlib looks what it is.
                with contextlib.suppress(FileExistsError):
                    (self._directory / parent).mkdir()

    def _uids(self) -> dict[int, str]:
        try:
            return self._read_uids(self._head, 0)
        except MalformedError:
            if self.size - self._offset <= len(self._head):
                raise
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return self._read_uids(whole, self._offset)

    def _read_uids(self, data: Data, position: int) -> dict[int, str]:
        found = read_uids(data, self._transfer_syntax_uid, _WANTED, position)
        if SOP_INSTANCE_UID not in found:
            raise MalformedError("it names no SOP instance")
        return found

    def discard(self) -> None:
        """Remove what there is, unless it has its place."""
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
    """File Meta Information (PS3.10 section 7.1), always Explicit VR Little Endian."""
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
    """Have files, and the directories that name them, survive a power cut.

    Parameters
    ----------
    depth
        How many directories: of an instance that is called after its UIDs, the series, the study, and where the study
        is named.

    Raises
    ------
    OSError
        If the system cannot promise it.
    """
    directories: set[Path] = set()
    for path in paths:
        _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        directories.update(path.parents[:depth])
    _sync_directories(directories)


def make_directory(path: Path) -> None:
    """Make a directory, with those above it, so that a power cut does not take it away again.

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
