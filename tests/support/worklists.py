"""Worklist files, of which DCMTK's wlmscpfs makes its answers."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.support import dicom_files


def scheduled(
    number: int, name: str = "A^B", charset: str = "ISO_IR 100", modality: str = "CT", date: str = "20240115"
) -> FileDataset:
    """One step of one requested procedure."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # That of DCMTK's own worklist files: they are no instances of any class.
    meta.MediaStorageSOPClassUID = UID("1.2.276.0.7230010.3.1.0.1")
    meta.MediaStorageSOPInstanceUID = UID(f"{dicom_files.UID_ROOT}.9.{number}")
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = charset
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = name, f"P{number}", "19700101", "O"
    ds.AccessionNumber, ds.StudyInstanceUID = f"A{number}", dicom_files.study_uid(number)
    ds.RequestedProcedureID, ds.RequestedProcedureDescription = f"R{number}", "CHEST"
    step = Dataset()
    step.Modality, step.ScheduledStationAETitle, step.ScheduledStationName = modality, f"{modality}1", f"ROOM{number}"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = date, "093000"
    step.ScheduledPerformingPhysicianName, step.ScheduledProcedureStepDescription = "DOE^JANE", "CHEST PA"
    step.ScheduledProcedureStepID, step.ScheduledProcedureStepLocation = f"S{number}", "FLOOR1"
    ds.ScheduledProcedureStepSequence = [step]
    return ds


def fill(directory: Path, *steps: FileDataset) -> None:
    """Put these into the directory of a worklist."""
    for number, ds in enumerate(steps):
        dicom_files.write(ds, directory / f"{number}.wl")
