"""What is decoded without pydicom equals what pydicom decodes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR

from pacs_tasks.dimse.files.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.find.match import decode_by_pydicom, decode_match, decode_plain

CHARSET = 0x0008_0005
STUDY_DATE, STUDY_TIME, ACCESSION_NUMBER, LEVEL, AE_TITLE = (
    0x0008_0020,
    0x0008_0030,
    0x0008_0050,
    0x0008_0052,
    0x0008_0054,
)
MODALITIES, DESCRIPTION, NAME, PATIENT_ID, AGE = 0x0008_0061, 0x0008_1030, 0x0010_0010, 0x0010_0020, 0x0010_1010
WEIGHT, COMMENTS, STUDY_UID, SERIES_NUMBER, ROWS = 0x0010_1030, 0x0010_4000, 0x0020_000D, 0x0020_0011, 0x0028_0010
#: One of each VR that queries name; the last are a sequence, a private element and one that the dictionary lacks.
TAGS = [
    *(
        STUDY_DATE,
        STUDY_TIME,
        ACCESSION_NUMBER,
        LEVEL,
        AE_TITLE,
        MODALITIES,
        DESCRIPTION,
        NAME,
        PATIENT_ID,
        AGE,
        WEIGHT,
    ),
    *(COMMENTS, STUDY_UID, SERIES_NUMBER, 0x0020_1208, ROWS, 0x0028_9001),
    *(0x0008_1110, 0x0040_4005, 0x0009_1001, 0x0070_FFFF),
]
SYNTAXES = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN]
TERMS = ["", "ISO_IR 6", "ISO_IR 100", "ISO_IR 144", "ISO_IR 192", "GB18030", "ISO 2022 IR 58", "ISO_IR_192"]

_text = st.text(st.sampled_from("A1 0.:-+\\=^_19é张三ж\x1b\n\0"), max_size=12)
_value = st.one_of(
    st.sampled_from([b"20240101", b"CT\\SR", b"1.2.840", b"3 ", b" 12", b"-1.5", b"1e3", b"", b"  ", b"\\", b"\0\0"]),
    st.tuples(_text, st.sampled_from(["utf-8", "gb18030", "latin-1"])).map(lambda it: it[0].encode(it[1], "replace")),
    st.binary(max_size=8),
)


def encoded(elements: Sequence[tuple[int, bytes]], syntax: str) -> bytes:
    """Encode elements; a value of odd length is padded."""
    content = b""
    for tag, each in elements:
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            vr = "LO"
        padding = b"\0" if vr == "UI" else b" "
        value = each + padding[: len(each) % 2]
        if syntax == IMPLICIT_VR_LITTLE_ENDIAN:
            content += struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value
        elif vr == "SQ":
            content += struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(value)) + value
        else:
            content += struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
    return content


@given(
    term=st.sampled_from(TERMS),
    fallback=st.sampled_from(["iso8859", "UTF8", "GB18030"]),
    values=st.lists(st.tuples(st.sampled_from(TAGS), _value), max_size=5, unique_by=lambda each: each[0]),
    syntax=st.sampled_from(SYNTAXES),
    end=st.sampled_from([None, -1, -9]),
)
@example(term="", fallback="iso8859", values=[(NAME, b"A^B=\xd5\xc5^\xc8\xfd=")], syntax=SYNTAXES[0], end=None)
@example(
    term="GB18030", fallback="iso8859", values=[(NAME, "張^三\\李^四".encode("gb18030"))], syntax=SYNTAXES[1], end=None
)
@example(term="", fallback="iso8859", values=[(AE_TITLE, b" PACS \\ B ")], syntax=SYNTAXES[0], end=None)
def test_it_equals_pydicom(
    term: str, fallback: str, values: list[tuple[int, bytes]], syntax: str, end: int | None
) -> None:
    """Whatever the values, where there is an answer."""
    content = encoded([(CHARSET, term.encode()), *sorted(values)], syntax)[:end]
    found = decode_plain(content, syntax, fallback)
    if found is not None:
        assert found == decode_by_pydicom(content, syntax, [fallback])


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("term", ["ISO_IR 100", "ISO_IR 192", "GB18030", "ISO_IR 6"])
def test_usual_matches_have_an_answer(term: str, syntax: str) -> None:
    """Those that nearly all PACS send."""
    name = ("Müller^Änne" if term == "ISO_IR 100" else "A^B" if term == "ISO_IR 6" else "张^三").encode(
        {"ISO_IR 192": "utf-8", "GB18030": "gb18030"}.get(term, "latin-1")
    )
    elements = [
        (CHARSET, term.encode()),
        (STUDY_DATE, b"20240115"),
        (STUDY_TIME, b"120000.5"),
        (ACCESSION_NUMBER, b""),
        (LEVEL, b"STUDY"),
        (AE_TITLE, b"PACS"),
        (MODALITIES, b"CT\\SR"),
        (DESCRIPTION, b"Abdomen "),
        (NAME, name),
        (AGE, b"054Y"),
        (WEIGHT, b"71.5"),
        (STUDY_UID, b"1.2.840.1"),
        (SERIES_NUMBER, b"3"),
        (0x0020_1208, b"100 "),
        (ROWS, b"\0\2"),
    ]
    content = encoded(elements, syntax)
    found = decode_plain(content, syntax, "iso8859")
    assert found is not None
    assert found == decode_by_pydicom(content, syntax, ["iso8859"]) == decode_match(content, syntax, "")


@pytest.mark.parametrize(
    "content",
    [
        encoded([(CHARSET, b"ISO 2022 IR 6\\ISO 2022 IR 58"), (NAME, b"A")], SYNTAXES[0]),
        encoded([(NAME, b"\x1b$)A")], SYNTAXES[0]),
        encoded([(SERIES_NUMBER, b"three")], SYNTAXES[0]),
        encoded([(PATIENT_ID, b"1"), (NAME, b"A")], SYNTAXES[0]),
        encoded([(NAME, b"AB")], SYNTAXES[0])[:-1],
        encoded([(0x0008_1110, b"")], SYNTAXES[0]),
    ],
    ids=["code extensions", "escape", "not a number", "not in order", "cut off", "sequence"],
)
def test_unusual_ones_are_left_to_pydicom(content: bytes) -> None:
    assert decode_plain(content, SYNTAXES[0], "iso8859") is None
