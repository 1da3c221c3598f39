"""The transfer syntax that a received data set really has."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pacs_tasks.dimse.files.label import MislabelledError, transfer_syntax_of
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.files.storage import IncomingFile
from tests.support.dicom_files import content, rounds

_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
#: One in each syntax, by the name of a shipped file.
_NAMES: dict[str, str] = {
    ImplicitVRLittleEndian: "MR_small_implicit.dcm",
    ExplicitVRLittleEndian: "CT_small.dcm",
    ExplicitVRBigEndian: "MR_small_bigendian.dcm",
    DeflatedExplicitVRLittleEndian: "image_dfl.dcm",
    JPEGBaseline8Bit: "SC_rgb_jpeg_dcmtk.dcm",
    JPEGLosslessSV1: "SC_rgb_jpeg_gdcm.dcm",
    JPEGLSLossless: "MR_small_jpeg_ls_lossless.dcm",
    JPEGLSNearLossless: "JPEGLSNearLossless_08.dcm",
    JPEG2000Lossless: "MR_small_jp2klossless.dcm",
    RLELossless: "MR_small_RLE.dcm",
}
_BY_NAME = {Path(each.path).name: each for some in rounds() for each in some}


def _instance(syntax: str) -> StoredInstance:
    return _BY_NAME[_NAMES[syntax]]


_LABELS = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, _DEFLATED_FRAMES]


@pytest.mark.parametrize(("syntax", "label"), sorted(product(_NAMES, _LABELS)))
def test_an_image_is_labelled_as_what_it_is(syntax: str, label: str) -> None:
    """Native and compressed images in the context of another syntax are seen, and so is the codec."""
    assert transfer_syntax_of(content(_instance(syntax)), 0, label) == syntax


def test_each_shipped_file_has_its_label_kept() -> None:
    """The one exception has Implicit VR in front of its JPEG, which no transfer syntax has (PS3.5 section A.4)."""
    for instance in (each for some in rounds() for each in some):
        if not instance.path.endswith("SC_rgb_jpeg.dcm"):
            encoded = content(instance)
            assert transfer_syntax_of(encoded, 0, instance.transfer_syntax_uid) == instance.transfer_syntax_uid


def test_what_no_transfer_syntax_has_is_refused() -> None:
    """Compressed pixel data behind Implicit VR elements cannot be labelled."""
    made = (
        b"\x08\0\x16\0\2\0\0\x001\0" + b"\xe0\x7f\x10\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    )
    with pytest.raises(MislabelledError):
        transfer_syntax_of(made, 0, ImplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_a_received_file_gets_the_right_label(syntax: str, tmp_path: Path) -> None:
    """The file meta information is written anew in front of the same data set, with a remark."""
    instance = _instance(syntax)
    file = IncomingFile(
        tmp_path,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=_DEFLATED_FRAMES if syntax == ExplicitVRLittleEndian else ImplicitVRLittleEndian,
        calling_aet="PEER",
    )
    file.write(memoryview(content(instance)))
    path = file.finish()
    assert file.size == path.stat().st_size
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    assert len(file.remarks) == 1
    ds = dcmread(path)
    assert (ds.file_meta.TransferSyntaxUID, ds.file_meta.SourceApplicationEntityTitle) == (syntax, "PEER")
    assert path.read_bytes().endswith(content(instance))
    file.discard()
    assert path.exists()
