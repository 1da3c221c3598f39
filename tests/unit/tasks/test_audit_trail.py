"""The audit trail reads patients from files that anybody may have written, or replaced."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.tasks.audit import _patient_of
from tests.support import dicom_files

_NAME = "Zhang^San=张^三"


def test_a_deflated_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Hundred megabytes of zeroes, of which the patient is in front."""
    path = dicom_files.write(
        dicom_files.instance(rows=16, transfer_syntax_uid=DeflatedExplicitVRLittleEndian, patient_name=_NAME),
        tmp_path / "a.dcm",
    )
    content, at = path.read_bytes(), read_instance(str(path)).data_offset
    deflating = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [deflating.compress(zlib.decompress(content[at:], -zlib.MAX_WBITS))]
    pieces += [deflating.compress(bytes(1 << 20)) for _ in range(100)]
    path.write_bytes(content[:at] + b"".join(pieces) + deflating.flush())
    tracemalloc.start()
    try:
        assert _patient_of(str(path), "ISO_IR 192") == ("P12345", _NAME)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_name_without_charset_is_read_in_that_of_the_remote(tmp_path: Path) -> None:
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x05\x00CS\x08\x00GB18030 ", b"", 1))
    assert _patient_of(str(path), "GB18030") == ("P12345", dicom_files.CHINESE_NAME)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with names")
def test_what_is_no_file_any_more_has_no_patient(tmp_path: Path) -> None:
    """A pipe, to which nobody writes, is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("no DICOM")
    for name in ("pipe", "text", "missing", "", "x" * 300):
        assert _patient_of(str(tmp_path / name), "ISO_IR 192") == ("", "")
    assert _patient_of("s3://bucket/a.dcm", "ISO_IR 192") == ("", "")
