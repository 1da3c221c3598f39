"""Damaged files are found before they are sent, with the element and its offset; what PACS accept is sound."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from pacs_tasks.dimse.files.damage import judged
from pacs_tasks.dimse.files.data_set import DataSetFile
from pacs_tasks.dimse.files.part10 import AS_IT_IS, StoredInstance, read_instance
from pacs_tasks.errors import DamagedFileError
from tests.support import dicom_files
from tests.support.peculiar import data_set, element, write

UID = "1.2.3.4"
VALUE = b"1.2.3.4\0"
UNDEFINED = 0xFFFF_FFFF
JPEG = b"\xff\xd8" + b"\x11" * 60 + b"\xff\xd9"
SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
#: Files of pydicom that DCMTK cannot read either.
DAMAGED = {"MR_truncated.dcm", "SC_rgb_jpeg.dcm", "rtplan_truncated.dcm"}


def item(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content) if length is None else length) + content


def undefined(tag: int, vr: bytes, content: bytes) -> bytes:
    """An element of undefined length."""
    return struct.pack("<HH2sxxL", tag >> 16, tag & 0xFFFF, vr, UNDEFINED) + content


def sequence(content: bytes) -> bytes:
    return element(0x0040_0275, b"SQ", content)


def pixels(syntax: str = ExplicitVRLittleEndian) -> bytes:
    return element(0x7FE0_0010, b"OW", bytes(128), syntax)


def encapsulated(*end: bytes) -> bytes:
    return undefined(0x7FE0_0010, b"OB", b"".join((item(b""), item(JPEG), *end)))


def native(*others: bytes, syntax: str = ExplicitVRLittleEndian) -> bytes:
    return data_set(VALUE, *others, pixels(syntax), syntax=syntax)


def nested(number: int) -> bytes:
    content = b""
    for _ in range(number):
        content = undefined(0x0040_A730, b"SQ", item(content + ITEM_END, UNDEFINED) + SEQUENCE_END)
    return content


def unknown(syntax: str) -> bytes:
    """A sequence whose VR is UN: in Implicit VR Little Endian whatever is around it (PS3.5 section 6.2.2)."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    inner = element(0x0008_0050, b"", b"A1", ImplicitVRLittleEndian)
    items = item(inner) + item(inner + ITEM_END, UNDEFINED) + SEQUENCE_END
    return struct.pack(f"{order}HH2sxxL", 0x0041, 0x1010, b"UN", UNDEFINED) + items


def odd_vr(vr: bytes) -> bytes:
    return struct.pack("<HH2sH", 0x0040, 0x0310, vr, 4) + b"TEXT"


