"""Which attributes a query is about: what is asked for by default, and where a key belongs.

The tables are those of PS3.4 sections C.6.1.1 (Patient Root), C.6.2.1 (Study Root) and K.6.1.2 (worklist).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindRequest, Level, QueryModel
from pacs_tasks.request.worklist import STEP_KEYS, STEP_SEQUENCE

#: Where an attribute stands: the tags of the sequences it is in, then its own.
Path = tuple[int, ...]

SPECIFIC_CHARACTER_SET = 0x0008_0005
QUERY_RETRIEVE_LEVEL = 0x0008_0052

#: What a table of matches shows. The unique keys of the levels above come back with each match.
_PATIENT_KEYS = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY_KEYS = (
    *_PATIENT_KEYS,
    *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription"),
    *("ReferringPhysicianName", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
)
_SERIES_KEYS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription"),
    *("SeriesDate", "SeriesTime", "BodyPartExamined", "NumberOfSeriesRelatedInstances"),
)
_IMAGE_KEYS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"),
    *("InstanceNumber", "ContentDate", "ContentTime", "Rows", "Columns", "NumberOfFrames"),
)
RETURN_KEYS: Mapping[Level, Sequence[str]] = {
    Level.PATIENT: (
        *_PATIENT_KEYS,
        *("NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances"),
    ),
    Level.STUDY: _STUDY_KEYS,
    Level.SERIES: _SERIES_KEYS,
    Level.IMAGE: _IMAGE_KEYS,
}
_WORKLIST_KEYS = (
    *_PATIENT_KEYS,
    *("AccessionNumber", "ReferringPhysicianName", "StudyInstanceUID"),
    *("RequestedProcedureID", "RequestedProcedureDescription"),
    *("ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "Modality"),
    *("ScheduledPerformingPhysicianName", "ScheduledProcedureStepDescription", "ScheduledStationName"),
    *("ScheduledProcedureStepLocation", "ScheduledProcedureStepID", "ScheduledProcedureStepStatus"),
)

#: Unique and required keys, which every peer must know.
_REQUIRED: Mapping[Level, Sequence[str]] = {
    Level.PATIENT: ("PatientID", "PatientName"),
    Level.STUDY: ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"),
    Level.SERIES: ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber"),
    Level.IMAGE: ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber"),
}
_REQUIRED_OF_WORKLIST = (
    *("PatientName", "PatientID", "StudyInstanceUID", "RequestedProcedureID", "AccessionNumber"),
    *("ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "Modality"),
    *("ScheduledPerformingPhysicianName", "ScheduledProcedureStepID"),
)

#: What tells one match from all others; the last of them is never empty.
_UNIQUE: Mapping[Level, Sequence[str]] = {
    Level.PATIENT: ("PatientID",),
    Level.STUDY: ("StudyInstanceUID",),
    Level.SERIES: ("StudyInstanceUID", "SeriesInstanceUID"),
    Level.IMAGE: ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
#: The id of a step is unique within its requested procedure (PS3.3 section C.4.10).
_UNIQUE_OF_WORKLIST = (
    *("PatientID", "AccessionNumber", "StudyInstanceUID", "RequestedProcedureID", "ScheduledProcedureStepID"),
)


def tag_of(key: str) -> int:
    """Give the tag of a keyword, or of ``ggggeeee``.

    Raises
    ------
    InvalidRequestError
        If it is neither.
    """
    tag = tag_for_keyword(key)
    if tag is not None:
        return tag
    plain = re.sub(r"[(), ]", "", key)
    if re.fullmatch(r"[0-9A-Fa-f]{8}", plain) and int(plain, 16) >= 0x0008_0000:
        return int(plain, 16)
    raise InvalidRequestError(
        "a key is neither a keyword of the DICOM data dictionary, such as PatientName, nor a tag such as 00100010; "
        "correct its spelling",
        key,
    )


def name_of(path: Path) -> str:
    """The keywords of a path, joined by dots; a tag without one stands as ``GGGGEEEE``."""
    return ".".join(keyword_for_tag(tag) or f"{tag:08X}" for tag in path)


def path_of(key: str, model: QueryModel) -> Path:
    """Where a key belongs; what describes a scheduled procedure step belongs in the item of its sequence.

    Raises
    ------
    InvalidRequestError
        If a part of it is neither a keyword nor a tag.
    """
    path = tuple(tag_of(part) for part in key.split("."))
    if model is QueryModel.WORKLIST and len(path) == 1 and keyword_for_tag(path[0]) in STEP_KEYS:
        return tag_of(STEP_SEQUENCE), *path
    return path


def dates_of(model: QueryModel) -> tuple[Path, Path]:
    """The date and the time by which this model's answers can be divided."""
    if model is QueryModel.WORKLIST:
        return path_of("ScheduledProcedureStepStartDate", model), path_of("ScheduledProcedureStepStartTime", model)
    return path_of("StudyDate", model), path_of("StudyTime", model)


def unique_keys(request: FindRequest) -> tuple[Path, ...]:
    """The attributes that tell one match from all others."""
    names = _UNIQUE_OF_WORKLIST if request.model is QueryModel.WORKLIST else _UNIQUE[request.level]
    return tuple(path_of(name, request.model) for name in names)


def keys_of(request: FindRequest) -> dict[Path, str]:
    """All keys of the identifier with their values: what is asked for by default, and what the request says.

    Raises
    ------
    InvalidRequestError
        If a key is unknown, or asks for another level.
    """
    model = request.model
    defaults = _WORKLIST_KEYS if model is QueryModel.WORKLIST else RETURN_KEYS[request.level]
    keys = {path_of(name, model): "" for name in defaults}
    for key, value in request.keys.items():
        path = path_of(key, model)
        if path == (QUERY_RETRIEVE_LEVEL,):
            if model is QueryModel.WORKLIST and value.strip():
                raise InvalidRequestError("a worklist has no levels; leave the level out of the keys")
            if value.strip() not in {"", request.level}:
                raise InvalidRequestError(f"the keys ask for another level than {request.level}; leave one of them out")
        elif path != (SPECIFIC_CHARACTER_SET,):
            keys[path] = value
    return keys


def required_of(request: FindRequest, keys: Mapping[Path, str]) -> dict[Path, str]:
    """Of ``keys`` those that every peer must know, and those that have a value: without them more would match."""
    model, names = request.model, _REQUIRED[request.level]
    if model is QueryModel.WORKLIST:
        names = _REQUIRED_OF_WORKLIST
    elif model is QueryModel.PATIENT_ROOT:
        names = ("PatientID", *names)
    elif request.level is Level.STUDY:
        names = ("PatientName", "PatientID", *names)
    known = {path_of(name, model) for name in names}
    return {path: value for path, value in keys.items() if value or path in known}
