"""DICOM files for tests: those that pydicom ships, and generated ones."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

import pydicom
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.errors import UnreadableInputError

#: A root for generated UIDs (PS3.5 section B.2: 2.25 and a number).
UID_ROOT: Final = "2.25.314159265358979"
#: A SOP class that no list of the Standard has.
PRIVATE_SOP_CLASS: Final = f"{UID_ROOT}.1.1"
CHINESE_NAME: Final = "张^三丰"
CHARSETS: Final = ("GB18030", "ISO_IR 192")


def split(encoded: bytes) -> bytes:
    """The data set of an encoded DICOM file: what follows preamble, prefix and group 0002 (PS3.10 section 7.1)."""
    assert encoded[128:132] == b"DICM", "no DICOM file"
    assert encoded[132:140] == b"\x02\x00\x00\x00UL\x04\x00", "no group length"
    return encoded[144 + int.from_bytes(encoded[140:144], "little") :]


def data_set(path: Path) -> bytes:
    """The encoded data set of a DICOM file."""
    return split(path.read_bytes())


@cache
def shipped() -> tuple[Path, ...]:
    """Every file with the prefix DICM that pydicom ships; those of its data that would be downloaded stay away."""
    root = Path(pydicom.__file__).parent / "data"
    found = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".py")
    return tuple(sorted(path for path in found if path.read_bytes()[128:132] == b"DICM"))


@cache
def sendable() -> tuple[Path, ...]:
    """The shipped files that a PACS can be sent as they are: whole file meta information, no DICOMDIR, one per UID."""
    by_uid: dict[str, Path] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these files are there because they break rules
        for path in shipped():
            uid = _uid_of_sendable(path)
            if uid:
                by_uid.setdefault(uid, path)
    return tuple(sorted(by_uid.values()))


def _uid_of_sendable(path: Path) -> str:
    """The SOP Instance UID of a file whose file meta information agrees with its data set, else nothing."""
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        encoded = path.read_bytes()
        split(encoded)
        identity = dcmread(BytesIO(encoded), specific_tags=["SOPClassUID", "SOPInstanceUID"])
        uid, sop_class = str(identity.SOPInstanceUID), str(identity.SOPClassUID)
        whole = bool(meta.TransferSyntaxUID) and meta.MediaStorageSOPInstanceUID == uid
    except (InvalidDicomError, AssertionError, AttributeError, OSError, EOFError, ValueError, KeyError):
        return ""
    return uid if whole and meta.MediaStorageSOPClassUID == sop_class != MediaStorageDirectoryStorage else ""


def instance(
    number: int = 1,
    *,
    study: int = 1,
    series: int = 1,
    patient_id: str = "P12345",
    patient_name: str = CHINESE_NAME,
    charset: str = "GB18030",
    rows: int = 64,
    sop_class_uid: str = CTImageStorage,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
) -> FileDataset:
    """One CT instance of ``rows`` times ``rows`` pixels of 16 bits."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(f"{UID_ROOT}.{study}.{series}.{number}")
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = charset
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyDate, ds.StudyTime = "20240115", "120000"
    ds.AccessionNumber, ds.Modality, ds.StudyID = f"A{study}", "CT", str(study)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = patient_name, patient_id, "19700101", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid(study), f"{UID_ROOT}.{study}.{series}"
    ds.StudyDescription, ds.SeriesNumber, ds.InstanceNumber = "胸部", str(series), str(number)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = rows
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = (number % 4096).to_bytes(2, "little") * (rows * rows)
    return ds


def study_uid(study: int = 1) -> str:
    """The Study Instance UID of generated instances."""
    return f"{UID_ROOT}.{study}"


def write(ds: Dataset, path: Path) -> Path:
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(directory: Path, count: int, **attributes: object) -> list[Path]:
    """Write a series of ``count`` instances; ``attributes`` as for :func:`instance`.

    One file is encoded, the others are made of it by their UID and number, which keeps ten thousand quick.
    """
    directory.mkdir(parents=True, exist_ok=True)
    first = 1_000_001
    template = instance(first, **attributes)  # type: ignore[arg-type]
    buffer = BytesIO()
    template.save_as(buffer, enforce_file_format=True)
    encoded = buffer.getvalue()
    paths = []
    for number in range(first, first + count):
        path = directory / f"{number - first + 1:06d}.dcm"
        path.write_bytes(encoded.replace(str(first).encode(), str(number).encode()))
        paths.append(path)
    return paths


def write_patients(directory: Path, count: int) -> list[Path]:
    """Write one small instance of each of the patients P1, P2 and so on, each in a study of that number."""
    return [
        path
        for number in range(1, count + 1)
        for path in write_series(directory / str(number), 1, study=number, patient_id=f"P{number}", rows=2)
    ]


def write_many(directory: Path, *sizes: tuple[int, int, int]) -> list[Path]:
    """Write small instances, of each (study, series) so many."""
    return [
        path
        for study, series, count in sizes
        for path in write_series(directory / f"{study}-{series}", count, study=study, series=series, rows=2)
    ]


def write_large(path: Path, size: int) -> Path:
    """Write an instance with ``size`` bytes of pixel data, all zero: a file with a hole, which costs nothing."""
    template = instance(rows=2)
    del template.PixelData
    write(template, path)
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little"))
        file.truncate(file.tell() + size)
    return path


def write_text(path: Path) -> Path:
    """Write a text file whose name says DICOM."""
    path.write_text("This is no DICOM file.\n" * 20)
    return path


def dicomdir() -> Path:
    """A DICOMDIR that pydicom ships."""
    return next(path for path in shipped() if path.name.upper().startswith("DICOMDIR"))


@cache
def rounds() -> tuple[tuple[StoredInstance, ...], ...]:
    """All that pydicom ships and that can be sent, each UID once in a round: a PACS keeps one instance of it.

    Twelve transfer syntaxes: the uncompressed and the deflated one, RLE, JPEG, JPEG-LS and JPEG 2000.
    """
    found: list[list[StoredInstance]] = []
    times: Counter[str] = Counter()
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        try:
            instance = read_instance(str(path)) if path.is_file() else None
        except UnreadableInputError:
            continue
        if instance is not None:
            number = times[instance.sop_instance_uid]
            times[instance.sop_instance_uid] += 1
            found += [[]] if number == len(found) else []
            found[number].append(instance)
    return tuple(map(tuple, found))


def content(instance: StoredInstance) -> bytes:
    """The data set of an instance as it stands in its file."""
    return Path(instance.path).read_bytes()[instance.data_offset :]


def as_sent(instance: StoredInstance) -> bytes | None:
    """The data set as it goes out: even, deflated ones by one byte more (PS3.5 section A.5); None where it does not."""
    found = content(instance)
    if instance.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return found + b"\0" * (len(found) % 2)
    return found if len(found) % 2 == 0 else None


def identity(instance: StoredInstance) -> Dataset:
    """What the data set of an instance itself says of its class, its study and its own UID."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these files are there because they break rules
        wanted = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]
        return dcmread(instance.path, force=True, stop_before_pixels=True, specific_tags=wanted)


def names_itself(instance: StoredInstance) -> bool:
    """Whether the data set says which instance it is; five shipped files leave that to their file meta information."""
    return str(identity(instance).get("SOPInstanceUID", "")) == instance.sop_instance_uid