INNER = element(0x0008_0050, b"SH", b"A1")
IMPLICIT = native(syntax=ImplicitVRLittleEndian)
EXPLICIT = native()
DEFLATED = zlib.compress(EXPLICIT, wbits=-zlib.MAX_WBITS)
LAYOUTS = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
}
#: What may be wrong inside a deflated data set, and what is said of it.
INSIDE = {
    "cut off in its pixel data": (EXPLICIT[:-40], r"truncated, at element \(7FE0,0010\)"),
    "implicit": (IMPLICIT, r"no value representation .* \(0008,0016\) \(byte 0 "),
    "text": (b"This is plain text. " * 40, "truncated"),
    "JPEG": (data_set(VALUE, encapsulated(SEQUENCE_END)), "are compressed"),
    "zeroes": (data_set(VALUE) + bytes(800), "zeroes"),
    "long and cut off": (native(element(0x0009_1010, b"OB", bytes(2_000_000)))[:-40], "truncated"),
}
#: Data sets, the transfer syntax that their files declare, and what is said of them.
BROKEN = {
    "cut off in its pixel data": (EXPLICIT[:-40], ExplicitVRLittleEndian, r"truncated, at element \(7FE0,0010\)"),
    "cut off in a header": (EXPLICIT[:-134], ExplicitVRLittleEndian, r"truncated, at element \(0020,000E\)"),
    "cut off in a sequence": (native(sequence(item(INNER)))[:-145], ExplicitVRLittleEndian, r"\(0040,0275\)"),
    "deflated and cut off": (DEFLATED[:-10], DeflatedExplicitVRLittleEndian, "breaks off"),
    **{
        f"deflated and {name}": (
            zlib.compress(content, wbits=-zlib.MAX_WBITS),
            DeflatedExplicitVRLittleEndian,
            f"once it is inflated.*{says}",
        )
        for name, (content, says) in INSIDE.items()
    },
    "deflated, not explicit": (DEFLATED, ExplicitVRLittleEndian, "encoded in Deflated Explicit VR"),
    "deflated, not JPEG": (DEFLATED, JPEGBaseline8Bit, "encoded in Deflated Explicit VR"),
    "random, not explicit": (
        b"\x9d\xb4\x91\xa7\xe3\xf1\xa9\xcc" * 40,
        ExplicitVRLittleEndian,
        "not encoded in Explicit",
    ),
    "an impossible length": (b"\x08\0\0\0\xff\xff\xff\x6f" * 40, ExplicitVRLittleEndian, "not encoded in Explicit"),
    "implicit, not explicit": (IMPLICIT, ExplicitVRLittleEndian, "encoded in Implicit VR"),
    "implicit, not JPEG": (IMPLICIT, JPEGBaseline8Bit, "encoded in Implicit VR Little Endian, while .* JPEG Baseline"),
    "explicit, not implicit": (EXPLICIT, ImplicitVRLittleEndian, "encoded in Explicit VR Little Endian"),
    "big endian, not little": (native(syntax=ExplicitVRBigEndian), ExplicitVRLittleEndian, "in Explicit VR Big"),
    "little endian, not big": (EXPLICIT, ExplicitVRBigEndian, "in Explicit VR Little"),
    "not deflated": (EXPLICIT, DeflatedExplicitVRLittleEndian, "not deflated"),
    "native, not JPEG": (EXPLICIT, JPEGBaseline8Bit, r"not encapsulated.*\(7FE0,0010\)"),
    "JPEG, not native": (data_set(VALUE, encapsulated(SEQUENCE_END)), ExplicitVRLittleEndian, "are compressed"),
    "without a delimiter": (data_set(VALUE, encapsulated()), JPEGBaseline8Bit, r"\(FFFE,E000\) in \(7FE0,0010\)"),
    "with zeroes for it": (data_set(VALUE, encapsulated(bytes(8))), JPEGBaseline8Bit, "other than fragments"),
    "a value too long": (
        native(struct.pack("<HH2sH", 0x0040, 0x0310, b"LO", 60_000)),
        ExplicitVRLittleEndian,
        r"truncated, at element \(0040,0310\)",
    ),
    "an implicit element inside": (
        native(struct.pack("<HHL", 0x40, 0x310, 4) + b"TEXT"),
        ExplicitVRLittleEndian,
        "no value",
    ),
    "an item too long": (native(sequence(item(INNER, 40))), ExplicitVRLittleEndian, r"item, at .*\(0040,0275\)"),
    "an element longer than its item": (
        native(sequence(item(INNER[:-4] + b"\x28\0A1"))),
        ExplicitVRLittleEndian,
        r"item, at element \(0008,0050\) in \(0040,0275\)",
    ),
    "no items in a sequence": (native(sequence(b"garbage!")), ExplicitVRLittleEndian, "other than items"),
    "a delimiter outside": (native(SEQUENCE_END), ExplicitVRLittleEndian, "outside of a sequence"),
    "201 sequences deep": (native(nested(201)), ExplicitVRLittleEndian, "nested more than 200 deep"),
    **{
        f"zeroes to the end, {name}": (data_set(VALUE, syntax=syntax) + bytes(800), syntax, r"zeroes .* \(0000,0000\)")
        for name, syntax in LAYOUTS.items()
    },
    **{
        f"zeroes in front of pixels, {name}": (native(bytes(64), syntax=syntax), syntax, r"zeroes .* \(0000,0000\)")
        for name, syntax in LAYOUTS.items()
    },
    **{
        f"a command element, {name}": (
            native(element(0x0000_0002, b"UI", b"1.2\0", syntax), syntax=syntax),
            syntax,
            r"command element .* \(0000,0002\)",
        )
        for name, syntax in LAYOUTS.items()
    },
    "zeroes in an item": (
        native(sequence(item(INNER + bytes(8)))),
        ExplicitVRLittleEndian,
        r"zeroes .* \(0000,0000\) in \(0040,0275\)",
    ),
    **{
        f"{count} bytes behind it": (
            EXPLICIT + b"\1" * count,
            ExplicitVRLittleEndian,
            r"last element, \(7FE0,0010\), ends at byte \d+ of the file, and what follows",
        )
        for count in (1, 2, 4, 7)
    },
    "bytes behind fragments": (
        data_set(VALUE, encapsulated(SEQUENCE_END)) + b"\1\1",
        JPEGBaseline8Bit,
        r"last element, \(7FE0,0010\), ends",
    ),
    "text behind it": (EXPLICIT + b"no element at all!", ExplicitVRLittleEndian, "truncated"),
}
#: Data sets that are unusual and that DCMTK reads all the same.
SOUND = {
    "explicit": (EXPLICIT, ExplicitVRLittleEndian),
    "implicit": (IMPLICIT, ImplicitVRLittleEndian),
    "big endian": (native(syntax=ExplicitVRBigEndian), ExplicitVRBigEndian),
    "deflated and long": (
        zlib.compress(
            native(*[element(0x0009_1010, b"OB", bytes(number)) + unknown("") for number in range(2, 2000, 2)]),
            wbits=-zlib.MAX_WBITS,
        ),
        DeflatedExplicitVRLittleEndian,
    ),
    "deflated": (DEFLATED, DeflatedExplicitVRLittleEndian),
    "JPEG": (data_set(VALUE, encapsulated(SEQUENCE_END)), JPEGBaseline8Bit),
    "out of order": (EXPLICIT + element(0x0008_0070, b"LO", b"LATE"), ExplicitVRLittleEndian),
    "twice the same": (native(INNER, INNER), ExplicitVRLittleEndian),
    **{f"zeroes behind it, {name}": (native(syntax=syntax) + bytes(64), syntax) for name, syntax in LAYOUTS.items()},
    "200 sequences deep": (native(nested(200)), ExplicitVRLittleEndian),
    "two odd values": (native(*[element(0x0040_0310, b"LO", b"ODD")] * 2), ExplicitVRLittleEndian),
    "sequences of both kinds": (
        native(sequence(item(INNER)), undefined(0x0040_A730, b"SQ", item(INNER + ITEM_END, UNDEFINED) + SEQUENCE_END)),
        ExplicitVRLittleEndian,
    ),
    "an implicit sequence": (
        native(
            element(
                0x0040_0275, b"", item(element(0x0008_0050, b"", b"A1", ImplicitVRLittleEndian)), ImplicitVRLittleEndian
            ),
            syntax=ImplicitVRLittleEndian,
        ),
        ImplicitVRLittleEndian,
    ),
    **{
        f"an unknown sequence, {name}": (
            native(unknown(syntax), syntax=syntax),
            syntax,
        )
        for name, syntax in LAYOUTS.items()
        if syntax != ImplicitVRLittleEndian
    },
    "a VR of the future": (
        native(element(0x0040_0310, b"OB", b"TEXT").replace(b"OB", b"ZZ", 1)),
        ExplicitVRLittleEndian,
    ),
    **{f"the VR {vr!r}": (native(odd_vr(vr)), ExplicitVRLittleEndian) for vr in (b"??", b"  ", b"\0\0", b"lo", b"L1")},
    **{
        f"deflated, by JPIP {number}": (zlib.compress(data_set(VALUE), wbits=-15), f"1.2.840.10008.1.2.4.{number}")
        for number in (95, 205)
    },
    "Papyrus, which is implicit": (IMPLICIT, "1.2.840.10008.1.20"),
    "a private transfer syntax": (b"".join((EXPLICIT, b"anything")), "1.2.3.4.5"),
}


