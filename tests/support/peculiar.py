"""Instances that are whole and yet unusual, written byte by byte: no library would encode them so."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from tests.support.messages import CT, EXPLICIT, IMPLICIT

BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_ROOT: Final = "2.25.27182818284590"
#: The study of :func:`data_set`.
STUDY_UID: Final = f"{_ROOT}.1"
#: Maximum lengths that peers announce.
MAXIMA: Final = (4_096, 16_384, 131_072)
_LONG_VRS: Final = frozenset((b"OB", b"OW", b"SQ", b"UN", b"UT"))


def element(tag: int, vr: bytes, value: bytes, syntax: str = EXPLICIT) -> bytes:
    """One element, of exactly this value: nothing pads it."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    group, number = tag >> 16, tag & 0xFFFF
    if syntax == IMPLICIT:
        return struct.pack("<HHL", group, number, len(value)) + value
    if vr in _LONG_VRS:
        return struct.pack(f"{order}HH2sxxL", group, number, vr, len(value)) + value
    return struct.pack(f"{order}HH2sH", group, number, vr, len(value)) + value


def data_set(uid: bytes, *others: bytes, syntax: str = EXPLICIT) -> bytes:
    """What an instance needs, and then ``others``; ``uid`` is the value of its SOP Instance UID, padding included."""
    return b"".join(
        (
            element(0x0008_0016, b"UI", CT.encode() + b"\0" * (len(CT) % 2), syntax),
            element(0x0008_0018, b"UI", uid, syntax),
            element(0x0010_0020, b"LO", b"P1", syntax),
            element(0x0020_000D, b"UI", _even(STUDY_UID), syntax),
            element(0x0020_000E, b"UI", _even(f"{_ROOT}.1.1"), syntax),
            *others,
        )
    )


def _even(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def write(path: Path, uid: str, content: bytes, syntax: str = EXPLICIT) -> Path:
    """A DICOM file of this data set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(CT), UID(uid)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(syntax), UID("1.2.3.4")
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + buffer.getvalue() + content)
    return path


def _unusual() -> list[tuple[str, bytes, str]]:
    """SOP Instance UID, data set and transfer syntax of each."""
    odd, even, long = f"{_ROOT}.1.1.1", f"{_ROOT}.1.1.22", f"{_ROOT}." + "7" * (63 - len(_ROOT))
    assert (len(odd) % 2, len(even) % 2, len(long)) == (1, 0, 64)
    found = [
        (odd, data_set(odd.encode() + b"\0"), EXPLICIT),
        (f"{odd}11", data_set(f"{odd}11 ".encode()), EXPLICIT),
        # Two odd values, so that the data set as a whole is even.
        (f"{odd}33", data_set(f"{odd}33".encode(), element(0x0020_0010, b"SH", b"ABC")), EXPLICIT),
        (even, data_set(even.encode()), EXPLICIT),
        (long, data_set(long.encode()), EXPLICIT),
    ]
    for number, syntax in enumerate((EXPLICIT, IMPLICIT, BIG_ENDIAN)):
        uid = f"{even}.1{number}"
        odd_values = (
            element(0x0020_0010, b"SH", b"ABC", syntax),
            element(0x0020_0011, b"IS", b"", syntax),
            element(0x7FE0_0010, b"OW" if number else b"OB", b"\1\2\3", syntax),
        )
        found.append((uid, data_set(_even(uid), *odd_values, syntax=syntax), syntax))
    empty = [element(tag, vr, b"") for tag, vr in ((0x0020_0010, b"SH"), (0x0028_0010, b"US"), (0x7FE0_0010, b"OW"))]
    found.append((f"{even}.41", data_set(_even(f"{even}.41"), *empty), EXPLICIT))
    padded = element(0xFFFC_FFFC, b"OB", bytes(100))
    found.append((f"{even}.51", data_set(_even(f"{even}.51"), element(0x7FE0_0010, b"OW", b"\1\2"), padded), EXPLICIT))
    return found


def unusual(directory: Path) -> list[StoredInstance]:
    """Odd and empty values, UIDs padded in every way, trailing padding; each data set as a whole is even."""
    return [_written(directory, *each) for each in _unusual()]


def at_the_edges(directory: Path) -> list[StoredInstance]:
    """Data sets that end with, right before and right behind the last byte that fits into a PDU."""
    found = []
    for number, maximum in enumerate(MAXIMA):
        for index, size in enumerate((maximum - 8, maximum - 6, maximum - 4, 2 * (maximum - 6))):
            uid = f"{_ROOT}.2.{number + 1}{index + 1}"
            uid += "1" * (len(uid) % 2)
            room = size - len(data_set(uid.encode(), element(0x7FE0_0010, b"OW", b"")))
            content = data_set(uid.encode(), element(0x7FE0_0010, b"OW", (b"%07d\n" % index * (room // 8 + 1))[:room]))
            assert len(content) == size
            found.append(_written(directory, uid, content, EXPLICIT))
    return found


def _written(directory: Path, uid: str, content: bytes, syntax: str) -> StoredInstance:
    return part10.read_instance(str(write(directory / f"{uid}.dcm", uid, content, syntax)))
