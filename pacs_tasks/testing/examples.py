"""Example files, and a generated series of a fictitious patient."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pydicom
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pacs_tasks.dimse.files import damage, part10
from pacs_tasks.errors import PacsTasksError

CHINESE_NAME = "张^三丰"
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


def shipped_instances() -> list[Path]:
    """Return one file for each instance in the package of pydicom that any PACS stores.

    It has all four UIDs and is not damaged. They have various SOP classes and transfer syntaxes. Nothing is downloaded.
    """
    found: dict[str, Path] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some of them break the Standard on purpose.
        for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
            if path.is_file() and path.suffix not in {".py", ".pyc"} and _is_whole(path):
                uid = _sop_instance_uid(path)
                if uid:
                    found.setdefault(uid, path)
    return list(found.values())


def _is_whole(path: Path) -> bool:
    try:
        damage.judged(part10.read_instance(str(path)))
    except PacsTasksError:
        return False
    return True


def _sop_instance_uid(path: Path) -> str:
    try:
        ds = dcmread(path, specific_tags=list(_NEEDED), stop_before_pixels=True)
        whole = all(ds.get(name) for name in _NEEDED) and "TransferSyntaxUID" in ds.file_meta
        agrees = whole and ds.file_meta.get("MediaStorageSOPInstanceUID") == ds.SOPInstanceUID
        return str(ds.SOPInstanceUID) if agrees else ""
    except (InvalidDicomError, AttributeError, ValueError, NotImplementedError, OSError, EOFError, KeyError):
        return ""


def write_ct_series(directory: Path, count: int, rows: int = 512, patient_name: str = CHINESE_NAME) -> list[Path]:
    """Write a CT series of ``count`` instances of ``rows`` times ``rows`` pixels of 16 bits.

    The patient name is encoded in GB18030, as by most Chinese devices.
    """
    directory.mkdir(parents=True, exist_ok=True)
    study, series = generate_uid(), generate_uid()
    pixels = random.Random(count).randbytes(rows * rows * 2)  # noqa: S311 - noise, not a secret
    return [
        _write_ct(directory / f"CT{number:05d}", number, pixels, rows, (study, series, patient_name))
        for number in range(1, count + 1)
    ]


def _write_ct(path: Path, number: int, pixels: bytes, rows: int, common: tuple[str, str, str]) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "GB18030"
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientName = common
    ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "DEMO-1", "19700101", "O"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20240115", "120000", "DEMO-A1", "1"
    ds.StudyDescription, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "胸部", "CT", "1", str(number)
    ds.ImagePositionPatient, ds.SliceThickness = [0, 0, number], "1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = rows
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = pixels
    ds.save_as(path, enforce_file_format=True)
    return path