def stored(directory: Path, content: bytes, syntax: str) -> StoredInstance:
    return read_instance(str(write(directory / "a.dcm", UID, content, syntax)))


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_named_with_its_fault(name: str, tmp_path: Path) -> None:
    """The message names the element and its offset and the way to send it all the same, but no path."""
    content, syntax, says = BROKEN[name]
    with pytest.raises(DamagedFileError, match=says) as caught:
        judged(stored(tmp_path, content, syntax))
    assert caught.value.subject == str(tmp_path / "a.dcm")
    assert str(tmp_path) not in caught.value.message
    assert "byte" in caught.value.message
    assert "--send-damaged" in caught.value.message


@pytest.mark.parametrize("name", SOUND)
def test_what_pacs_accept_is_sound(name: str, tmp_path: Path) -> None:
    """Unusual data sets that DCMTK can read are sent as they are."""
    instance = stored(tmp_path, *SOUND[name])
    assert judged(instance) == instance


@pytest.mark.parametrize("path", dicom_files.sendable(), ids=lambda path: path.name)
def test_every_shipped_file_is_judged_as_dcmtk_judges_it(path: Path) -> None:
    """Of all that pydicom ships, those files are damaged that DCMTK cannot read."""
    instance = read_instance(str(path))
    if path.name in DAMAGED:
        with pytest.raises(DamagedFileError):
            judged(instance)
    else:
        assert judged(instance) == instance


