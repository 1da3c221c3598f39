"""The study that the users' guide and the README speak of."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.uid import UID

from tests.support.dicom_files import instance

PATIENT_ID = "P12345"
STUDY_UID = "1.2.3.4.5.6.7.8.9.10"


def known_study() -> list[Dataset]:
    """Three instances of 2023 with a Chinese patient's name in GB18030."""
    study: list[Dataset] = []
    for number in (1, 2, 3):
        ds = instance(number, patient_id=PATIENT_ID, charset="GB18030")
        ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY_UID, f"{STUDY_UID}.1"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{STUDY_UID}.1.{number}")
        ds.StudyDate = "20230601"
        study.append(ds)
    return study
