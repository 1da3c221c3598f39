"""Files of a modality worklist, as DCMTK's wlmscpfs reads them."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.support import dicom_files


def scheduled(number: int, name: str, charset: str, modality: str, date: str) -> FileDataset:
    """What a worklist file holds: one step of one requested procedure."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
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