def test_the_offset_is_that_of_the_element(tmp_path: Path) -> None:
    """It counts from the beginning of the file, as an editor of bytes does."""
    instance = stored(tmp_path, EXPLICIT[:-40], ExplicitVRLittleEndian)
    at = Path(instance.path).read_bytes().index(b"\xe0\x7f\x10\0OW")
    with pytest.raises(DamagedFileError, match=rf"byte {at} of the file"):
        judged(instance)


ODD = b"\1" * 63
#: The last element: its tag, VR, odd value and transfer syntax, and the byte that pads it.
LAST = {
    "pixels": (0x7FE0_0010, b"OW", ODD, ExplicitVRLittleEndian, b"\0"),
    "text": (0x0040_0310, b"LO", b"ODD", ExplicitVRLittleEndian, b" "),
    "UID": (0x0040_0310, b"UI", b"1.2", ExplicitVRLittleEndian, b"\0"),
    "implicit text": (0x0010_4000, b"", b"ODD", ImplicitVRLittleEndian, b" "),
    "implicit pixels": (0x7FE0_0010, b"", ODD, ImplicitVRLittleEndian, b"\0"),
    "big endian": (0x7FE0_0010, b"OW", ODD, ExplicitVRBigEndian, b"\0"),
}


@pytest.mark.parametrize("name", LAST)
def test_an_odd_last_value_is_named_and_padded(name: str, tmp_path: Path) -> None:
    """The even length is sent with it, whatever the slices that are read."""
    tag, vr, value, syntax, pad = LAST[name]
    content = data_set(VALUE, syntax=syntax)
    instance = stored(tmp_path, content + element(tag, vr, value, syntax), syntax)
    with pytest.raises(DamagedFileError, match=r"odd length .* --repair"):
        judged(instance)
    repaired = judged(instance, repair=True)
    for step in (1, 7, 1 << 20):
        with DataSetFile(repaired) as file:
            sent = b"".join(file[start : start + step] for start in range(0, len(file), step))
        assert sent == content + element(tag, vr, value + pad, syntax)


