"""Find the transfer syntax that a received data set really has (PS3.5 annex A).

Some remotes send an instance in any accepted presentation context, whatever its encoding is. A file that names another
transfer syntax than that of its data set cannot be read, so what is seen here decides: the encoding of the first
element, and whether the pixel data are encapsulated (PS3.5 section A.4).
"""

from __future__ import annotations

import struct
import zlib

from pacs_tasks.dimse.files.elements import (
    DEFLATED,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_DATA,
    SHORT_VRS,
    Data,
    Element,
    Encoding,
    MalformedError,
    find_element,
)

_NATIVE = frozenset((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN))
#: Bytes of a deflated stream that show whether it is one.
SAMPLE = 1 << 10
_PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"
#: Bytes of a codestream in which its markers stand.
_MARKERS = 1 << 12
#: Frames that have no samples of their own: JPIP, whose pixel data stay with a provider.
_WITHOUT_PIXELS = frozenset(("1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95"))
#: The codecs of 1.2.4, RLE, and deflated frames (PS3.6 table A-1).
_ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.")
_FAMILIES = (
    ("4.50", "4.51"),
    ("4.57", "4.70"),
    ("4.80", "4.81"),
    ("4.90", "4.91", "4.92", "4.93"),
    ("4.201", "4.202", "4.203"),
    ("5",),
)
_BY_FRAME = {0xC0: "50", 0xC1: "51"}


class MislabelledError(MalformedError):
    """The data set has another transfer syntax than its label, and none that is known."""


def transfer_syntax_of(data: Data, position: int, label: str) -> str:
    """Give the transfer syntax of a data set: ``label`` unless it is seen to be another one.

    Parameters
    ----------
    data
        The data set, which begins at ``position``.
    label
        The transfer syntax of the presentation context.

    Raises
    ------
    MislabelledError
        If it is seen to be another one that is not known.
    """
    found = _encoding_of(bytes(data[position : position + 8]))
    if label == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        if found is None or is_deflated(data, position):
            return label
        label = EXPLICIT_VR_LITTLE_ENDIAN
    if not (label in _NATIVE or _is_encapsulated(label)):
        return label
    if found is None:
        deflated = label not in DEFLATED and is_deflated(data, position)
        return DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN if deflated else label
    try:
        pixels = find_element(data, found, PIXEL_DATA, position)
    except MalformedError:
        pixels = None
    if pixels is None or pixels.length is not None:
        native = label in _NATIVE or found != Encoding.of(label) or (pixels is not None and pixels.length)
        return _native(found) if native else label
    syntax = _codec(data, pixels) if found == Encoding(explicit=True) else ""
    if _is_encapsulated(label):
        return syntax if _family(syntax) not in {(), _family(label)} else label
    if not syntax:
        raise MislabelledError("compressed pixel data in an uncompressed transfer syntax")
    return syntax


def ends_with_native_pixels(head: bytearray, size: int, label: str) -> bool:
    """Whether a data set of ``size`` bytes is seen at once to be native Little Endian as labelled, as most are."""
    start = {EXPLICIT_VR_LITTLE_ENDIAN: 12, IMPLICIT_VR_LITTLE_ENDIAN: 8}.get(label)
    place = head.find(_PIXEL_DATA_TAG)
    if start is None or place < 0 or (start == 12 and bytes(head[place + 4 : place + 6]) not in {b"OB", b"OW"}):
        return False
    return place + start + int.from_bytes(head[place + start - 4 : place + start], "little") == size


def is_deflated(data: Data, position: int) -> bool:
    """Whether a data set is a deflated one whose first element is seen (PS3.5 section A.5)."""
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(data[position : position + SAMPLE]), 8)
    except zlib.error:
        return False
    return _encoding_of(inflated) is not None


def _is_encapsulated(syntax: str) -> bool:
    """Whether the Standard has the pixel data of a transfer syntax in fragments."""
    return syntax not in _WITHOUT_PIXELS and syntax.startswith(_ENCAPSULATED)


