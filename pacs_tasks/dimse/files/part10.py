"""Read a DICOM file without decoding its data set (PS3.10 section 7): its UIDs, its offset and its elements."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO, FileIO
from typing import Protocol

from pacs_tasks.dimse.files.elements import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LONG_VRS,
    LONGEST_INFLATED,
    LONGEST_UID,
    PIXEL_DATA,
    SHORT_VRS,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    UNDEFINED,
    Element,
    Encoding,
    MalformedError,
    Walker,
    inflate,
    outermost,
    read_uids,
    read_uids_anyhow,
    uid_of,
    walk,
)
from pacs_tasks.dimse.files.regular import open_regular
from pacs_tasks.errors import NotDicomError, UnreadableInputError

#: Written into our files (PS3.10 section 7.1) and association requests (PS3.7 section D.3.3.2); a UID made from a UUID.
IMPLEMENTATION_CLASS_UID = "2.25.15771961509452007650856201842883446962"
IMPLEMENTATION_VERSION_NAME = "PACS_TASKS_0"
#: Media Storage Directory Storage, the SOP class of a DICOMDIR.
_DICOMDIR = "1.2.840.10008.1.3.10"
#: Bytes of the first read, which covers the file meta information of most files.
_FIRST_READ = 2048
_PREAMBLE = 128
_PREFIX = b"DICM"
#: The VRs at the beginning of group 0002, and its length in Implicit VR, which some writers use.
_FIRST_META_VRS = frozenset((b"UL", b"OB", b"UI", b"\4\0"))
#: Bytes of a UID that are read, so that one that is too long is seen to be.
_LONGEST_READ = 256
_EXPLICIT = Encoding(explicit=True)
_META_HEADER = struct.Struct("<HH2sH").unpack_from
_META_LENGTH = struct.Struct("<L").unpack_from
_WANTED = (SOP_CLASS_UID, SOP_INSTANCE_UID)
#: A data set that names its SOP class begins with group 0008, in little or big endian.
_FIRST_GROUPS = frozenset((b"\x08\x00", b"\x00\x08"))
#: Bytes of one read while walking: the headers of most instances in front of their pixel data.
_WINDOW = 1 << 13
_HEADER = 12

# Elements of group 0002 (PS3.10 table 7.1-1).
_META = 0x0002
_MEDIA_STORAGE_SOP_CLASS_UID = 0x0002_0002
_MEDIA_STORAGE_SOP_INSTANCE_UID = 0x0002_0003
_TRANSFER_SYNTAX_UID = 0x0002_0010
_META_UIDS = frozenset((_MEDIA_STORAGE_SOP_CLASS_UID, _MEDIA_STORAGE_SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID))


@dataclass(frozen=True)
class Padding:
    """How a data set of odd length is sent: with another ``length`` ``at`` this position of its file, and more bytes.

    :data:`AS_IT_IS` adds nothing.
    """

    at: int = 0
    length: bytes = b""
    more: bytes = b""


AS_IT_IS = Padding()


@dataclass(frozen=True)
class StoredInstance:
    """One instance in a file of ``size`` bytes. Its data set begins at ``data_offset``."""

    path: str
    size: int
    data_offset: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: What makes an odd length even; nothing where an odd length is not sent.
    padding: Padding | None = None


def read_instance(path: str) -> StoredInstance:
    """Read the properties that are needed to send a file.

    A file is recognised by its content: the preamble and ``DICM``, or file meta information without them, or else a
    data set that names its SOP class and instance. The data set is not validated: :mod:`.damage` does that.

    UIDs at the beginning of the data set take precedence over the file meta information: anonymisers often leave the
    old UIDs there, and a PACS refuses an instance announced under another UID.

    Raises
    ------
    NotDicomError
        If the file is not a DICOM file, or is a DICOMDIR.
    UnreadableInputError
        If the file cannot be read or sent: permission denied, truncated, or without its UIDs.
    """
    try:
        descriptor = open_regular(path)
    except (OSError, ValueError) as error:
        raise UnreadableInputError(
            f"The file cannot be opened ({_why(error)}). Check its path and permissions.", path
        ) from None
    try:
        return read_descriptor(descriptor, path)
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int, path: str = "") -> StoredInstance:
    """Read the same from an open file that has not been read yet; ``path`` names it in errors."""
    try:
        return _checked(_read(path, descriptor))
    except (OSError, ValueError) as error:
        raise UnreadableInputError(
            f"The file cannot be read ({_why(error)}). Check the disk, then try again.", path
        ) from None


def _read(path: str, descriptor: int) -> StoredInstance:
    size = os.fstat(descriptor).st_size
    # Files of the kernel have no size; some lose what is read.
    first = os.read(descriptor, _FIRST_READ) if size else b""
    start = _start_of_meta(first)
    if start is None:
        return _without_meta(path, descriptor, first, size)
    meta, offset = _meta(path, descriptor, start, first, size)
    sop_class = meta.get(_MEDIA_STORAGE_SOP_CLASS_UID, "")
    sop_instance = meta.get(_MEDIA_STORAGE_SOP_INSTANCE_UID, "")
    syntax = meta.get(_TRANSFER_SYNTAX_UID, "")
    if sop_class == _DICOMDIR:
        raise NotDicomError("The file is a DICOMDIR, an index of other files. Send the files that it lists.", path)
    if offset >= size:
        raise UnreadableInputError("The file has no data set to send. Export it again.", path)
    if not (sop_class and sop_instance and syntax):
        return _from_data_set(path, descriptor, offset, size, (sop_class, sop_instance, syntax))
    found = StoredInstance(path, size, offset, sop_class, sop_instance, syntax)
    own = _own_uids(first, descriptor, found)
    own_class, own_instance = own.get(SOP_CLASS_UID) or sop_class, own.get(SOP_INSTANCE_UID) or sop_instance
    if (own_class, own_instance) == (sop_class, sop_instance):
        return found
    return replace(found, sop_class_uid=own_class, sop_instance_uid=own_instance)


def _start_of_meta(first: bytes) -> int | None:
    """Give the position of the file meta information. Some writers leave out the preamble, or even the prefix."""
    for position in (_PREAMBLE, 0):
        if first[position : position + len(_PREFIX)] == _PREFIX:
            return position + len(_PREFIX)
    is_meta = first[:2] == b"\2\0" and first[3:4] == b"\0" and first[4:6] in _FIRST_META_VRS
    return 0 if is_meta else None


def _checked(instance: StoredInstance) -> StoredInstance:
    """Reject UIDs at which DCMTK, and therefore Orthanc, aborts the association for all other instances."""
    uids = (instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
    if max(map(len, uids)) > LONGEST_UID:
        raise UnreadableInputError(
            f"The instance has a UID longer than {LONGEST_UID} characters (PS3.5 section 9.1), which no PACS accepts. "
            "Export it again.",
            instance.path,
        )
    if not "".join(uids).isprintable():
        raise UnreadableInputError(
            "The instance has a UID with a NUL or another control byte (PS3.5 section 9.1), which cannot be announced "
            "to a PACS as it is. Export it again.",
            instance.path,
        )
    return instance


def own_uids(file: FileIO, instance: StoredInstance, wanted: Collection[int]) -> Mapping[int, str]:
    """Give UIDs of the data set, however long the elements in front of them are, as far as it can be walked."""
    return {tag: uid_of(value) for tag, value in read_values(file, instance, wanted, _LONGEST_READ).items()}


def _own_uids(first: bytes, descriptor: int, instance: StoredInstance) -> Mapping[int, str]:
    """Give the SOP class and instance that the data set names, wherever they are."""
    with suppress(MalformedError):
        found = read_uids(first, instance.transfer_syntax_uid, _WANTED, instance.data_offset)
        if len(found) == len(_WANTED):
            return found
    if instance.size <= len(first):
        return {}
    return own_uids(FileIO(descriptor, closefd=False), instance, _WANTED)


def _meta(path: str, descriptor: int, start: int, first: bytes, size: int) -> tuple[Mapping[int, str], int]:
    """Give the UIDs of group 0002 and its end. Its group length is often wrong or missing, so it is walked."""
    plain = _plain_meta(first, start)
    if plain is not None:
        return plain
    # Private information may have any length (PS3.10 section 7.1).
    try:
        return _walk_meta(FileWalker(FileIO(descriptor, closefd=False), size, _EXPLICIT), start, size)
    except MalformedError:
        raise UnreadableInputError(
            "The file is truncated in its file meta information. Export it again.", path
        ) from None


def _plain_meta(data: bytes, position: int) -> tuple[Mapping[int, str], int] | None:
    """Do the same as :func:`_walk_meta`, six times as fast, for what nearly all files have."""
    found: dict[int, str] = {}
    size = len(data)
    while position + _HEADER <= size:
        group, element, vr, length = _META_HEADER(data, position)
        if group != _META:
            return found, position
        value = position + 8
        if vr in LONG_VRS:
            (length,) = _META_LENGTH(data, value)
            value += 4
        elif vr not in SHORT_VRS:
            return None
        position = value + length
        tag = _META << 16 | element
        if tag in _META_UIDS and tag not in found and position <= size:
            found[tag] = uid_of(data[value:position])
    return None


def _walk_meta(walker: FileWalker, position: int, size: int) -> tuple[Mapping[int, str], int]:
    """Walk group 0002, which is always Explicit VR Little Endian (PS3.10 section 7.1).

    The first occurrence of an element counts: anonymisers and gateways leave older meta information behind theirs.
    """
    found: dict[int, str] = {}
    while position < size:
        tag, length, value = walker.header(position, explicit=True)
        if tag >> 16 != _META:
            return found, position
        position = value + length
        if tag in _META_UIDS and tag not in found and position <= size:
            found[tag] = uid_of(walker.read(value, min(length, _LONGEST_READ)))
    if position == size and found:
        return found, position
    raise MalformedError("it is truncated")


def _without_meta(path: str, descriptor: int, first: bytes, size: int) -> StoredInstance:
    """Read a file without preamble and file meta information, which some writers omit."""
    syntax = guess_syntax(first)
    if first[:2] not in _FIRST_GROUPS or syntax is None:
        raise NotDicomError(
            "The file is not a DICOM file: it begins with neither a DICM prefix nor a data set. Leave it out.", path
        )
    try:
        return _from_data_set(path, descriptor, 0, size, ("", "", ""))
    except UnreadableInputError as error:
        if len(read_uids_anyhow(first, syntax, _WANTED)) == len(_WANTED):
            raise
        raise NotDicomError(f"The file is not a DICOM file: it has no DICM prefix. {error.message}", path) from None


def _from_data_set(path: str, descriptor: int, offset: int, size: int, known: tuple[str, str, str]) -> StoredInstance:
    """Complete the file meta information from the data set."""
    sop_class, sop_instance, syntax = known
    file = FileIO(descriptor, closefd=False)
    try:
        syntax = syntax or _derive_syntax(path, file, offset, size)
        if not (sop_class and sop_instance):
            found = _uids(file, StoredInstance(path, size, offset, "", "", syntax))
            sop_class = sop_class or found.get(SOP_CLASS_UID, "")
            sop_instance = sop_instance or found.get(SOP_INSTANCE_UID, "")
    except MalformedError as error:
        raise UnreadableInputError(f"The data set cannot be read: {error}. Export the file again.", path) from None
    if not (sop_class and sop_instance):
        raise UnreadableInputError("The SOP Class UID or SOP Instance UID is missing. Export the file again.", path)
    return StoredInstance(path, size, offset, sop_class, sop_instance, syntax)


def _uids(file: FileIO, instance: StoredInstance) -> Mapping[int, str]:
    """Give the UIDs of a data set. At its beginning, elements may be out of order."""
    file.seek(instance.data_offset)
    first = file.read(_FIRST_READ)
    try:
        return read_uids(first, instance.transfer_syntax_uid, _WANTED)
    except MalformedError:
        if instance.size - instance.data_offset <= len(first):
            raise
    return own_uids(file, instance, _WANTED)


def _derive_syntax(path: str, file: FileIO, offset: int, size: int) -> str:
    """Derive the uncompressed transfer syntax of the data set."""
    file.seek(offset)
    syntax = guess_syntax(file.read(8))
    if syntax is None:
        raise UnreadableInputError("The file does not name its transfer syntax. Export it again.", path)
    encoding = Encoding.of(syntax)
    for element in outermost(FileWalker(file, size, encoding), encoding, offset, size):
        if element.tag == PIXEL_DATA and element.length is None:
            raise UnreadableInputError(
                "The pixel data are compressed, and the file does not name its transfer syntax. Export it again.", path
            )
        if element.tag >= PIXEL_DATA:
            break
    return syntax


def guess_syntax(head: bytes) -> str | None:
    """Derive the uncompressed transfer syntax of a data set from its first element."""
    if len(head) < 8:
        return None
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    little, big = struct.unpack_from("<H", head)[0], struct.unpack_from(">H", head)[0]
    if explicit:
        # The first group number is low, so the byte order that makes it lower is the right one.
        return EXPLICIT_VR_LITTLE_ENDIAN if little < big else EXPLICIT_VR_BIG_ENDIAN
    return IMPLICIT_VR_LITTLE_ENDIAN if little < big else None


def unreadable(error: Exception, path: str = "") -> UnreadableInputError:
    """Give the error about a file that could be read before."""
    return UnreadableInputError(f"The file can no longer be read ({_why(error)}). Check it, then send it again.", path)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


class Source(Protocol):
    """What a walker reads of a file."""

    def seek(self, position: int, /) -> int: ...

    def read(self, length: int, /) -> bytes: ...


class FileWalker(Walker):
    """Walks an open file; ``data`` is the window that begins at ``_start``.

    It does not use a memory map, because touching the map of a file that somebody truncates ends the process.
    """

    def __init__(self, file: Source, size: int, encoding: Encoding) -> None:
        super().__init__(b"", encoding)
        self._file, self._start, self._file_size = file, 0, size

    def header(self, position: int, explicit: bool) -> tuple[int, int, int]:
        self._load(position)
        tag, length, value = super().header(position - self._start, explicit)
        return tag, length, value + self._start

    def unknown(self, position: int) -> bool:
        self._load(position)
        return super().unknown(position - self._start)

    def read(self, position: int, length: int) -> bytes:
        """Give the bytes of a value, or as many of them as there are."""
        self._file.seek(position)
        return self._file.read(length)

    def _load(self, position: int) -> None:
        """Have the bytes of one header in the window, or the rest of the file."""
        if self._start <= position <= self._start + self.size - _HEADER:
            return
        if position > self._file_size:
            raise MalformedError("it is truncated")
        self._file.seek(position)
        self.data = self._file.read(_WINDOW)
        self._start, self.size = position, len(self.data)


def walk_file(file: FileIO, instance: StoredInstance) -> Iterator[Element]:
    """Yield the outermost elements of a data set that is not deflated, each after its end was found.

    Only headers are read, never the values between them.

    Raises
    ------
    MalformedError
        If the lengths do not lead to exactly the end of the file, or tags do not ascend (PS3.5 section 7.1).
    OSError
        If the file can no longer be read.
    """
    encoding = Encoding.of(instance.transfer_syntax_uid)
    walker = FileWalker(file, instance.size, encoding)
    position, last = instance.data_offset, -1
    while position < instance.size:
        tag, length, value = walker.header(position, encoding.explicit)
        if tag <= last:
            # Zeroes often stand in for data that were never written.
            raise MalformedError("its elements are out of order")
        last = tag
        position = walker.after(position, length, value, encoding.explicit)
        if position > instance.size:
            raise MalformedError("it is truncated")
        yield Element(tag, value, None if length == UNDEFINED else length)


def read_values(file: FileIO, instance: StoredInstance, wanted: Collection[int], longest: int) -> dict[int, bytes]:
    """Read values from the head of a data set, as far as it can be walked; at most ``longest`` bytes of each."""
    source: Source = file
    found: dict[int, bytes] = {}
    try:
        if instance.transfer_syntax_uid in DEFLATED:
            file.seek(instance.data_offset)
            content = inflate(file.read(LONGEST_INFLATED), 0)
            source, elements = BytesIO(content), walk(content, Encoding.of(instance.transfer_syntax_uid))
        else:
            elements = walk_file(file, instance)
        for element in elements:
            if element.tag > max(wanted):
                break
            if element.tag in wanted and element.length is not None:
                source.seek(element.position)
                found[element.tag] = source.read(min(element.length, longest))
    except MalformedError:
        # The values in front of the fault are valid all the same.
        pass
    return found
