"""Reading a DICOM file without decoding its data set (PS3.10 section 7): what it is, and where its bytes begin."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pacs_tasks.dimse.files.elements import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_DATA,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    Encoding,
    MalformedError,
    read_uids,
    walk,
)
from pacs_tasks.errors import NotDicomError, UnreadableInputError

#: Media Storage Directory Storage: the SOP class of a DICOMDIR.
_DICOMDIR = "1.2.840.10008.1.3.10"
#: The file meta information of most files fits, and costs one read.
_FIRST_READ = 2048
#: No file meta information is longer, private information included.
_LONGEST_META = 1 << 20
_PREAMBLE = 132
_LONGEST_UID = 64
#: A data set that names its SOP class begins with group 0008, little or big endian.
_FIRST_GROUPS = frozenset((b"\x08\x00", b"\x00\x08"))
_LONG_VRS = frozenset((b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF"))

# Elements of group 0002 (PS3.10 table 7.1-1).
_MEDIA_STORAGE_SOP_CLASS_UID = 0x0002
_MEDIA_STORAGE_SOP_INSTANCE_UID = 0x0003
_TRANSFER_SYNTAX_UID = 0x0010
_META_UIDS = frozenset((_MEDIA_STORAGE_SOP_CLASS_UID, _MEDIA_STORAGE_SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID))


@dataclass(frozen=True)
class StoredInstance:
    """One instance in a file. ``size`` is that of the file; its data set begins at ``data_offset``; both in bytes."""

    path: str
    size: int
    data_offset: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def read_instance(path: str) -> StoredInstance:
    """Read what is needed to send a file.

    It is recognised by its content: the preamble and ``DICM``, or, without these, a data set that names its SOP class
    and instance. The data set is not validated: an instance that is cut off is for the peer to judge.

    The data set's own UIDs count, where it begins with them: programs that make files anonymous often leave the old
    ones in the file meta information, and a PACS refuses an instance that is announced as another one.

    Raises
    ------
    NotDicomError
        If it is no DICOM file, or a DICOMDIR.
    UnreadableInputError
        If it is one and cannot be read or sent: no permission, cut off, without its UIDs.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise UnreadableInputError(f"the file cannot be opened ({_why(error)}); check it", path) from None
    try:
        return _checked(_read(path, descriptor))
    except (OSError, ValueError) as error:
        raise UnreadableInputError(f"the file cannot be read ({_why(error)}); check it", path) from None
    finally:
        os.close(descriptor)


def _read(path: str, descriptor: int) -> StoredInstance:
    first = os.read(descriptor, _FIRST_READ)
    size = os.fstat(descriptor).st_size
    if first[128:_PREAMBLE] != b"DICM":
        return _without_meta(path, descriptor, first, size)
    meta, offset = _meta(path, descriptor, first, size)
    sop_class = meta.get(_MEDIA_STORAGE_SOP_CLASS_UID, "")
    sop_instance = meta.get(_MEDIA_STORAGE_SOP_INSTANCE_UID, "")
    syntax = meta.get(_TRANSFER_SYNTAX_UID, "")
    if sop_class == _DICOMDIR:
        raise NotDicomError("it is a DICOMDIR, an index of other files: nothing to send", path)
    if offset >= size:
        raise UnreadableInputError("it ends behind its file meta information: there is no data set to send", path)
    if not (sop_class and sop_instance and syntax):
        return _from_data_set(path, descriptor, offset, size, (sop_class, sop_instance, syntax))
    own = _own_uids(first, syntax, offset)
    sop_class, sop_instance = own.get(SOP_CLASS_UID) or sop_class, own.get(SOP_INSTANCE_UID) or sop_instance
    return StoredInstance(path, size, offset, sop_class, sop_instance, syntax)