def _family(syntax: str) -> tuple[str, ...]:
    """Give the transfer syntaxes of the same codec; a codestream without loss may stand in a lossy one."""
    number = syntax.removeprefix("1.2.840.10008.1.2.")
    return next((family for family in _FAMILIES if number in family), ())


def _native(encoding: Encoding) -> str:
    if encoding.big:
        return EXPLICIT_VR_BIG_ENDIAN
    return EXPLICIT_VR_LITTLE_ENDIAN if encoding.explicit else IMPLICIT_VR_LITTLE_ENDIAN


def _encoding_of(head: bytes) -> Encoding | None:
    """Give the encoding of the first element, of group 0008 or below; None if it is not seen."""
    if len(head) < 8:
        return None
    little, big = struct.unpack_from("<H", head)[0], struct.unpack_from(">H", head)[0]
    if head[4:6] in SHORT_VRS:
        return Encoding(explicit=True, big=big < little)
    is_implicit = 0 < little <= 8 and struct.unpack_from("<L", head, 4)[0] < _MARKERS
    return Encoding(explicit=False) if is_implicit else None


def _codec(data: Data, pixels: Element) -> str:
    """Give the transfer syntax of encapsulated pixel data by the codestream of their first frame; empty if unknown."""
    position, fragment = pixels.position, b""
    # The first item is the offset table (PS3.5 section A.4).
    for _ in range(2):
        group, element, length = struct.unpack("<HHL", bytes(data[position : position + 8]).ljust(8, b"\0"))
        if (group, element) != (0xFFFE, 0xE000):
            return ""
        fragment = bytes(data[position + 8 : position + 8 + min(length, _MARKERS)])
        position += 8 + length
    number = _jpeg(fragment) or _jpeg_2000(fragment)
    if number:
        return f"1.2.840.10008.1.2.4.{number}"
    segments = struct.unpack("<LL", fragment[:8]) if len(fragment) >= 64 else (0, 0)
    # A header of 64 bytes, with up to 15 segments (PS3.5 section G.5).
    return "1.2.840.10008.1.2.5" if 1 <= segments[0] <= 15 and segments[1] == 64 else ""


def _segments(code: bytes) -> dict[int, bytes]:
    """Give the marker segments of a JPEG or JPEG 2000 codestream up to the first scan or tile, by marker."""
    found: dict[int, bytes] = {}
    position = 2
    while position + 4 <= len(code) and code[position] == 0xFF:
        marker, length = code[position + 1], int.from_bytes(code[position + 2 : position + 4], "big")
        found.setdefault(marker, code[position + 4 : position + 2 + length])
        if marker in {0xDA, 0x90}:
            break
        position += 2 + length
    return found


def _jpeg(code: bytes) -> str:
    """Give the number of a JPEG or JPEG-LS transfer syntax (ISO 10918-1 annex B, ISO 14495-1 annex C)."""
    if code[:2] != b"\xff\xd8":
        return ""
    segments = _segments(code)
    scan = segments.get(0xDA, b"")
    # Behind the components: predictor or nearness.
    parameter = scan[1 + 2 * scan[0]] if scan and len(scan) > 1 + 2 * scan[0] else None
    if 0xC3 in segments and parameter is not None:
        return "70" if parameter == 1 else "57"
    if 0xF7 in segments and parameter is not None:
        return "81" if parameter else "80"
    return next((number for frame, number in _BY_FRAME.items() if frame in segments), "")


def _jpeg_2000(code: bytes) -> str:
    """Give the number of a JPEG 2000 or HTJ2K transfer syntax (ISO 15444-1 annex A)."""
    style = _segments(code).get(0x52, b"") if code[:4] == b"\xff\x4f\xff\x51" else b""
    if len(style) < 10:
        return ""
    reversible, high_throughput = style[9] == 1, 0x50 in _segments(code)
    if high_throughput:
        return "201" if reversible else "203"
    return "90" if reversible else "91"
