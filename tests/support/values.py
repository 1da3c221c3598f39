"""The values of data sets, compared whatever their transfer syntax is."""

from __future__ import annotations

import zlib
from io import BytesIO

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pacs_tasks.dimse.files.elements import Encoding


def read_encoded(encoded: bytes, syntax: str) -> Dataset:
    """Read an encoded data set without file meta information."""
    if syntax == DeflatedExplicitVRLittleEndian:
        encoded = zlib.decompress(encoded, -zlib.MAX_WBITS)
    encoding = Encoding.of(syntax)
    return read_dataset(BytesIO(encoded), not encoding.explicit, not encoding.big)


def _values(ds: Dataset, *, big: bool) -> list[tuple[object, ...]]:
    """Tags, VRs and values; words as little endian numbers. Group lengths may go."""
    found: list[tuple[object, ...]] = []
    for element in ds:
        value = element.value
        if element.VR == "SQ":
            value = [_values(item, big=big) for item in value]
        elif element.VR == "OW" and big:
            unit = max(2, ds.get("BitsAllocated", 16) // 8 if element.keyword == "PixelData" else 2)
            value = b"".join(value[at : at + unit][::-1] for at in range(0, len(value), unit))
        elif not isinstance(value, bytes):
            value = "" if value is None else str(value)
        # Archives leave out what means nothing: group lengths and the padding at the end.
        if element.tag.element and element.tag != 0xFFFCFFFC:
            found.append((element.tag, str(element.VR), value))
    return found


def _assert_same(one: list[tuple[object, ...]], other: list[tuple[object, ...]]) -> None:
    """Equal where both name the VR: Implicit VR loses those of private elements."""
    assert [each[0] for each in one] == [each[0] for each in other]
    for (tag, vr, value), (_, other_vr, other_value) in zip(one, other, strict=True):
        if vr == other_vr == "SQ":
            for item, other_item in zip(value, other_value, strict=True):  # type: ignore[call-overload]
                _assert_same(item, other_item)
        elif vr == other_vr or isinstance(value, bytes) is isinstance(other_value, bytes):
            assert value == other_value, tag


def assert_same_values(one: Dataset, other: Dataset) -> None:
    """Check that two data sets have the same elements and pixels, apart from group lengths and padding."""
    _assert_same(_values(one, big=_is_big(one)), _values(other, big=_is_big(other)))


def _is_big(ds: Dataset) -> bool:
    _, little_endian = ds.original_encoding
    return little_endian is False
