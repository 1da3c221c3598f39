"""Write instances to disk as they arrive (PS3.10 section 7), under their own names only when complete."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import secrets
import shutil
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydicom.config import IGNORE
from pydicom.uid import UID

from pacs_tasks.dimse.files import final_name, part10
from pacs_tasks.dimse.files.elements import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Data,
    MalformedError,
    names_instance,
    plain,
    read_uids,
    read_uids_anyhow,
)
from pacs_tasks.dimse.files.label import ends_with_native_pixels, transfer_syntax_of
from pacs_tasks.dimse.files.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_tasks.dimse.files.regular import read_regular
from pacs_tasks.errors import InvalidRequestError, UnreadableInputError
from pacs_tasks.request import ListedUID, StandardUID

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

#: Longest beginning of a UID in a safe name, and bytes that are read of one.
_LONGEST_NAME = 64
_LONGEST_VALUE = 256
_NOT_PLAIN = re.compile(r"[^0-9A-Za-z._-]")

_uid, _listed_uid = TypeAdapter(StandardUID), TypeAdapter(ListedUID)


def kept_path(directory: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
    """Give ``<directory>/<study>/<series>/<instance>.dcm``, by safe names where UIDs break PS3.5 section 9.1.

    An empty study or series UID is replaced by a name of its own.

    Raises
    ------
    InvalidRequestError
        If one of them is not even nearly a UID: a remote must not choose where a file goes. See :func:`safe_name`.
    """
    study = safe_name(study_uid) if study_uid else NO_STUDY
    series = safe_name(series_uid) if series_uid else NO_SERIES
    return directory / study / series / f"{safe_name(sop_instance_uid)}.dcm"


def safe_name(uid: str) -> str:
    """Give the name of a file or directory for the UID of a remote: itself if it follows PS3.5 section 9.1.

    Any other name consists of letters, digits, ``.``, ``-`` and ``_``, and ends with ``~`` and a digest. So nothing
    leads out of a directory, and two UIDs never share a name, even where upper and lower case are the same.

    Raises
    ------
    InvalidRequestError
        If it is empty or too long, or has a path separator or a character that is not printable ASCII.
    """
    try:
        uid = _listed_uid.validate_python(uid)
    except ValidationError:
        raise InvalidRequestError("A UID breaks the rules of PS3.5 section 9.1. Correct it, then try again.") from None
    try:
        return _uid.validate_python(uid)
    except ValidationError:
        name = _NOT_PLAIN.sub("_", uid).lstrip(".-")[:_LONGEST_NAME]
        return f"{name or '_'}~{hashlib.sha256(uid.encode()).hexdigest()[:12]}"


def uids_behind(path: str, instance_name: str, series_name: str) -> tuple[str, str]:
    """Give the UIDs of instance and series for the names that they have in a path by UIDs.

    A safe name does not show its UID, so the file is read.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if "~" not in instance_name + series_name:
        return instance_name, series_name
    try:
        instance = part10.read_instance(path)
    except UnreadableInputError:
        return instance_name, series_name
    with read_regular(path) as file:
        value = part10.read_values(file, instance, {SERIES_INSTANCE_UID}, _LONGEST_VALUE).get(SERIES_INSTANCE_UID, b"")
    return instance.sop_instance_uid, plain(value)


def breaks_rules(*uids: str) -> bool:
    """Whether one of these UIDs breaks PS3.5 section 9.1; empty ones do not."""
    return any("~" in safe_name(uid) for uid in uids if uid)


def unfinished_path(directory: Path, owner: str = "") -> Path:
    """A new, hidden name for a file that is not complete.

    Parameters
    ----------
    owner
        Who writes it, so that :func:`remove_unfinished` can remove the files that a killed process has left.
    """
    return directory / f"{_prefix(owner) if owner else '.'}{secrets.token_hex(12)}{UNFINISHED}"


