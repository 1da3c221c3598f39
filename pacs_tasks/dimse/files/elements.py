"""Walk the elements of an encoded data set without decoding them (PS3.5 section 7)."""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: The data sets of these are deflated (PS3.5 section A.5). Those of JPIP have no pixels (sections A.6 to A.8).
DEFLATED = frozenset((DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"))
#: GE's private transfer syntax: Implicit VR Little Endian, except for the pixel data.
_GE_PRIVATE = "1.2.840.113619.5.2"
_NOT_EXPLICIT_LITTLE = frozenset((IMPLICIT_VR_LITTLE_ENDIAN, _GE_PRIVATE, EXPLICIT_VR_BIG_ENDIAN))

SPECIFIC_CHARACTER_SET = 0x0008_0005
SOP_CLASS_UID = 0x0008_0016
SOP_INSTANCE_UID = 0x0008_0018
QUERY_RETRIEVE_LEVEL = 0x0008_0052
PATIENT_ID = 0x0010_0020
STUDY_INSTANCE_UID = 0x0020_000D
SERIES_INSTANCE_UID = 0x0020_000E
PIXEL_DATA = 0x7FE0_0010
#: Characters of a UID (PS3.5 section 9.1).
LONGEST_UID = 64

ITEM = 0xFFFE_E000
ITEM_END = 0xFFFE_E00D
SEQUENCE_END = 0xFFFE_E0DD
UNDEFINED = 0xFFFF_FFFF
#: VRs with two reserved bytes and a length of four (PS3.5 section 7.1.2).
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
#: VRs with a length of two bytes (PS3.5 table 7.1-2).
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
#: Values of these VRs are padded with a space, all others with a zero byte (PS3.5 section 6.2).
TEXT_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"))
#: The groups of curves, overlays and pixel data begin here.
_BULK_GROUPS = 0x5000
#: Sequences within each other. Each takes three frames of the stack, of which Python has 1,000; no modality nests ten.
DEEPEST = 200
#: More headers than any valid data set has. Walking them takes a few seconds.
_MOST_HEADERS = 1 << 22
#: Elements that the quick readers read before `walk`, which counts headers, continues.
_IN_ONE_GO = 1 << 12
#: Longest value in bytes: enough for a list of 100,000 UIDs.
_LONGEST_VALUE = 1 << 23
#: Longest beginning of a deflated data set that is read, both deflated and inflated, in bytes.
LONGEST_INFLATED = 1 << 20

Data = bytes | bytearray | memoryview | mmap.mmap


def plain(content: bytes) -> str:
    """Decode text from a remote without its padding, safe for logs and terminals: control characters become ``?``."""
    text = content.decode("ascii", "replace").strip("\0 ")
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def uid_of(value: Data) -> str:
    """Decode a UID without its padding."""
    return bytes(value).decode("ascii", "replace").strip("\0 ")


def length_size(vr: bytes, group: int) -> int:
    """Give the bytes of the length that follows in Explicit VR: 4 after two reserved ones, 2, or 0 without a VR.

    A VR that does not exist yet has four (PS3.5 section 7.1.2). What some writers put where they know no VR, such as
    ``??``, has two, as in DCMTK. Other bytes belong to the length of an element in Implicit VR. So do zeroes in front
    of pixel and other bulk data, whose length is often a multiple of 65,536.
    """
    if vr in SHORT_VRS:
        return 2
    if vr in LONG_VRS or (vr.isalpha() and vr.isupper()):
        return 4
    return 2 if vr.isascii() and (vr.decode().isprintable() or (vr == b"\0\0" and group < _BULK_GROUPS)) else 0


class MalformedError(ValueError):
    """The data set cannot be walked further: it is truncated or is not a data set."""


@dataclass(frozen=True)
class Encoding:
    """How the elements of a data set are encoded."""

    explicit: bool
    big: bool = False

    @classmethod
    def of(cls, transfer_syntax_uid: str) -> Encoding:
        """Give the encoding. All others, private ones too, are Explicit VR Little Endian (PS3.5 section A.4)."""
        if transfer_syntax_uid not in _NOT_EXPLICIT_LITTLE:
            return cls(explicit=True)
        big = transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
        return cls(explicit=big, big=big)


_LITTLE, _BIG = (tuple(struct.Struct(order + each).unpack_from for each in ("HH", "H", "L")) for order in "<>")
_EXPLICIT_HEADER = struct.Struct("<HH2sH").unpack_from
_IMPLICIT_HEADER = struct.Struct("<HHL").unpack_from
_EXPLICIT_LENGTH = struct.Struct("<L").unpack_from


@dataclass(frozen=True)
class Element:
    """An element of the outermost level. ``length`` is in bytes, or ``None`` if undefined."""

    tag: int
    position: int
    length: int | None


class Walker:
    """Reads the element headers of one data set."""

    def __init__(self, data: Data, encoding: Encoding) -> None:
        self.data = data
        self.size = len(data)
        self.tag_at, self.short_at, self.long_at = _BIG if encoding.big else _LITTLE
        self.left = _MOST_HEADERS

    def header(self, position: int, explicit: bool) -> tuple[int, int, int]:
        """Give the tag, the length and the position of the value."""
        data = self.data
        if position + 8 > self.size:
            raise MalformedError("it is truncated")
        self.left -= 1
        if self.left < 0:
            raise MalformedError("it has too many elements")
        group, element = self.tag_at(data, position)
        tag = group << 16 | element
        if not explicit or group == 0xFFFE:
            return tag, self.long_at(data, position + 4)[0], position + 8
        vr = bytes(data[position + 4 : position + 6])
        size = 2 if vr in SHORT_VRS else length_size(vr, group)
        if size == 2:
            return tag, self.short_at(data, position + 6)[0], position + 8
        if size == 0:
            return tag, self.length_without_vr(position), position + 8
        if position + 12 > self.size:
            raise MalformedError("it is truncated")
        return tag, self.long_at(data, position + 8)[0], position + 12

    def length_without_vr(self, position: int) -> int:
        """Give the length of an element without a VR in an explicit data set.

        Some writers put Implicit VR elements there; pydicom accepts these too.
        """
        return int(self.long_at(self.data, position + 4)[0])

    def skip(self, position: int, explicit: bool, depth: int = 0) -> int:
        """Give the position after the sequence delimiter of a value of undefined length (PS3.5 section 7.5).

        A UN value of undefined length is a sequence in Implicit VR Little Endian (PS3.5 section 6.2.2).
        """
        if depth > DEEPEST:
            raise MalformedError(f"its sequences are nested more than {DEEPEST} deep")
        while True:
            tag, length, position = self.header(position, explicit=True)
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM:
                raise MalformedError("a sequence contains something other than items")
            position = self.skip_item(position, explicit, depth) if length == UNDEFINED else position + length

    def skip_item(self, position: int, explicit: bool, depth: int) -> int:
        """Give the position after the delimiter of an item of undefined length."""
        while True:
            tag, length, value = self.header(position, explicit)
            if tag == ITEM_END:
                return value
            position = self.after(position, length, value, explicit, depth + 1)

    def after(self, position: int, length: int, value: int, explicit: bool, depth: int = 0) -> int:
        """Give the position after the value of the element that has its header at ``position``."""
        if length != UNDEFINED:
            return value + length
        if not explicit or not self.unknown(position):
            return self.skip(value, explicit, depth)
        with self.little_endian():
            return self.skip(value, explicit=False, depth=depth)

    @contextmanager
    def little_endian(self) -> Iterator[None]:
        """Read numbers as in a UN value of undefined length, which is Implicit VR Little Endian in any data set."""
        readers = self.tag_at, self.short_at, self.long_at
        self.tag_at, self.short_at, self.long_at = _LITTLE
        try:
            yield
        finally:
            self.tag_at, self.short_at, self.long_at = readers

    def unknown(self, position: int) -> bool:
        """Whether the Explicit VR element with its header at ``position`` has the VR UN."""
        return self.data[position + 4 : position + 6] == b"UN"


def walk(data: Data, encoding: Encoding, position: int = 0) -> Iterator[Element]:
    """Yield the elements of the outermost level in order.

    Raises
    ------
    MalformedError
        If the data set is truncated or is not a data set.
    """
    yield from outermost(Walker(data, encoding), encoding, position, len(data))


def outermost(walker: Walker, encoding: Encoding, position: int, size: int) -> Iterator[Element]:
    """Do the same as :func:`walk`, for the data set of ``size`` bytes that a walker reads."""
    while position < size:
        tag, length, value = walker.header(position, encoding.explicit)
        if length == UNDEFINED:
            yield Element(tag, value, None)
            if tag == PIXEL_DATA:
                return
            position = walker.after(position, length, value, encoding.explicit)
        else:
            yield Element(tag, value, length)
            position = value + length
    if position > size:
        raise MalformedError("it is truncated")


def items(data: Data, encoding: Encoding, sequence: Element) -> Iterator[memoryview]:
    """Yield the items of a sequence that :func:`walk` found; each is a data set (PS3.5 section 7.5).

    Raises
    ------
    MalformedError
        If an item is truncated, or the sequence contains something else.
    """
    walker = Walker(data, encoding)
    whole, position = memoryview(data), sequence.position
    end = walker.size if sequence.length is None else position + sequence.length
    while position < end:
        tag, length, value = walker.header(position, explicit=True)
        if tag == SEQUENCE_END:
            return
        if tag != ITEM:
            raise MalformedError("a sequence contains something other than items")
        if length == UNDEFINED:
            position = walker.skip_item(value, encoding.explicit, 0)
            # The delimiter takes eight bytes.
            yield whole[value : position - 8]
        else:
            position = value + length
            yield whole[value:position]
    if position > min(end, walker.size):
        raise MalformedError("it is truncated")


def read_uids(data: Data, transfer_syntax_uid: str, wanted: Collection[int], position: int = 0) -> dict[int, str]:
    """Read UIDs from the outermost level. UIDs that the data set does not have are left out.

    Parameters
    ----------
    data
        The beginning of an encoded data set, or all of it.
    wanted
        Tags as numbers, ``ggggeeee``.

    Raises
    ------
    MalformedError
        If the data end, or stop making sense, before the place of the last wanted element.
    """
    if transfer_syntax_uid in DEFLATED:
        data, position = inflate(data, position), 0
    found: dict[int, str] = {}
    if transfer_syntax_uid not in _NOT_EXPLICIT_LITTLE:
        position = _read_plain_explicit(data, wanted, position, found)
    elif transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN:
        position = _read_plain_implicit(data, wanted, position, found)
    if len(found) < len(wanted):
        encoding = Encoding.of(transfer_syntax_uid)
        _walk_uids(Walker(data, encoding), encoding, wanted, position, found)
    return found


def find_element(data: Data, encoding: Encoding, wanted: int, position: int = 0) -> Element | None:
    """Find an element of the outermost level; None if the data set does not have it.

    Raises
    ------
    MalformedError
        If the data end, or stop making sense, before its place.
    """
    if encoding == Encoding(explicit=True):
        position = _read_plain_explicit(data, (wanted,), position, {})
    elif not encoding.explicit:
        position = _read_plain_implicit(data, (wanted,), position, {})
    for element in walk(data, encoding, position):
        if element.tag >= wanted:
            return element if element.tag == wanted else None
    return None


class _TolerantWalker(Walker):
    """Reads past the usual flaws of a data set.

    Parameters
    ----------
    odd_is_short
        The length of an element whose VR is none has two bytes, as DCMTK reads it, and not four.
    unknown_is_explicit
        The items of a sequence with the VR UN are in Explicit VR, which PS3.5 section 6.2.2 forbids.
    """

    def __init__(self, data: Data, encoding: Encoding, *, odd_is_short: bool, unknown_is_explicit: bool) -> None:
        super().__init__(data, encoding)
        self._odd_is_short, self._unknown_is_explicit = odd_is_short, unknown_is_explicit

    def header(self, position: int, explicit: bool) -> tuple[int, int, int]:
        tag, length, value = super().header(position, explicit)
        vr = bytes(self.data[position + 4 : position + 6])
        if explicit and self._odd_is_short and tag >> 16 != 0xFFFE and not (vr.isalpha() and vr.isupper()):
            (length,) = self.short_at(self.data, position + 6)
        return tag, length, value

    def unknown(self, position: int) -> bool:
        return not self._unknown_is_explicit and super().unknown(position)


def read_uids_anyhow(
    data: Data, transfer_syntax_uid: str, wanted: Collection[int], position: int = 0
) -> dict[int, str]:
    """Read UIDs from a malformed data set as :func:`read_uids`, as many as any reading of it finds. Never raises."""
    declared = Encoding.of(transfer_syntax_uid)
    others = (Encoding(explicit=not declared.explicit), Encoding(explicit=True), Encoding(explicit=True, big=True))
    encodings = dict.fromkeys((declared, *others))
    readings = product(_contents(data, position), encodings, (False, True), (False, True))
    best: dict[int, str] = {}
    # All readings together take no longer than one of the largest data set.
    left = _MOST_HEADERS
    for (content, start), encoding, odd_is_short, unknown_is_explicit in readings:
        found: dict[int, str] = {}
        walker = _TolerantWalker(content, encoding, odd_is_short=odd_is_short, unknown_is_explicit=unknown_is_explicit)
        walker.left = left
        with suppress(MalformedError):
            _walk_uids(walker, encoding, wanted, start, found)
        left = walker.left
        if len(found) > len(best):
            best = found
    return best


def names_instance(data: Data, sop_instance_uid: str, position: int = 0) -> bool:
    """Whether a data set that cannot be walked to its SOP Instance UID has this one somewhere at its beginning."""
    # A length of two bytes behind the VR, one of four without it, or one of four behind it.
    pattern = rb"(?:\x08\0\x18\0|\0\x08\0\x18)(?:UI\0\0)?.{4}" + re.escape(sop_instance_uid.encode()) + rb"(?![0-9.])"
    search = re.compile(pattern, re.DOTALL).search
    return any(search(each, start, start + LONGEST_INFLATED) is not None for each, start in _contents(data, position))


def _contents(data: Data, position: int) -> list[tuple[Data, int]]:
    """Give a data set of any label, and what it inflates to if it is deflated."""
    with suppress(MalformedError):
        return [(inflate(data, position), 0), (data, position)]
    return [(data, position)]


def _walk_uids(
    walker: Walker, encoding: Encoding, wanted: Collection[int], position: int, found: dict[int, str]
) -> None:
    last, data = max(wanted), walker.data
    for element in outermost(walker, encoding, position, walker.size):
        if element.tag > last:
            return
        if element.tag not in wanted or element.length is None:
            continue
        end = element.position + element.length
        if end > len(data):
            raise MalformedError("it is truncated")
        if element.length > _LONGEST_VALUE:
            raise MalformedError("a UID is far too long")
        found[element.tag] = uid_of(data[element.position : end])
        if len(found) == len(wanted):
            return


def _read_plain_explicit(data: Data, wanted: Collection[int], position: int, found: dict[int, str]) -> int:
    """Read Explicit VR Little Endian with defined lengths, which nearly all files have, four times as fast as `walk`.

    Returns
    -------
    The position where `walk` must continue. All elements before it are complete.
    """
    last, size = max(wanted), len(data)
    for _ in range(_IN_ONE_GO):
        if position + 12 > size or len(found) == len(wanted):
            break
        group, number, vr, length = _EXPLICIT_HEADER(data, position)
        tag = group << 16 | number
        if tag > last:
            break
        if vr in SHORT_VRS:
            end = position + 8 + length
            if end > size:
                break
            if tag in wanted:
                found[tag] = uid_of(data[position + 8 : end])
        elif vr in LONG_VRS and tag not in wanted:
            (length,) = _EXPLICIT_LENGTH(data, position + 8)
            end = position + 12 + length
            if end > size:
                break
        else:
            break
        position = end
    return position


def _read_plain_implicit(data: Data, wanted: Collection[int], position: int, found: dict[int, str]) -> int:
    """Do the same for Implicit VR Little Endian."""
    last, size = max(wanted), len(data)
    for _ in range(_IN_ONE_GO):
        if position + 8 > size or len(found) == len(wanted):
            break
        group, number, length = _IMPLICIT_HEADER(data, position)
        tag = group << 16 | number
        end = position + 8 + length
        # An undefined length always exceeds the end.
        if tag > last or end > size:
            break
        if tag in wanted:
            if length > _LONGEST_VALUE:
                break
            found[tag] = uid_of(data[position + 8 : end])
        position = end
    return position


def inflate(data: Data, position: int) -> bytes:
    """Inflate the beginning of a deflated data set (PS3.5 section A.5)."""
    beginning = bytes(data[position : position + LONGEST_INFLATED])
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(beginning, LONGEST_INFLATED)
    except zlib.error:
        raise MalformedError("it cannot be inflated") from None


def encode_implicit(elements: Mapping[int, str | bytes]) -> bytes:
    """Encode elements in Implicit VR Little Endian, in ascending order of their tags (PS3.5 section 7.1).

    Parameters
    ----------
    elements
        Values by tag. A string holds one or several UIDs and is padded with a zero byte, bytes are padded with a
        space (PS3.5 section 6.2).
    """
    parts = []
    for tag, value in sorted(elements.items()):
        encoded, padding = (value.encode("ascii", "replace"), b"\0") if isinstance(value, str) else (value, b" ")
        encoded += padding * (len(encoded) % 2)
        parts.append(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(encoded)) + encoded)
    return b"".join(parts)
