"""Reading DICOM files without decoding their data sets."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.errors import NotDicomError, UnreadableInputError
from tests.support import dicom_files
from tests.support.peculiar import data_set

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize("path", dicom_files.sendable(), ids=lambda path: path.name)
def test_every_shipped_instance_reads_as_pydicom_reads_it(path: Path) -> None:
    """UIDs, transfer syntax and the offset of the data set match pydicom's for every shipped file."""
    found = read_instance(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = pydicom.filereader.read_file_meta_info(path)
    assert found.sop_class_uid == meta.MediaStorageSOPClassUID
    assert found.sop_instance_uid == meta.MediaStorageSOPInstanceUID
    assert found.transfer_syntax_uid == meta.TransferSyntaxUID
    assert found.size == path.stat().st_size
    assert path.read_bytes()[found.data_offset :] == dicom_files.data_set(path)


def test_every_other_shipped_file_has_a_reason_or_can_be_sent() -> None:
    """Every other shipped file gives an instance or an error with a reason."""
    for path in SHIPPED.rglob("*"):
        if path.is_file():
            found, error = _read(path)
            if found is not None:
                assert found.sop_class_uid
                assert found.sop_instance_uid
                assert found.data_offset < found.size
            else:
                assert error is not None
                assert error.message
                assert error.subject == str(path)
                assert str(path) not in error.message


def _read(path: Path) -> tuple[StoredInstance | None, UnreadableInputError | None]:
    try:
        return read_instance(str(path)), None
    except UnreadableInputError as error:
        return None, error


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("ExplVR_LitEndNoMeta.dcm", "1.2.840.10008.1.2.1"),
        ("ExplVR_BigEndNoMeta.dcm", "1.2.840.10008.1.2.2"),
        ("rtstruct.dcm", "1.2.840.10008.1.2"),
    ],
)
def test_a_data_set_without_file_meta_information_is_sent_as_what_it_is(name: str, syntax: str) -> None:
    """Without preamble and group 0002 the whole file is the data set, in the encoding of its first element."""
    found = read_instance(str(SHIPPED / name))
    assert (found.data_offset, found.transfer_syntax_uid) == (0, syntax)
    assert found.sop_instance_uid


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (b"\x10\0\x10\0LO\xff\x7fcut off", "data set cannot be read"),
        (b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff", "pixel data are compressed"),
    ],
)
def test_a_damaged_data_set_without_file_meta_information_is_an_instance(tmp_path: Path, end: bytes, says: str) -> None:
    """It names its SOP class and instance, so it is not passed over as another file would be."""
    path = tmp_path / "a"
    path.write_bytes(data_set(b"1.2.3.4\0") + end)
    with pytest.raises(UnreadableInputError, match=says) as caught:
        read_instance(str(path))
    assert not isinstance(caught.value, NotDicomError)
    path.write_bytes(b"\x08\0\x10\0LO\xff\x7fcut off")
    with pytest.raises(NotDicomError):
        read_instance(str(path))


def test_a_data_set_without_file_meta_information_may_begin_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\x08\0\x18\0UI\x08\x001.2.3.4\0" + b"\x08\0\x16\0UI\x08\x001.2.3.5\0")
    found = read_instance(str(path))
    assert (found.sop_instance_uid, found.sop_class_uid) == ("1.2.3.4", "1.2.3.5")


