"""Writing received instances, and reading their UIDs."""

from __future__ import annotations

import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from pacs_tasks.dimse.files.elements import SERIES_INSTANCE_UID, STUDY_INSTANCE_UID, MalformedError, read_uids
from pacs_tasks.dimse.files.storage import IncomingFile, OtherInstanceError, kept_path, sync
from pacs_tasks.dimse.scp.storage_scp import is_storage_class
from pacs_tasks.errors import InvalidRequestError
from tests.support import dicom_files
from tests.support.peculiar import element

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
WANTED = (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)


INSTANCE = str(dicom_files.instance().SOPInstanceUID)


def _incoming(directory: Path, uid: str = INSTANCE, syntax: str = ExplicitVRLittleEndian) -> IncomingFile:
    return IncomingFile(
        directory,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=uid,
        transfer_syntax_uid=syntax,
        calling_aet="MODALITY",
    )


def _left_over(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("end", [65_528, 65_536, 65_544])
def test_the_end_of_the_head_is_no_end(tmp_path: Path, end: int) -> None:
    """Study and series are found behind an element that ends exactly where the head that is kept in memory ends."""
    before = element(0x0008_0016, b"UI", b"1.2\0") + element(0x0008_0018, b"UI", b"1.4\0")
    long = element(0x0009_1010, b"OB", bytes(end - len(before) - 12))
    behind = element(0x0020_000D, b"UI", b"1.2\0") + element(0x0020_000E, b"UI", b"1.3\0")
    incoming = _incoming(tmp_path, "1.4")
    incoming.write(memoryview(before + long + behind))
    assert incoming.belongs_to() == ("1.2", "1.3")
    incoming.discard()


def test_an_instance_lies_under_its_study_and_series(tmp_path: Path) -> None:
    """The path consists of the three UIDs; an instance without a study has a directory of its own."""
    assert kept_path(tmp_path, "1.2", "1.3", "1.4") == tmp_path / "1.2" / "1.3" / "1.4.dcm"
    assert kept_path(tmp_path, "", "", "1.4") == tmp_path / "no-study" / "no-series" / "1.4.dcm"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_instance_is_written_as_it_came(tmp_path: Path, syntax: str) -> None:
    """The data set is identical in every encoding, and pydicom reads the file meta information."""
    made = dicom_files.instance(7, study=3, series=2, transfer_syntax_uid=syntax)
    ds = Dataset(made)
    ds.file_meta = made.file_meta
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    data_set = dicom_files.split(buffer.getvalue())
    file = _incoming(tmp_path, str(ds.SOPInstanceUID), syntax)
    for start in range(0, len(data_set), 1000):
        assert not list(tmp_path.rglob("*.dcm")), "it has its name before it is whole"
        file.write(memoryview(data_set)[start : start + 1000])
    path = file.finish()
    file.discard()
    assert path == tmp_path / ds.StudyInstanceUID / ds.SeriesInstanceUID / f"{ds.SOPInstanceUID}.dcm"
    assert dicom_files.data_set(path) == data_set
    meta = dcmread(path, stop_before_pixels=True).file_meta
    assert meta.TransferSyntaxUID == syntax
    assert meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert meta.SourceApplicationEntityTitle == "MODALITY"
    assert file.size == path.stat().st_size
    sync([path])
    assert _left_over(tmp_path) == [path]


def test_an_older_file_is_replaced_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """The same instance replaces its older file; discarded and malformed ones leave no file."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    for _ in range(2):
        file = _incoming(tmp_path / "source")
        file.write(memoryview(encoded))
        path = file.finish()
    assert dicom_files.data_set(path) == encoded
    (kept := tmp_path / "kept").mkdir()
    file = _incoming(kept)
    file.write(memoryview(encoded)[:60])
    with pytest.raises(MalformedError):
        file.finish()
    file.discard()
    hostile = _incoming(kept, "../../x")
    hostile.write(memoryview(encoded))
    with pytest.raises(InvalidRequestError):
        hostile.finish()
    hostile.discard()
    assert _left_over(kept) == []


def test_another_instance_than_announced_replaces_nothing(tmp_path: Path) -> None:
    """A data set of another SOP instance than announced is not stored, because it could replace the wrong file."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    (kept := tmp_path / "kept").mkdir()
    file = _incoming(kept, "1.2.3")
    file.write(memoryview(encoded))
    with pytest.raises(OtherInstanceError):
        file.finish()
    file.discard()
    assert _left_over(kept) == []


def test_a_directory_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    """A receiver whose directory was removed reports that, instead of filling a new one unnoticed."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    (kept := tmp_path / "kept").mkdir()
    file = _incoming(kept)
    file.write(memoryview(encoded))
    shutil.rmtree(kept)
    with pytest.raises(FileNotFoundError):
        file.finish()
    file.discard()
    assert not kept.exists()


def test_a_file_on_its_way_is_hidden(tmp_path: Path) -> None:
    """The name of an incomplete file begins with a dot and does not end in .dcm."""
    file = _incoming(tmp_path)
    [path] = _left_over(tmp_path)
    assert path.name.startswith(".")
    assert path.suffix != ".dcm"
    file.discard()


def test_uids_behind_long_sequences_are_found(tmp_path: Path) -> None:
    """UIDs beyond the part kept in memory are read from the file."""
    ds = dicom_files.instance()
    item = Dataset()
    item.TextValue = "x" * 100_000
    ds.ReferencedStudySequence = [item]
    ds["ReferencedStudySequence"].is_undefined_length = True
    encoded = dicom_files.data_set(dicom_files.write(ds, tmp_path / "a.dcm"))
    file = _incoming(tmp_path)
    file.write(memoryview(encoded))
    assert file.finish().parent.name == ds.SeriesInstanceUID


@pytest.mark.parametrize("path", dicom_files.sendable(), ids=lambda path: path.name)
def test_uids_are_found_as_pydicom_finds_them(path: Path) -> None:
    """Study and series of every shipped file are found, despite nested and private sequences."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some of these files break rules on purpose.
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
    found = read_uids(dicom_files.data_set(path), ds.file_meta.TransferSyntaxUID, WANTED)
    assert found.get(STUDY_INSTANCE_UID, "") == str(ds.get("StudyInstanceUID", "") or "")
    assert found.get(SERIES_INSTANCE_UID, "") == str(ds.get("SeriesInstanceUID", "") or "")


def test_every_beginning_of_a_data_set_reads_or_is_malformed() -> None:
    """A data set truncated anywhere gives UIDs or a MalformedError, in any encoding."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "rtplan.dcm"
    encoded = dicom_files.data_set(path)
    for syntax in SYNTAXES:
        for length in range(0, len(encoded), 7):
            try:
                read_uids(encoded[:length], syntax, WANTED)
            except MalformedError:
                continue


def test_a_bottomless_sequence_is_malformed() -> None:
    """Endlessly nested sequences raise MalformedError instead of exhausting the stack."""
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(MalformedError):
        read_uids(deep * 20_000, ExplicitVRLittleEndian, WANTED)


@pytest.mark.parametrize(
    ("uid", "stored"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True),
        ("1.2.840.10008.5.1.4.1.1.88.67", True),
        (dicom_files.PRIVATE_SOP_CLASS, True),
        ("1.2.840.10008.1.1", False),
        ("1.2.840.10008.5.1.4.1.2.2.1", False),
        ("1.2.840.10008.5.1.4.31", False),
        ("1.2.840.10008.1.20.1", False),
        ("1.2.840.10008.1.3.10", False),
        ("", False),
    ],
)
def test_which_classes_are_stored(uid: str, stored: bool) -> None:
    """Storage classes and unknown classes are stored; query, retrieve, worklist, commitment and DICOMDIR are not."""
    assert is_storage_class(uid) is stored


#: UIDs of real remotes that break PS3.5 section 9.1, and some that differ in what file systems do not tell apart.
ODD = [
    "1.2.3..840.9", "1.2.3.840.9.", "1.2.3.840.9_A", "1.2.3.840.9_a", "LOCALIZER1.2.3.840.1", "1.2.3:4", "1.2.3_4",
    "1.2.3*4", ".1.2", "-1.2", "..", "NUL", "CON.1", "1.2 3", "1." * 40 + "1", "1." * 40 + "2", "1.2~0123456789ab",
]  # fmt: skip


def test_odd_uids_have_safe_names_of_their_own(tmp_path: Path) -> None:
    """Each name stays in its directory, differs from all others in any case, and is none that a system reserves."""
    for place in range(3):
        paths = [kept_path(tmp_path, *[uid if at == place else "1.2" for at in range(3)]) for uid in [*ODD, "1.2.3"]]
        names = {path.relative_to(tmp_path).parts[place].casefold() for path in paths}
        assert len(names) == len(paths)
        for path in paths:
            assert len(path.relative_to(tmp_path).parts) == 3
            name = path.relative_to(tmp_path).parts[place]
            assert re.fullmatch(r"[0-9A-Za-z_][0-9A-Za-z._-]*(~[0-9a-f]{12})?(\.dcm)?", name)
            assert len(name) < 100


@pytest.mark.parametrize(
    "uid", ["../../etc/passwd", "/etc/passwd", "1.2\\..\\3", "1.2\0.3", "1.2\n3", "", "1" * 129, "1.\ufffd"]
)
def test_what_is_not_nearly_a_uid_names_no_file(tmp_path: Path, uid: str) -> None:
    """A path separator or a control character is no mistake of a modality."""
    with pytest.raises(InvalidRequestError):
        kept_path(tmp_path, "1.2", "1.3", uid)
    for owners in [(uid, "1.3"), ("1.2", uid)] if uid else []:
        with pytest.raises(InvalidRequestError):
            kept_path(tmp_path, *owners, "1.4")


def _odd(vr: bytes) -> bytes:
    return struct.pack("<HH2sH", 8, 0x1030, vr, 4) + b"TEXT"


def _explicit_in_unknown() -> bytes:
    inner = b"\x08\0\x50\x11UI\4\x001.2\0"
    delimiters = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + inner + delimiters
    return b"\x09\0\x10\0LO\4\0HUNT" + b"\x09\0\x10\x10UN\0\0\xff\xff\xff\xff" + item


_FLAWS: dict[str, Callable[[], bytes]] = {
    "VR of blanks": lambda: _odd(b"  "),
    "VR of question marks": lambda: _odd(b"??"),
    "explicit items in UN": _explicit_in_unknown,
    "explicit in implicit": lambda: b"",
}


@pytest.mark.parametrize("flaw", _FLAWS)
def test_a_malformed_instance_is_kept(tmp_path: Path, flaw: str) -> None:
    """A flaw in front of the Series Instance UID costs a remark at most, not the instance."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    place = encoded.index(b"\x10\0\x10\0PN")
    flawed = encoded[:place] + _FLAWS[flaw]() + encoded[place:]
    (kept := tmp_path / "kept").mkdir()
    syntax = ImplicitVRLittleEndian if flaw == "explicit in implicit" else ExplicitVRLittleEndian
    file = _incoming(kept, syntax=syntax)
    file.write(memoryview(flawed))
    path = file.finish()
    assert path == kept_path(kept, dicom_files.study_uid(), f"{dicom_files.study_uid()}.1", INSTANCE)
    assert dicom_files.data_set(path) == flawed
    # A VR that is none is read as other programs read it.
    assert bool(file.remarks) is not flaw.startswith("VR")


#: Elements in front of the SOP Instance UID that cannot be read as they stand.
_EARLY_FLAWS = {
    "OB with a length of two bytes": b"\x08\0\x08\0OB\x04\0TEXT",
    "UT with a length of two bytes": b"\x08\0\x08\0UT\x04\0TEXT",
    "LO with a length of four bytes": b"\x08\0\x08\0LO\0\0\4\0\0\0TEXT",
    "an unknown VR with a length of two bytes": b"\x08\0\x08\0QQ\x04\0TEXT",
    "a VR of hyphens with a length of four bytes": b"\x08\0\x08\0--\0\0\4\0\0\0TEXT",
    "a sequence without a delimiter": b"\x08\0\x08\0SQ\0\0\xff\xff\xff\xff",
    "a length that is too long": b"\x08\0\x08\0CS\x70\x17TEXT",
    "a length that is too short": b"\x08\0\x08\0CS\2\0TEXT",
}


@pytest.mark.parametrize("flaw", _EARLY_FLAWS)
def test_a_flaw_in_front_of_the_sop_instance_uid_loses_nothing(tmp_path: Path, flaw: str) -> None:
    """The request names the instance (PS3.4 section B.4.1.1), and its UID is in the data set all the same."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    place = encoded.index(b"\x08\0\x18\0UI")
    flawed = encoded[:place] + _EARLY_FLAWS[flaw] + encoded[place:]
    (kept := tmp_path / "kept").mkdir()
    file = _incoming(kept)
    file.write(memoryview(flawed))
    file.belongs_to(dicom_files.study_uid(), "1.3")
    path = file.finish()
    assert path.parent.parent == kept / dicom_files.study_uid()
    assert dicom_files.data_set(path) == flawed
    assert file.remarks == ["its data set is malformed"]
    other = _incoming(kept, "1.2.3")
    other.write(memoryview(flawed))
    with pytest.raises((MalformedError, OtherInstanceError)):
        other.finish()
    other.discard()


_WRONG_CONTEXTS = [
    (ExplicitVRLittleEndian, ExplicitVRBigEndian),
    (ImplicitVRLittleEndian, ExplicitVRBigEndian),
    (ExplicitVRBigEndian, ExplicitVRLittleEndian),
    (ExplicitVRBigEndian, ImplicitVRLittleEndian),
    (ExplicitVRBigEndian, JPEGBaseline8Bit),
    (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian),
    (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian),
    (DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit),
]


@pytest.mark.parametrize(("syntax", "label"), _WRONG_CONTEXTS)
def test_an_instance_in_the_wrong_context_is_kept(tmp_path: Path, syntax: str, label: str) -> None:
    """Its file has the transfer syntax that it is seen to have."""
    made = dicom_files.instance(transfer_syntax_uid=syntax)
    # One that was never encoded may get any encoding.
    instance = Dataset(made)
    instance.file_meta = made.file_meta
    encoded = dicom_files.data_set(dicom_files.write(instance, tmp_path / "source" / "a.dcm"))
    (kept := tmp_path / "kept").mkdir()
    file = _incoming(kept, syntax=label)
    file.write(memoryview(encoded))
    path = file.finish()
    assert path == kept_path(kept, dicom_files.study_uid(), f"{dicom_files.study_uid()}.1", INSTANCE)
    assert (dicom_files.data_set(path), dcmread(path).file_meta.TransferSyntaxUID) == (encoded, syntax)
    assert len(file.remarks) == 1


def test_a_length_that_leads_past_study_and_series_loses_neither(tmp_path: Path) -> None:
    """The request names them, and a remark tells it."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    place = encoded.index(b"\x10\0\x10\0PN")
    # Read two bytes early, the next tag is beyond that of the Series Instance UID.
    flawed = encoded[:place] + b"\x09\0\x10\0LO\2\0AAzz" + encoded[place:]
    for owners in ((), ("1.2", "1.3")):
        (kept := tmp_path / f"kept{len(owners)}").mkdir()
        file = _incoming(kept)
        file.write(memoryview(flawed))
        assert file.belongs_to(*owners) == (owners or ("", ""))
        assert file.remarks == (["its data set is malformed"] if owners else [])
        file.discard()


@pytest.mark.parametrize("number", [95, 205])
def test_a_deflated_instance_of_jpip_is_read(tmp_path: Path, number: int) -> None:
    """Its data set is deflated as that of the usual deflated transfer syntax is (PS3.5 section A.7)."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    (kept := tmp_path / "kept").mkdir()
    file = _incoming(kept, syntax=f"1.2.840.10008.1.2.4.{number}")
    file.write(memoryview(zlib.compress(encoded, wbits=-zlib.MAX_WBITS)))
    assert file.finish().parent.parent.name == dicom_files.study_uid()
    assert not file.remarks


def test_an_instance_that_stays_unreadable_goes_where_it_was_requested(tmp_path: Path) -> None:
    """Behind its SOP Instance UID nothing can be read; study and series are known from the request."""
    encoded = dicom_files.data_set(dicom_files.write(dicom_files.instance(), tmp_path / "source" / "a.dcm"))
    place = encoded.index(b"\x08\0\x20\0DA")
    (kept := tmp_path / "kept").mkdir()
    file = _incoming(kept)
    file.write(memoryview(encoded[:place] + b"\x08\0\x20\0UN\0\0\xff\xff\xff\x7f"))
    assert file.belongs_to("1.2", "1.3") == ("1.2", "1.3")
    assert file.finish() == kept / "1.2" / "1.3" / f"{INSTANCE}.dcm"
