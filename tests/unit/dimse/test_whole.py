"""A truncated file never counts as a complete instance."""

from __future__ import annotations

import os
import shutil
import time
import zlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.dimse.files.whole import whole_instance
from tests.support import dicom_files

SHIPPED = {path.name: path for path in dicom_files.sendable()}
#: Files of each encoding (native, compressed, deflated, big endian, implicit), with sequences of undefined length and
#: without an image, and the number of bytes after the last required element: padding, a checksum, private elements.
KINDS = {
    "CT_small.dcm": 0,
    "MR_small.dcm": 138,
    "ExplVR_BigEnd.dcm": 0,
    "693_J2KI.dcm": 0,
    "JPEG2000-embedded-sequence-delimiter.dcm": 0,
    "SC_rgb_jpeg_dcmtk.dcm": 0,
    "image_dfl.dcm": 8,
    "rtdose_rle.dcm": 0,
    "test-SR.dcm": 0,
    "reportsi.dcm": 0,
    "waveform_ecg.dcm": 30,
    "liver_1frame.dcm": 0,
}


def _uid(path: Path) -> str:
    return read_instance(str(path)).sop_instance_uid


def _is_whole(path: Path, uid: str) -> bool:
    return whole_instance(str(path), uid) is not None


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        pytest.param(*each, marks=pytest.mark.thorough if each[0] == "waveform_ecg.dcm" else ())
        for each in KINDS.items()
    ],
)
def test_no_cut_of_a_file_is_whole(name: str, tail: int, tmp_path: Path) -> None:
    """A file truncated at any thousandth byte, or any of the first four hundred or last hundred, is incomplete."""
    content, uid, target = SHIPPED[name].read_bytes(), _uid(SHIPPED[name]), tmp_path / "cut.dcm"
    assert _is_whole(SHIPPED[name], uid)
    end = len(content) - tail
    lengths = {*range(0, end, 1_000), *range(min(400, end)), *range(max(0, end - 100), end)}
    target.write_bytes(content)
    found = []
    for length in sorted(lengths, reverse=True):
        os.truncate(target, length)
        found += [length] if _is_whole(target, uid) else []
    assert found == []


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian],
)
def test_every_byte_counts(syntax: str, tmp_path: Path) -> None:
    """An image that ends with its pixel data needs every byte."""
    path = dicom_files.write(dicom_files.instance(rows=16, transfer_syntax_uid=syntax), tmp_path / "a.dcm")
    uid, content = _uid(path), path.read_bytes()
    assert _is_whole(path, uid)
    found = []
    # The deflated stream ends before the byte that makes it even.
    end = len(content) - (syntax == DeflatedExplicitVRLittleEndian)
    for length in reversed(range(end)):
        os.truncate(path, length)
        found += [length] if _is_whole(path, uid) else []
    assert found == []


def test_what_ships_whole_is_whole() -> None:
    """Shipped files are complete, except images without pixel data and instances without a study."""
    told = [path for path in SHIPPED.values() if not _is_whole(path, _uid(path))]
    for path in told:
        held = dcmread(path)
        assert "PixelData" not in held
        assert "Rows" in held or "Image" in held.SOPClassUID.name or "StudyInstanceUID" not in held, path
    assert len(told) < len(SHIPPED) / 2


