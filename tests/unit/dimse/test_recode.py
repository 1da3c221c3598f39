"""Data sets in another encoding: every value as it was, at any length, in any order of bytes."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)

from pacs_tasks.dimse.files import decoder, decompress, recode
from pacs_tasks.dimse.files.data_set import ConvertedFile
from pacs_tasks.dimse.files.decoder import Answer
from pacs_tasks.dimse.files.elements import DEEPEST, Encoding, MalformedError
from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.dimse.files.recode import Recoded
from pacs_tasks.errors import UnreadableInputError
from tests.support import dicom_files
from tests.support.dicom_files import rounds
from tests.support.peculiar import write
from tests.support.values import assert_same_values, read_encoded

_TARGETS = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_DAMAGED = ("MR_truncated.dcm", "rtplan_truncated.dcm")


def _shipped() -> list[StoredInstance]:
    """One file of each SOP class in each uncompressed syntax, and those whose names promise something odd."""
    found: dict[object, StoredInstance] = {}
    for each in (instance for some in rounds() for instance in some):
        if each.transfer_syntax_uid in _TARGETS and not each.path.endswith(_DAMAGED):
            odd = any(word in each.path for word in ("UN", "priv", "nest", "seq", "odd", "VR", "32", "rtdose", "empty"))
            key = each.path if odd else (each.sop_class_uid, each.transfer_syntax_uid)
            found.setdefault(key, each)
    return list(found.values())


@pytest.mark.parametrize("syntax", _TARGETS)
def test_every_shipped_file_keeps_its_values(syntax: str) -> None:
    """From each uncompressed syntax to each other, pydicom reads the same elements and pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these files are there because they break rules
        for instance in _shipped():
            with ConvertedFile(instance, syntax) as file:
                encoded = b"".join(file[at : at + 1000] for at in range(0, len(file), 1000))
            before = dcmread(instance.path, force=True)
            assert_same_values(before, read_encoded(encoded, syntax))


def _element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    long = vr in {"OB", "OW", "SQ", "UN", "UT"}
    head = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), 0 if long else len(value))
    return head + (struct.pack("<L", len(value) if length is None else length) if long else b"") + value


def _implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


_UNDEFINED = 0xFFFF_FFFF


def _item(content: bytes, *, defined: bool) -> bytes:
    if defined:
        return _implicit(0xFFFE_E000, content)
    return _implicit(0xFFFE_E000, content + _implicit(0xFFFE_E00D, b""), _UNDEFINED)


def _nested(*, item_defined: bool, sequence_defined: bool, explicit: bool) -> bytes:
    """A sequence in a sequence, with numbers and text in both, and a private block between two short elements."""

    def one(tag: int, vr: str, value: bytes) -> bytes:
        return _element(tag, vr, value) if explicit else _implicit(tag, value)

    def sequence(tag: int, content: bytes) -> bytes:
        if sequence_defined:
            return one(tag, "SQ", content)
        content += _implicit(0xFFFE_E0DD, b"")
        return _element(tag, "SQ", content, _UNDEFINED) if explicit else _implicit(tag, content, _UNDEFINED)

    inner = sequence(0x0008_1199, _item(one(0x0028_0010, "US", b"\x34\x12"), defined=item_defined))
    items = _item(inner, defined=item_defined) + _item(b"", defined=item_defined)
    private = one(0x0009_0010, "LO", b"NOBODY KNOWS") + one(0x0009_1001, "UN", b"\1\2\3\4")
    return sequence(0x0008_1115, items) + private + one(0x0020_0010, "SH", b"A1")


def _recoded(content: bytes, source: str, target: str) -> bytes:
    recoded = Recoded(BytesIO(content), 0, len(content), Encoding.of(source), Encoding.of(target))
    found = b"".join(recoded.blocks())
    assert len(found) == len(recoded)
    return found


@pytest.mark.parametrize(("items", "sequences"), list(product((True, False), repeat=2)))
def test_sequences_keep_their_kind_of_length(items: bool, sequences: bool) -> None:
    """Defined lengths are computed anew and undefined ones stay, at every level, there and back."""
    explicit = _nested(item_defined=items, sequence_defined=sequences, explicit=True)
    implicit = _nested(item_defined=items, sequence_defined=sequences, explicit=False)
    assert _recoded(explicit, ExplicitVRLittleEndian, ImplicitVRLittleEndian) == implicit
    assert _recoded(implicit, ImplicitVRLittleEndian, ExplicitVRLittleEndian) == explicit
    big = _recoded(explicit, ExplicitVRLittleEndian, ExplicitVRBigEndian)
    assert b"\x12\x34" in big
    assert _recoded(big, ExplicitVRBigEndian, ImplicitVRLittleEndian) == implicit