def test_a_wrong_or_missing_group_length_changes_nothing(tmp_path: Path) -> None:
    """The file meta information is walked, because its group length is not reliable."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    right = read_instance(str(path))
    content = path.read_bytes()
    path.write_bytes(content[:140] + (9999).to_bytes(4, "little") + content[144:])
    assert read_instance(str(path)) == right
    path.write_bytes(content[:132] + content[144:])
    assert read_instance(str(path)).data_offset == right.data_offset - 12


def test_long_private_information_is_read_over(tmp_path: Path) -> None:
    """Long file meta information is read in several steps."""
    ds = dicom_files.instance()
    ds.file_meta.PrivateInformationCreatorUID = UID("1.2.3")
    ds.file_meta.PrivateInformation = b"x" * 300_000
    path = dicom_files.write(ds, tmp_path / "a.dcm")
    assert read_instance(str(path)).data_offset == path.stat().st_size - len(dicom_files.data_set(path))


@pytest.mark.parametrize("byte", [b"\0", b"\n", b"\x1b", b"\x7f"])
@pytest.mark.parametrize("place", ["meta", "data set"])
def test_a_uid_with_a_control_byte_is_the_fault_of_the_file(tmp_path: Path, byte: bytes, place: str) -> None:
    """No request can announce it as it is. Other UIDs that break the Standard go as they are."""
    path = tmp_path / "a.dcm"
    meta, content = _meta_and_data_set(path)
    own = read_instance(str(path)).sop_instance_uid.encode()
    for odd in (own[:3] + byte + own[4:], own[:3] + b"x" + own[4:]):
        changed = meta.replace(own, odd), content.replace(own, odd)
        path.write_bytes(bytes(128) + b"DICM" + (changed[0] if place == "meta" else meta) + changed[1])
        if odd[3:4] == b"x":
            assert read_instance(str(path)).sop_instance_uid == odd.decode()
            continue
        with pytest.raises(UnreadableInputError, match="a UID with a NUL or another control byte"):
            read_instance(str(path))


def _meta_and_data_set(path: Path) -> tuple[bytes, bytes]:
    """The file meta information of a generated file, without preamble and prefix, and its data set."""
    whole = dicom_files.write(dicom_files.instance(), path).read_bytes()
    content = dicom_files.split(whole)
    return whole[132 : -len(content)], content


@pytest.mark.parametrize("length", [0, 2, 1_600, 2_048, 30_000, 3_000_000])
def test_the_uids_of_the_data_set_count_behind_meta_information_of_any_length(tmp_path: Path, length: int) -> None:
    """A PACS refuses an instance that is announced under another UID than its own, as anonymisers leave it."""
    path = tmp_path / "a.dcm"
    meta, content = _meta_and_data_set(path)
    own = read_instance(str(path)).sop_instance_uid
    private = b"\2\0\0\1UI\6\0" + b"1.2.3\0" + b"\2\0\2\1OB\0\0" + length.to_bytes(4, "little") + bytes(length)
    path.write_bytes(bytes(128) + b"DICM" + meta.replace(own.encode(), own[:-1].encode() + b"9") + private + content)
    found = read_instance(str(path))
    assert (found.sop_instance_uid, found.data_offset) == (own, found.size - len(content))


@pytest.mark.parametrize("end", range(2_030, 2_070, 2))
@pytest.mark.parametrize("filler", [b"\2\0\2\1UI", b"\x08\0\1\0UI"], ids=["meta", "data set"])
def test_the_end_of_the_first_read_is_no_end(tmp_path: Path, filler: bytes, end: int) -> None:
    """The UIDs of the data set are found where the meta information or an element in front of them ends there."""
    path = tmp_path / "a.dcm"
    meta, content = _meta_and_data_set(path)
    own, head = read_instance(str(path)).sop_instance_uid, bytes(128) + b"DICM"
    length = end - len(head + meta) - 8
    long = filler + length.to_bytes(2, "little") + bytes(length)
    path.write_bytes(head + meta.replace(own.encode(), own[:-1].encode() + b"9") + long + content)
    assert read_instance(str(path)).sop_instance_uid == own


@pytest.mark.parametrize(
    "second", [b"\2\0\x10\0UI\x12\x001.2.840.10008.1.2\0", b"\2\0\x10\0\x12\0\0\x001.2.840.10008.1.2\0"]
)
def test_the_first_occurrence_of_a_meta_element_counts(tmp_path: Path, second: bytes) -> None:
    """A second set of group 0002, as anonymisers and gateways leave it, neither counts nor goes out."""
    path = tmp_path / "a.dcm"
    meta, content = _meta_and_data_set(path)
    path.write_bytes(bytes(128) + b"DICM" + meta + second + content)
    found = read_instance(str(path))
    assert (found.transfer_syntax_uid, found.data_offset) == (ExplicitVRLittleEndian, found.size - len(content))


@pytest.mark.parametrize("vr", [b"ZZ", b"UL", b"UN", b"??", b"  "])
def test_meta_elements_of_any_vr_are_read_over(tmp_path: Path, vr: bytes) -> None:
    """A future VR has a length of four bytes (PS3.5 section 7.1.2), and what is none has one of two, as in DCMTK."""
    path = tmp_path / "a.dcm"
    meta, content = _meta_and_data_set(path)
    length = b"\0\0\4\0\0\0" if vr in {b"ZZ", b"UN"} else b"\4\0"
    path.write_bytes(bytes(128) + b"DICM" + b"\2\0\0\0" + vr + length + bytes(4) + meta[12:] + content)
    assert read_instance(str(path)).data_offset == path.stat().st_size - len(content)


@pytest.mark.parametrize("begin", [b"", b"DICM"])
def test_meta_information_without_a_preamble_is_recognised(tmp_path: Path, begin: bytes) -> None:
    """Group 0002 at the beginning is as sure a sign as a preamble, whichever element it begins with."""
    path = tmp_path / "a.dcm"
    meta, content = _meta_and_data_set(path)
    whole = read_instance(str(path))
    for first in (meta, meta[12:], b"\2\0\0\0\4\0\0\0" + meta[8:]):
        path.write_bytes(begin + first + content)
        found = read_instance(str(path))
        assert (found.sop_instance_uid, found.transfer_syntax_uid) == (whole.sop_instance_uid, ExplicitVRLittleEndian)
        assert found.data_offset == found.size - len(content)


def test_what_only_begins_like_meta_information_is_not_dicom(tmp_path: Path) -> None:
    """Two bytes are no sign."""
    (tmp_path / "a.bin").write_bytes(b"\2\0\0\0" + bytes(400))
    with pytest.raises(NotDicomError):
        read_instance(str(tmp_path / "a.bin"))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_what_the_file_meta_information_leaves_out_comes_from_the_data_set(tmp_path: Path, syntax: str) -> None:
    """A missing transfer syntax is derived from the encoding, missing UIDs from (0008,0016) and (0008,0018)."""
    ds = dicom_files.instance(transfer_syntax_uid=syntax)
    whole = dicom_files.write(ds, tmp_path / "whole.dcm").read_bytes()
    data_set = dicom_files.split(whole)
    path = tmp_path / "a.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\1\0OB\0\0\2\0\0\0\0\1" + data_set)
    found = read_instance(str(path))
    assert (found.transfer_syntax_uid, found.sop_instance_uid) == (syntax, ds.SOPInstanceUID)
    assert found.sop_class_uid == ds.SOPClassUID


def test_dicomdir_and_text_are_no_instances(tmp_path: Path) -> None:
    """A DICOMDIR, a text file named .dcm and an empty file each report why they are not sent."""
    with pytest.raises(NotDicomError, match="DICOMDIR"):
        read_instance(str(dicom_files.dicomdir()))
    with pytest.raises(NotDicomError, match="not a DICOM file"):
        read_instance(str(dicom_files.write_text(tmp_path / "text.dcm")))
    (tmp_path / "empty.dcm").touch()
    with pytest.raises(NotDicomError, match="not a DICOM file"):
        read_instance(str(tmp_path / "empty.dcm"))


def test_every_file_that_is_cut_off_in_its_meta_information_is_unreadable(tmp_path: Path) -> None:
    """A file that ends before its data set is an error, never an instance."""
    whole = dicom_files.write(dicom_files.instance(), tmp_path / "whole.dcm").read_bytes()
    offset = len(whole) - len(dicom_files.split(whole))
    path = tmp_path / "cut.dcm"
    for length in range(132, offset + 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableInputError):
            read_instance(str(path))


def test_a_file_without_a_data_set_is_named_as_that(tmp_path: Path) -> None:
    """A file with only file meta information reports that it has no data set."""
    whole = dicom_files.write(dicom_files.instance(), tmp_path / "whole.dcm")
    path = tmp_path / "empty.dcm"
    path.write_bytes(whole.read_bytes()[: read_instance(str(whole)).data_offset])
    with pytest.raises(UnreadableInputError, match="no data set to send"):
        read_instance(str(path))


def test_missing_forbidden_and_directory_are_unreadable(tmp_path: Path) -> None:
    """Files that cannot be opened or read report that; the path is not part of the message."""
    for path in (tmp_path / "none.dcm", tmp_path, Path("/dev/null/x"), Path("a\0b")):
        with pytest.raises(UnreadableInputError) as caught:
            read_instance(str(path))
        assert caught.value.subject == str(path)
        assert str(tmp_path) not in caught.value.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    """A named pipe does not block a worker."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableInputError):
        read_instance(str(tmp_path / "pipe"))