def test_a_class_that_is_no_uid_is_no_matter(tmp_path: Path) -> None:
    """pydicom would warn, and print it: the fuzz tests found that."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"5.1.4.1.1.2", b"5.1.4.1.1.\xff"))
    assert _is_whole(path, _uid(path))


def test_another_instance_is_not_it(tmp_path: Path) -> None:
    """Another instance does not count, even if its file meta information names the right one."""
    path = dicom_files.write(dicom_files.instance(1), tmp_path / "a.dcm")
    other = str(dicom_files.instance(2).SOPInstanceUID)
    assert not _is_whole(path, other)
    path.write_bytes(path.read_bytes().replace(_uid(path).encode(), other.encode(), 1))
    assert not _is_whole(path, other)


def test_what_is_no_file_is_not_whole(tmp_path: Path) -> None:
    """Directories, pipes, missing files and text files are not instances."""
    (tmp_path / "text").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe", "nothing", "text"):
        assert not _is_whole(tmp_path / name, "1.2.3")


def test_zeroes_that_were_to_become_the_rest_are_not_the_rest(tmp_path: Path) -> None:
    """Zeroes do not count as data: some programs reserve the size of a file before they write it."""
    path = dicom_files.write(dicom_files.instance(rows=16), tmp_path / "a.dcm")
    uid, content = _uid(path), path.read_bytes()
    for kept in range(400, len(content) - 2 * 16 * 16 - 12, 2):
        path.write_bytes(content[:kept].ljust(len(content), b"\0"))
        assert not _is_whole(path, uid), kept
    path.write_bytes(content + b"\0" * 8)
    assert not _is_whole(path, uid)


def test_a_deflated_stream_that_is_followed_by_more_is_not_it(tmp_path: Path) -> None:
    """After a deflated stream, a padding byte and a gzip checksum are allowed, and nothing longer."""
    encoded = dicom_files.instance(rows=16, transfer_syntax_uid=DeflatedExplicitVRLittleEndian)
    path = dicom_files.write(encoded, tmp_path / "a.dcm")
    uid, content = _uid(path), path.read_bytes()
    path.write_bytes(content + b"\0")
    assert _is_whole(path, uid)
    path.write_bytes(content + bytes(100))
    assert not _is_whole(path, uid)


def test_a_deflated_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """A gigabyte of zeroes, deflated to a megabyte, is never held in memory."""
    path = dicom_files.write(
        dicom_files.instance(rows=16, transfer_syntax_uid=DeflatedExplicitVRLittleEndian), tmp_path / "a.dcm"
    )
    uid, at = _uid(path), read_instance(str(path)).data_offset
    head = zlib.decompress(path.read_bytes()[at:], -zlib.MAX_WBITS)
    deflating = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(deflating.compress(head))
        for _ in range(256):
            file.write(deflating.compress(bytes(1 << 20)))
        file.write(deflating.flush())
        file.truncate()
    assert _is_whole(path, uid)


def test_a_deflated_stream_may_wait_in_zlib_when_all_of_the_file_is_read(tmp_path: Path) -> None:
    """Its last byte may hold the end, and hundreds of zeroes that go beyond what is inflated at once."""
    path = dicom_files.write(
        dicom_files.instance(rows=16, transfer_syntax_uid=DeflatedExplicitVRLittleEndian), tmp_path / "a.dcm"
    )
    uid, at = _uid(path), read_instance(str(path)).data_offset
    content = path.read_bytes()
    head = zlib.decompress(content[at:], -zlib.MAX_WBITS)
    for beyond in range(0, 300, 3):
        deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        # A block of zeroes alone needs a bit or two for 258 of them.
        deflated = deflating.compress(head) + deflating.flush(zlib.Z_FULL_FLUSH)
        deflated += deflating.compress(bytes((1 << 18) + beyond - len(head))) + deflating.flush()
        path.write_bytes(content[:at] + deflated)
        assert _is_whole(path, uid), beyond
        path.write_bytes(content[:at] + deflated[:-1])
        assert not _is_whole(path, uid), beyond


def test_thousands_are_looked_at_in_a_second_or_two(tmp_path: Path) -> None:
    """Only headers are read, whatever the size of the pixel data."""
    source = SHIPPED["CT_small.dcm"]
    paths = [Path(shutil.copy(source, tmp_path / f"{number}.dcm")) for number in range(500)]
    uid, started = _uid(source), time.process_time()
    assert all(_is_whole(path, uid) for path in paths)
    assert time.process_time() - started < 5