def test_a_value_that_a_short_length_does_not_hold_becomes_unknown() -> None:
    """A text of 70,000 bytes has no Explicit VR but UN (PS3.5 section 6.2.2), and comes back as it was."""
    content = _implicit(0x0010_4000, b"x" * 70_000)
    explicit = _recoded(content, ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    assert explicit == _element(0x0010_4000, "UN", b"x" * 70_000)
    assert _recoded(explicit, ExplicitVRLittleEndian, ImplicitVRLittleEndian) == content


@pytest.mark.parametrize(("vr", "long"), [(b"ZZ", True), (b"??", False), (b"  ", False), (b"\0\0", False)])
def test_a_vr_that_is_none_becomes_unknown(vr: bytes, long: bool) -> None:
    """One of the future has a length of four bytes (PS3.5 section 7.1.2), what is none has two, as in DCMTK."""
    head = struct.pack("<HH2s", 0x0009, 0x1001, vr) + struct.pack("<xxL" if long else "<H", 4)
    content = head + b"TEXT" + _element(0x0020_0010, "SH", b"A1")
    found = _recoded(content, ExplicitVRLittleEndian, ExplicitVRLittleEndian)
    assert found == _element(0x0009_1001, "UN", b"TEXT") + _element(0x0020_0010, "SH", b"A1")


def test_a_vr_of_the_dictionary_that_is_none_is_no_vr() -> None:
    """pydicom's private dictionary names OB_OW, which has a length of four bytes as OW has."""
    creator = b"TOSHIBA_MEC_OT3 "
    content = _implicit(0x7019_0010, creator) + _implicit(0x7019_1080, b"\1\2\3\4") + _implicit(0x7019_1081, b"")
    assert _recoded(content, ImplicitVRLittleEndian, ExplicitVRLittleEndian).startswith(
        _element(0x7019_0010, "LO", creator) + _element(0x7019_1080, "OW", b"\1\2\3\4")
    )


def test_a_needless_delimiter_is_left_out() -> None:
    """Some writers end a sequence of defined length with one, and DCMTK reads it."""
    items = _item(_element(0x0008_0050, "SH", b"A1"), defined=True)
    content = _element(0x0008_1115, "SQ", items + _implicit(0xFFFE_E0DD, b""))
    assert _recoded(content, ExplicitVRLittleEndian, ExplicitVRLittleEndian) == _element(0x0008_1115, "SQ", items)


@pytest.mark.parametrize(("vr", "pad"), [("LO", b" "), ("UI", b"\0"), ("OB", b"\0")])
def test_an_odd_value_is_padded_as_its_vr_requires(vr: str, pad: bytes) -> None:
    """Text gets a space, a UID and bytes a zero (PS3.5 section 6.2)."""
    content = _element(0x0009_1001, vr, b"ODD")
    assert _recoded(content, ExplicitVRLittleEndian, ImplicitVRLittleEndian) == _implicit(0x0009_1001, b"ODD" + pad)


def test_a_sequence_of_unknown_vr_holds_implicit_items() -> None:
    """An undefined length with the VR UN is a sequence in Implicit VR (PS3.5 section 6.2.2)."""
    items = _item(_implicit(0x0028_0010, b"\x34\x12"), defined=True) + _implicit(0xFFFE_E0DD, b"")
    content = _element(0x0009_1010, "UN", items, _UNDEFINED)
    assert _recoded(content, ExplicitVRLittleEndian, ImplicitVRLittleEndian) == _implicit(
        0x0009_1010, items, _UNDEFINED
    )
    explicit = _item(_element(0x0028_0010, "US", b"\x34\x12"), defined=True) + _implicit(0xFFFE_E0DD, b"")
    assert _recoded(content, ExplicitVRLittleEndian, ExplicitVRLittleEndian) == _element(
        0x0009_1010, "SQ", explicit, _UNDEFINED
    )


@pytest.mark.parametrize(("signed", "vr"), [(0, "US"), (1, "SS")])
def test_the_pixel_representation_decides_between_signed_and_unsigned(signed: int, vr: str) -> None:
    """Implicit VR leaves open whether the smallest pixel is signed; an icon has a representation of its own."""
    smallest = b"\xfe\xff"
    icon = _implicit(0x0028_0103, bytes((1 - signed, 0))) + _implicit(0x0028_0106, smallest)
    content = (
        _implicit(0x0028_0103, bytes((signed, 0)))
        + _implicit(0x0028_0106, smallest)
        + _implicit(0x0088_0200, _item(icon, defined=True))
        + _implicit(0x0088_0200, _item(_implicit(0x0028_0106, smallest), defined=True))
    )
    found = _recoded(content, ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    other = "SS" if vr == "US" else "US"
    assert [found[at + 4 : at + 6].decode() for at in _places(found, b"\x28\0\x06\x01")] == [vr, other, vr]


@pytest.mark.parametrize("defined", [True, False])
def test_the_pixel_representation_may_come_later(defined: bool) -> None:
    """That of the same level counts, or else that of the data set around it, as pydicom has it."""
    mapped = _implicit(0x0022_1452, b"\xfe\xff")
    signed, unsigned = (_implicit(0x0028_0103, bytes((number, 0))) for number in (1, 0))

    def sequence(content: bytes) -> bytes:
        end = b"" if defined else _implicit(0xFFFE_E0DD, b"")
        items = _item(content, defined=defined) + end
        return _implicit(0x0022_1450, items, None if defined else _UNDEFINED)

    content = sequence(mapped) + sequence(mapped + unsigned) + mapped + signed + sequence(mapped)
    found = _recoded(content, ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    vrs = [found[at + 4 : at + 6].decode() for at in _places(found, b"\x22\0\x52\x14")]
    assert vrs == ["SS", "US", "SS", "SS"]
    without = _recoded(mapped, ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    assert without[4:6] == b"US"


def _deep(number: int) -> bytes:
    opened = b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    return opened * number + b"\xfe\xff\r\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * number


def test_deep_sequences_are_converted_within_a_bound() -> None:
    """As deep as the stack of Python allows for sure; more is not read."""
    deep = _recoded(_deep(DEEPEST), ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert _recoded(deep, ImplicitVRLittleEndian, ExplicitVRLittleEndian) == _deep(DEEPEST)
    with pytest.raises(MalformedError, match=f"more than {DEEPEST} deep"):
        _recoded(_deep(DEEPEST + 1), ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def test_what_inflates_without_end_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small deflated file neither fills the disk nor the memory: one sentence, and nothing stays."""
    monkeypatch.setattr(decoder, "_HARMLESS", 1 << 24)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    content = deflating.compress(_element(0x0008_0016, "UI", b"1.2.3.4.5.6.7\0"))
    content += deflating.compress(_element(0x7FE0_0010, "OW", bytes(1 << 25))) + deflating.flush()
    path = write(tmp_path / "bomb.dcm", "1.2.3", content, DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UnreadableInputError, match="inflate to more than 16777216"):
        ConvertedFile(read_instance(str(path)), ExplicitVRLittleEndian)
    assert not list((tmp_path / "temporary").iterdir())


def test_headers_are_not_collected_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long values stay in the file; a data set of short ones alone has a bound."""
    monkeypatch.setattr(recode, "_MOST_IN_MEMORY", 1 << 16)
    content = _element(0x0009_1001, "LO", b"TEXT") * 10_000
    with pytest.raises(MalformedError, match="headers and short values"):
        _recoded(content, ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def _places(content: bytes, wanted: bytes) -> list[int]:
    return [at for at in range(len(content)) if content.startswith(wanted, at)]


@pytest.mark.parametrize(
    "content",
    [
        _element(0x0008_0060, "CS", b"CT")[:-1],
        _element(0x0008_1115, "SQ", b"\0" * 7),
        _element(0x0008_1115, "SQ", _item(b"", defined=True), _UNDEFINED),
        _element(0x0008_1115, "SQ", _implicit(0xFFFE_E000, b"", 80)),
        _element(0x7FE0_0010, "OB", _implicit(0xFFFE_E000, b"") + _implicit(0xFFFE_E0DD, b""), _UNDEFINED),
        _element(
            0x0008_1115, "SQ", b"\xfe\xff\0\xe0\xff\xff\xff\xff\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff" * 299, _UNDEFINED
        ),
    ],
)
def test_what_cannot_be_walked_is_not_converted(content: bytes) -> None:
    """A value, a sequence or an item without its end, compressed pixel data, and sequences without end."""
    with pytest.raises(MalformedError):
        _recoded(content, ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@pytest.mark.parametrize("name", _DAMAGED)
def test_a_damaged_file_is_named_as_one(name: str) -> None:
    """The error says that the file cannot be converted, and names no path."""
    damaged = next(each for some in rounds() for each in some if each.path.endswith(name))
    other = ImplicitVRLittleEndian if damaged.transfer_syntax_uid != ImplicitVRLittleEndian else ExplicitVRBigEndian
    with pytest.raises(UnreadableInputError) as caught:
        ConvertedFile(damaged, other)
    assert "cannot be converted" in caught.value.message


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.3.4.5"])
def test_pixels_that_are_elsewhere_or_unknown_have_no_decoder(syntax: str, tmp_path: Path) -> None:
    """JPIP keeps them with a provider, so nothing is sent as decompressed; a private syntax is not a damaged file."""
    content = dicom_files.data_set(Path(_rle().path))
    path = write(tmp_path / "a.dcm", "1.2.3", content, syntax)
    instance = replace(_rle(), path=str(path), size=path.stat().st_size, transfer_syntax_uid=syntax)
    with pytest.raises(UnreadableInputError, match="no decoder"):
        ConvertedFile(instance, ExplicitVRLittleEndian)


def _rle() -> StoredInstance:
    return next(each for some in rounds() for each in some if each.path.endswith("SC_rgb_rle.dcm"))


def test_an_icon_is_decompressed_and_offset_tables_are_left_out(tmp_path: Path) -> None:
    """An icon is compressed as its image is; nothing says where the fragments were."""
    source = dcmread(_rle().path)
    icon = Dataset()
    # Its groups 0028 and 7FE0, without the extreme values.
    icon.update({each.tag: each for each in source if each.tag.group in {0x0028, 0x7FE0} and "Value" not in each.name})
    source.IconImageSequence = [icon]
    source.ExtendedOffsetTable = bytes(8)
    source.ExtendedOffsetTableLengths = struct.pack("<Q", len(source.PixelData) - 16)
    source.save_as(path := tmp_path / "a.dcm")
    with ConvertedFile(read_instance(str(path)), ExplicitVRLittleEndian) as file:
        ds = read_encoded(file[: len(file)], ExplicitVRLittleEndian)
    assert len(ds.PixelData) == ds.Rows * ds.Columns * 3
    assert ds.IconImageSequence[0].PixelData == ds.PixelData
    assert "ExtendedOffsetTable" not in ds
    assert "ExtendedOffsetTableLengths" not in ds


def test_pixel_data_that_claim_too_much_are_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that claim gigabytes fail in one sentence, and so does an answer that is larger than it may be."""
    source = dcmread(_rle().path)
    source.Rows = source.Columns = 0xFFFF
    source.save_as(path := tmp_path / "a.dcm")
    wanted: list[int] = []
    assert decompress.decompressed(str(path), _rle().transfer_syntax_uid, wanted.append) == (Answer.DAMAGED, b"")
    assert len(wanted) == 1
    with pytest.raises(UnreadableInputError, match="not what they claim to be"):
        ConvertedFile(read_instance(str(path)), ExplicitVRLittleEndian)
    monkeypatch.setattr(decoder, "_HARMLESS", 1_000)
    monkeypatch.setattr(decoder, "_MOST_GROWTH", 0)
    assert decoder.decode(_rle().path, _rle().transfer_syntax_uid) == (Answer.DAMAGED, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such limit")
def test_the_decoder_has_a_limit_of_memory() -> None:
    """A codestream may claim more than the data set around it."""
    program = (
        "from pacs_tasks.dimse.files.decompress import memory_limit; limit = memory_limit(); limit(1 << 28); "
        "bytes(1 << 27); bytes(1 << 29)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1] == "MemoryError"


@pytest.fixture
def jpeg() -> StoredInstance:
    """An instance in JPEG Lossless."""
    return next(each for some in rounds() for each in some if each.transfer_syntax_uid == JPEGLosslessSV1)


def test_decompressing_needs_a_decoder(jpeg: StoredInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is installed, one sentence says which extra brings it; where one is, the pixels come."""
    for name in ("numpy", "pylibjpeg"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    with monkeypatch.context() as here:
        here.syspath_prepend(tmp_path)
        decoder.end()
        with pytest.raises(UnreadableInputError, match=r"pacs-tasks\[decompress\]"):
            ConvertedFile(jpeg, ImplicitVRLittleEndian)
        decoder.end()
    with ConvertedFile(jpeg, ImplicitVRLittleEndian) as file:
        ds = read_encoded(file[: len(file)], ImplicitVRLittleEndian)
    assert len(ds.PixelData) == ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated // 8


def test_a_file_that_ends_the_decoder_fails_alone(jpeg: StoredInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that crashes or never ends takes its own process with it; the next file gets another one."""
    ConvertedFile(jpeg, ExplicitVRLittleEndian).close()
    os.kill(decoder._decoders[os.getpid()]._process.pid, signal.SIGSTOP)
    with monkeypatch.context() as here:
        here.setattr(decoder, "LIMIT", 0.1)
        with pytest.raises(UnreadableInputError, match="cannot be decompressed"):
            ConvertedFile(jpeg, ExplicitVRLittleEndian)
    ConvertedFile(jpeg, ExplicitVRLittleEndian).close()