def _checked(instance: StoredInstance) -> StoredInstance:
    """Refuse what would cost the other instances their association: DCMTK, and with it Orthanc, aborts at it."""
    uids = (instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
    if max(map(len, uids)) > _LONGEST_UID:
        raise UnreadableInputError(
            f"it has a UID of more than {_LONGEST_UID} characters (PS3.5 section 9.1), which no PACS takes; "
            "export it again",
            instance.path,
        )
    return instance


def _own_uids(first: bytes, syntax: str, offset: int) -> Mapping[int, str]:
    """The SOP class and instance that the data set names, if these stand in what has been read already."""
    try:
        return read_uids(first, syntax, (SOP_CLASS_UID, SOP_INSTANCE_UID), offset)
    except MalformedError:
        return {}


def _meta(path: str, descriptor: int, first: bytes, size: int) -> tuple[Mapping[int, str], int]:
    """Give the UIDs of group 0002 and where it ends; its own length is often wrong or missing, so it is walked."""
    data = first
    while True:
        try:
            return _walk_meta(data)
        except MalformedError:
            if len(data) >= min(size, _LONGEST_META):
                raise UnreadableInputError("it is cut off within its file meta information", path) from None
            more = os.read(descriptor, 8 * len(data))
            if not more:
                raise UnreadableInputError("it became shorter while it was read", path) from None
            data += more


def _walk_meta(data: bytes) -> tuple[Mapping[int, str], int]:
    """Group 0002 is Explicit VR Little Endian whatever follows it (PS3.10 section 7.1)."""
    found: dict[int, str] = {}
    position = _PREAMBLE
    size = len(data)
    while position + 8 <= size:
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 2:
            return found, position
        position += 8
        if vr in _LONG_VRS:
            if position + 4 > size:
                raise MalformedError("it is cut off")
            (length,) = struct.unpack_from("<L", data, position)
            position += 4
        elif not vr.isalpha():
            # Implicit VR, which the Standard forbids here; some writers do it.
            (length,) = struct.unpack_from("<L", data, position - 4)
        end = position + length
        if element in _META_UIDS and end <= size:
            found[element] = data[position:end].decode("ascii", "replace").strip("\0 ")
        position = end
    if position == size and found:
        return found, position
    raise MalformedError("it is cut off")


def _without_meta(path: str, descriptor: int, first: bytes, size: int) -> StoredInstance:
    """Some writers leave out the preamble and the file meta information."""
    if first[:2] not in _FIRST_GROUPS or _guess(first) is None:
        raise NotDicomError("it is no DICOM file: neither a DICM prefix nor a data set at its beginning", path)
    try:
        return _from_data_set(path, descriptor, 0, size, ("", "", ""))
    except UnreadableInputError as error:
        raise NotDicomError(f"it is no DICOM file: no DICM prefix, and {error.message}", path) from None


def _from_data_set(path: str, descriptor: int, offset: int, size: int, known: tuple[str, str, str]) -> StoredInstance:
    """Fill the gaps of the file meta information from the data set itself."""
    sop_class, sop_instance, syntax = known
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        try:
            syntax = syntax or _derive_syntax(path, data, offset)
            if not (sop_class and sop_instance):
                found = read_uids(data, syntax, (SOP_CLASS_UID, SOP_INSTANCE_UID), offset)
                sop_class = sop_class or found.get(SOP_CLASS_UID, "")
                sop_instance = sop_instance or found.get(SOP_INSTANCE_UID, "")
        except MalformedError as error:
            raise UnreadableInputError(f"its data set cannot be read: {error}", path) from None
    if not (sop_class and sop_instance):
        raise UnreadableInputError("it names no SOP Class UID or no SOP Instance UID, so it cannot be sent", path)
    return StoredInstance(path, size, offset, sop_class, sop_instance, syntax)


def _derive_syntax(path: str, data: mmap.mmap, offset: int) -> str:
    """Give the uncompressed transfer syntax that the data set is written in."""
    syntax = _guess(data[offset : offset + 8])
    if syntax is None:
        raise UnreadableInputError("it does not name its transfer syntax, and its data set shows none", path)
    for element in walk(data, Encoding.of(syntax), offset):
        if element.tag == PIXEL_DATA and element.length is None:
            raise UnreadableInputError("its pixel data are compressed and it does not name its transfer syntax", path)
        if element.tag >= PIXEL_DATA:
            break
    return syntax


def _guess(head: bytes) -> str | None:
    """Tell the encoding from the first element."""
    if len(head) < 8:
        return None
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    little, big = struct.unpack_from("<H", head)[0], struct.unpack_from(">H", head)[0]
    if explicit:
        # The first group is a low one, so the order of bytes that makes it lower is the right one.
        return EXPLICIT_VR_LITTLE_ENDIAN if little < big else EXPLICIT_VR_BIG_ENDIAN
    return IMPLICIT_VR_LITTLE_ENDIAN if little < big else None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