def test_an_odd_value_inside_is_named(tmp_path: Path) -> None:
    """Only a last value can be padded; another one, or a fragment of pixel data, is named."""
    for content, syntax, says in (
        (native(element(0x0040_0310, b"LO", b"ODD")), ExplicitVRLittleEndian, r"\(0040,0310\)"),
        (
            data_set(VALUE, encapsulated(item(b"odd"), SEQUENCE_END)),
            JPEGBaseline8Bit,
            r"\(FFFE,E000\) in \(7FE0,0010\)",
        ),
    ):
        instance = stored(tmp_path, content, syntax)
        for repair in (False, True):
            with pytest.raises(DamagedFileError, match=rf"Element {says} .* odd length"):
                judged(instance, repair=repair)


ODD_INNER = element(0x0008_0100, b"SH", b"ODD")
ODD_IMPLICIT = element(0x0008_0100, b"", b"ODD", ImplicitVRLittleEndian)
#: Sequences of defined length that end with an odd value, their transfer syntaxes, and the element that is named.
ODD_SEQUENCES = {
    "explicit": (sequence(item(ODD_INNER)), ExplicitVRLittleEndian, r"\(0008,0100\) in \(0040,0275\)"),
    "implicit": (
        element(0x0040_0275, b"", item(ODD_IMPLICIT), ImplicitVRLittleEndian),
        ImplicitVRLittleEndian,
        r"\(0008,0100\) in \(0040,0275\)",
    ),
    "private": (
        element(0x0041_1010, b"", item(ODD_IMPLICIT), ImplicitVRLittleEndian),
        ImplicitVRLittleEndian,
        r"\(0041,1010\)",
    ),
    "unknown": (element(0x0041_1010, b"UN", item(ODD_IMPLICIT)), ExplicitVRLittleEndian, r"\(0041,1010\)"),
    "big endian": (
        element(0x0040_0275, b"SQ", b"\xff\xfe\xe0\0\0\0\0\x0b\0\x08\1\0SH\0\3ODD", ExplicitVRBigEndian),
        ExplicitVRBigEndian,
        r"\(0008,0100\) in \(0040,0275\)",
    ),
}


@pytest.mark.parametrize("name", ODD_SEQUENCES)
def test_a_last_sequence_is_not_padded(name: str, tmp_path: Path) -> None:
    """A byte behind it would leave its items odd, and nothing could read it."""
    last, syntax, says = ODD_SEQUENCES[name]
    instance = stored(tmp_path, data_set(VALUE, syntax=syntax) + last, syntax)
    for repair in (False, True):
        with pytest.raises(DamagedFileError, match=rf"Element {says} .* odd length .* only a last element"):
            judged(instance, repair=repair)


def test_what_is_sent_damaged_is_sent_as_it_is(tmp_path: Path) -> None:
    """An odd number of bytes too."""
    content = EXPLICIT[:-41]
    instance = StoredInstance(**{**vars(stored(tmp_path, content, ExplicitVRLittleEndian)), "padding": AS_IT_IS})
    with DataSetFile(instance) as file:
        assert file[: len(file)] == content


def test_study_and_series_are_known_behind_a_long_element(tmp_path: Path) -> None:
    """Also where the first block that is sent ends before them."""
    content = data_set(VALUE)
    at = content.index(b"\x20\0\x0d\0")
    long = element(0x0019_1010, b"OB", bytes(3_000_000))
    instance = stored(tmp_path, content[:at] + long + content[at:], ExplicitVRLittleEndian)
    with DataSetFile(instance) as file:
        assert [file[start : start + 1_048_576] for start in range(0, len(file), 1_048_576)]
        assert all(file.series().values())


def test_large_values_are_not_read(tmp_path: Path) -> None:
    """A file with a hole of 8 GB is judged at once."""
    path = dicom_files.write_large(tmp_path / "a.dcm", 4_000_000_000)
    instance = read_instance(str(path))
    assert judged(instance) == instance