def create_unfinished(directory: Path, owner: str = "", *, strict: bool = False) -> tuple[Path, int]:
    """Create a file that is not complete, and give its path and descriptor.

    Parameters
    ----------
    owner
        As for :func:`unfinished_path`.
    strict
        As for :class:`pacs_tasks.dimse.files.final_name.Folder`.

    Raises
    ------
    OSError
        If that is impossible.
    """
    path = unfinished_path(directory, owner)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    if not strict or not final_name.OPENAT:
        return path, os.open(path, flags, 0o666)
    below = final_name.open_directory(directory)
    try:
        return path, os.open(path.name, flags, 0o666, dir_fd=below)
    finally:
        os.close(below)


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
    owner, strict
        As for :func:`create_unfinished`.

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
        strict: bool = False,
    ) -> None:
        self._directory, self._strict = directory, strict
        self._sop_instance_uid = sop_instance_uid
        #: As announced, or corrected by :meth:`belongs_to`.
        self.transfer_syntax_uid = transfer_syntax_uid
        #: What is wrong with the instance, although it is kept.
        self.remarks: list[str] = []
        self._malformed = False
        self._names, self._calling_aet, self._owner = (sop_class_uid, sop_instance_uid), calling_aet, owner
        self._head = bytearray()
        #: Bytes written so far.
        self.size = 0
        self._placed = False
        self._owners: tuple[str, str] | None = None
        self._descriptor: int | None
        #: The temporary path, or the final one after :meth:`finish`.
        self.path, self._descriptor = create_unfinished(directory, owner, strict=strict)
        try:
            self._write(_head_of(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_aet))
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

    def belongs_to(self, study_uid: str = "", series_uid: str = "") -> tuple[str, str]:
        """Close the file, and give the UIDs of its study and series, empty where missing.

        Parameters
        ----------
        study_uid, series_uid
            What a data set belongs to that does not name it, or is malformed and cannot be read so far.

        Raises
        ------
        MalformedError
            If the data set cannot be read, or names no SOP instance.
        MislabelledError
            If it has another transfer syntax than announced, and none that is known.
        OtherInstanceError
            If the data set is of another instance than was announced.
        InvalidRequestError
            If a UID is malformed.
        """
        if self._owners is None:
            self._close()
            uids = self._uids()
            study, series = (uids.get(tag, "") for tag in (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID))
            owners = study or study_uid, series or series_uid
            # A wrong length leads past them.
            self._malformed |= owners != (study, series)
            study, series = owners
            # Checked here, because the caller may build a path from them.
            kept_path(self._directory, study, series, self._sop_instance_uid)
            if uids[SOP_INSTANCE_UID] != self._sop_instance_uid:
                raise OtherInstanceError("the data set is of another SOP instance than announced")
            self._correct_label()
            self._owners = study, series
        return self._owners

    def finish(self, target: Path | None = None) -> Path:
        """Move the file to its final path; an older file with other content is kept beside it, with a remark.

        Parameters
        ----------
        target
            Path below the directory; the default is :func:`kept_path`.

        Raises
        ------
        MalformedError, OtherInstanceError, InvalidRequestError
            As :meth:`belongs_to`.
        """
        study, series = self.belongs_to()
        target = target or kept_path(self._directory, study, series, self._sop_instance_uid)
        remark = final_name.place(self.path, self._directory, target, strict=self._strict)
        self.remarks += [remark] if remark else []
        return self.moved(target)

    def moved(self, target: Path) -> Path:
        """Record that the caller has moved the file to ``target``, and give that path."""
        self.path, self._placed = target, True
        return target

    def _uids(self) -> dict[int, str]:
        is_all = self.size - self._offset <= len(self._head)
        with suppress(MalformedError):
            found = self._read_uids(self._head, 0)
            # An element may end exactly where the head ends.
            if is_all or len(found) == len(_WANTED):
                return found
        with self._whole() as whole:
            with suppress(MalformedError):
                return self._read_uids(whole, self._offset)
            found = read_uids_anyhow(whole, self.transfer_syntax_uid, _WANTED, self._offset)
            if SOP_INSTANCE_UID not in found and names_instance(whole, self._sop_instance_uid, self._offset):
                found[SOP_INSTANCE_UID] = self._sop_instance_uid
        if SOP_INSTANCE_UID not in found:
            raise MalformedError("it names no SOP instance")
        self._malformed = True
        return found

    @contextmanager
    def _whole(self) -> Iterator[mmap.mmap]:
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            yield whole

    def _correct_label(self) -> None:
        """Have the file meta information name the transfer syntax that the data set is seen to have.

        Raises
        ------
        MislabelledError
            If that is not known.
        """
        label = self.transfer_syntax_uid
        if not self._malformed and ends_with_native_pixels(self._head, self.size - self._offset, label):
            return
        if self.size - self._offset <= len(self._head):
            found = transfer_syntax_of(self._head, 0, label)
        else:
            with self._whole() as whole:
                found = transfer_syntax_of(whole, self._offset, label)
        if found == label:
            self.remarks += ["its data set is malformed"] if self._malformed else []
            return
        self.remarks.append(f"it came labelled {UID(label, IGNORE).name} and is {UID(found, IGNORE).name}")
        self.transfer_syntax_uid = found
        # The length of the file meta information differs, so the data set moves.
        old, offset = self.path, self._offset
        self.path, descriptor = create_unfinished(self._directory, self._owner, strict=self._strict)
        try:
            with os.fdopen(descriptor, "wb") as copy, old.open("rb") as source:
                self._offset = copy.write(_head_of(*self._names, found, self._calling_aet))
                source.seek(offset)
                shutil.copyfileobj(source, copy)
                self.size = copy.tell()
        finally:
            old.unlink(missing_ok=True)

    def _read_uids(self, data: Data, position: int) -> dict[int, str]:
        found = read_uids(data, self.transfer_syntax_uid, _WANTED, position)
        if SOP_INSTANCE_UID not in found:
            raise MalformedError("it names no SOP instance")
        return found

    def discard(self) -> None:
        """Remove the file, unless it has its final path."""
        if self._placed:
            return
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _head_of(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_aet: str) -> bytes:
    """Encode what stands before a data set (PS3.10 section 7.1): always Explicit VR Little Endian."""
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
    return b"\0" * 128 + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(body))) + body


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
    """Make a directory and its parents, and sync them to disk. Its path has no links.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    if final_name.OPENAT:
        os.close(final_name.open_directory(path, make=True))
    else:
        path.mkdir(parents=True, exist_ok=True)
    _sync_directories(each.parent for each in missing)


def _sync_directories(directories: Iterable[Path]) -> None:
    if os.name == "posix":
        for directory in directories:
            _sync(directory, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    # A pipe in the place of a file would block without end.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
