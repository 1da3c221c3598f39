"""The identifier of a C-FIND request: its keys, and how they are encoded (PS3.4 section C.2.2).

The tables are those of PS3.4 sections C.6.1.1 (Patient Root), C.6.2.1 (Study Root) and K.6.1.2 (worklist).
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag, private_dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.valuerep import TEXT_VR_DELIMS

from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN, QUERY_RETRIEVE_LEVEL, SPECIFIC_CHARACTER_SET
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindRequest, Level, QueryModel
from pacs_tasks.request.find import STEP_KEYS, STEP_SEQUENCE

#: The place of an attribute: the tags of the sequences around it, then its own tag.
Path = tuple[int, ...]

_T = TypeVar("_T")

#: Return keys that are requested by default. The unique keys of the levels above come back with each match.
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

#: Unique and required keys, which every remote must support.
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

#: Keys that identify a match; the last one is never empty.
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

#: The largest number of sequences around a key.
_DEEPEST = 8
_WHOLE_NUMBERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV"})
_REAL_NUMBERS = frozenset({"FL", "FD"})
#: VRs without a text form. They can only be return keys.
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


# Which keys


def _tag_of(key: str) -> int:
    tag = tag_for_keyword(key)
    if tag is not None:
        return tag
    plain = re.sub(r"[(), ]", "", key)
    if re.fullmatch(r"[0-9A-Fa-f]{8}", plain) and int(plain, 16) >= 0x0008_0000:
        return int(plain, 16)
    raise InvalidRequestError(
        "The key is neither a keyword of the DICOM data dictionary, such as PatientName, nor a tag, such as 00100010. "
        "Correct its spelling.",
        key,
    )


def name_of(path: Path) -> str:
    """Return the keywords of a path, joined by dots; a tag without a keyword appears as ``GGGGEEEE``."""
    return ".".join(keyword_for_tag(tag) or f"{tag:08X}" for tag in path)


def path_of(key: str, model: QueryModel) -> Path:
    """Return the place of a key. Keys of a scheduled procedure step belong in the item of its sequence.

    Raises
    ------
    InvalidRequestError
        If a part of the key is neither a keyword nor a tag.
    """
    path = tuple(_tag_of(part) for part in key.split("."))
    if model is QueryModel.WORKLIST and len(path) == 1 and keyword_for_tag(path[0]) in STEP_KEYS:
        return _tag_of(STEP_SEQUENCE), *path
    return path


def dates_of(model: QueryModel) -> tuple[Path, Path]:
    """Return the date and the time by which the answers of a query model can be divided."""
    if model is QueryModel.WORKLIST:
        return path_of("ScheduledProcedureStepStartDate", model), path_of("ScheduledProcedureStepStartTime", model)
    return path_of("StudyDate", model), path_of("StudyTime", model)


def unique_keys(request: FindRequest) -> tuple[Path, ...]:
    """Return the keys that identify a match."""
    names = _UNIQUE_OF_WORKLIST if request.model is QueryModel.WORKLIST else _UNIQUE[request.level]
    return tuple(path_of(name, request.model) for name in names)


def keys_of(request: FindRequest) -> dict[Path, str]:
    """Return all keys of the identifier with their values: the default return keys and those of the request.

    Raises
    ------
    InvalidRequestError
        If a key is unknown or names another level.
    """
    model = request.model
    defaults = _WORKLIST_KEYS if model is QueryModel.WORKLIST else RETURN_KEYS[request.level]
    keys = {path_of(name, model): "" for name in defaults}
    for key, value in request.keys.items():
        path = path_of(key, model)
        if path == (QUERY_RETRIEVE_LEVEL,):
            _check_level(request, value.strip())
        elif path != (SPECIFIC_CHARACTER_SET,):
            keys[path] = value
    return keys


def _check_level(request: FindRequest, level: str) -> None:
    if level and request.model is QueryModel.WORKLIST:
        raise InvalidRequestError("A worklist has no levels. Remove QueryRetrieveLevel from the keys.")
    if level not in {"", request.level}:
        raise InvalidRequestError(
            f"The keys name another level than {request.level}. Remove one of the two levels from the query."
        )


def required_keys(request: FindRequest) -> frozenset[Path]:
    """Return the keys that every remote must support."""
    model, names = request.model, _REQUIRED[request.level]
    if model is QueryModel.WORKLIST:
        names = _REQUIRED_OF_WORKLIST
    elif model is QueryModel.PATIENT_ROOT:
        names = ("PatientID", *names)
    elif request.level is Level.STUDY:
        names = ("PatientName", "PatientID", *names)
    return frozenset(path_of(name, model) for name in names)


def required_of(request: FindRequest, keys: Mapping[Path, str]) -> dict[Path, str]:
    """Return those keys that every remote must support, and those with a value: without these more would match."""
    known = required_keys(request)
    return {path: value for path, value in keys.items() if value or path in known}


# How they are encoded


def charset_of(request: FindRequest) -> str:
    """Return the specific character set of the keys, and of matches that do not name one."""
    return request.remote.charset if request.charset is None else request.charset


def encode_find(request: FindRequest, transfer_syntax_uid: str, keys: Mapping[Path, str]) -> bytes:
    """Encode the identifier of a C-FIND request with these keys.

    Raises
    ------
    InvalidRequestError
        If a path leads through what is not a sequence, or a value does not fit its VR or the character set.
    """
    identifier, charset = Dataset(), charset_of(request)
    # Keys within a sequence form its one item (PS3.4 section C.2.2.2.6), so they follow the empty sequence.
    for path in sorted(keys, key=len):
        _add(identifier, path, keys[path], keys)
    if request.model is not QueryModel.WORKLIST:
        identifier[QUERY_RETRIEVE_LEVEL] = DataElement(QUERY_RETRIEVE_LEVEL, "CS", str(request.level))
    is_ascii = all(value.isascii() for value in keys.values())
    if not is_ascii:
        _check_charset(keys, charset)
    # Always a return key, so that matches name their character set. It has a value only if a key or the request needs
    # one.
    named = "" if is_ascii and request.charset is None else charset
    identifier[SPECIFIC_CHARACTER_SET] = DataElement(SPECIFIC_CHARACTER_SET, "CS", named, validation_mode=IGNORE)
    target = DicomBytesIO()
    target.is_implicit_VR = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    target.is_little_endian = True
    with quiet():
        # pydicom's own message would repeat the value, which may be patient data.
        if attempt(lambda: write_dataset(target, identifier)) is None:
            raise InvalidRequestError("The value of a key does not fit its VR. Correct the keys.")
    return target.getvalue()


def _add(identifier: Dataset, path: Path, value: str, keys: Mapping[Path, str]) -> None:
    if len(path) > _DEEPEST:
        raise InvalidRequestError(
            f"The key lies within more than {_DEEPEST} sequences. Correct its path.", name_of(path)
        )  # fmt: skip
    item = identifier
    for depth, tag in enumerate(path[:-1], 1):
        if _vr_of(path[:depth], keys) != "SQ":
            raise InvalidRequestError(
                "The path of the key leads through an attribute that is not a sequence. Correct its path.",
                name_of(path),
            )
        if tag not in item:
            item[tag] = DataElement(tag, "SQ", [])
        if not item[tag].value:
            item[tag].value.append(Dataset())
        item = item[tag].value[0]
    if path[-1] not in item or not item[path[-1]].value:
        item[path[-1]] = _element(path, value, keys)


def _vr_of(path: Path, keys: Mapping[Path, str]) -> str:
    tag = path[-1]
    try:
        # Of "US or SS" either will do: a return key is empty, and empty values of all VRs look alike.
        return dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        pass
    # The keys may hold the creator of a private attribute, (gggg,00xx).
    creator = keys.get((*path[:-1], tag & 0xFFFF_0000 | tag >> 8 & 0xFF), "")
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return "LO"


def _element(path: Path, value: str, keys: Mapping[Path, str]) -> DataElement:
    tag, vr = path[-1], _vr_of(path, keys)
    if vr == "SQ":
        if value:
            raise InvalidRequestError(
                "The key is a sequence and cannot have a value. Name an attribute of its item, as SEQUENCE.KEYWORD.",
                name_of(path),
            )
        return DataElement(tag, vr, [])
    try:
        return DataElement(tag, vr, _value(vr, value), validation_mode=IGNORE)
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequestError(f"The value of the key does not fit VR {vr}. Correct it.", name_of(path)) from None


def _value(vr: str, value: str) -> Any:
    if not value:
        return None if vr in {*_WHOLE_NUMBERS, *_REAL_NUMBERS, *_BINARY, "AT"} else ""
    if vr in _WHOLE_NUMBERS:
        return int(value)
    if vr in _REAL_NUMBERS:
        return float(value)
    if vr == "AT":
        return int(value, 16)
    if vr in _BINARY:
        raise ValueError("binary")
    return value


def _check_charset(keys: Mapping[Path, str], charset: str) -> None:
    """Refuse values that cannot be read back: the remote would find other patients, or none.

    pydicom writes question marks for characters that the character set lacks, and omits the escape sequences of
    ISO 2022 IR 58.
    """
    with quiet():
        encodings = convert_encodings(charset.split("\\"))
        for value in keys.values():
            if decode_bytes(encode_string(value, encodings), encodings, TEXT_VR_DELIMS) != value:
                raise InvalidRequestError(
                    f"A key cannot be encoded in {charset}. Set the charset of this remote in pacs-tasks.toml, or use "
                    "--charset: it must be one that the PACS reads and that has these characters, such as GB18030 or "
                    "ISO_IR 192."
                )


# pydicom and values that break the Standard

_one_at_a_time = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings and log lines repeat values that break the Standard.

    Filters belong to the process, so one thread at a time sets them.
    """
    logger = logging.getLogger("pydicom")
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def attempt(call: Callable[[], _T]) -> _T | None:
    """Return None if pydicom cannot do something: it raises almost any exception at malformed data."""
    try:
        return call()
    except Exception:  # noqa: BLE001 - as above
        return None
