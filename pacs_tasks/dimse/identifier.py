"""Identifiers: the keys of a query on their way out, its matches on their way in (PS3.4 section C.2.2)."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.valuerep import TEXT_VR_DELIMS

from pacs_tasks.dimse.elements import IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindRequest, Level

log = logging.getLogger(__name__)

_SPECIFIC_CHARACTER_SET = 0x0008_0005
_QUERY_RETRIEVE_LEVEL = 0x0008_0052

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
    Level.PATIENT: (*_PATIENT_KEYS, "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedInstances"),
    Level.STUDY: _STUDY_KEYS,
    Level.SERIES: _SERIES_KEYS,
    Level.IMAGE: _IMAGE_KEYS,
}

#: The escape sequence of ISO 2022 IR 58 (PS3.3 table C.12-4).
_CHINESE = b"\x1b$)A"
_one_at_a_time = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Have pydicom say nothing: it warns and logs of values that break the Standard, and repeats them.

    Filters belong to the process, so one thread at a time sets them.
    """
    told = logging.getLogger("pydicom")
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, told.disabled = told.disabled, True
        try:
            yield
        finally:
            told.disabled = before


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


def encode_find(request: FindRequest, transfer_syntax_uid: str) -> bytes:
    """Write the identifier of a C-FIND request.

    Raises
    ------
    InvalidRequestError
        If a key is unknown, or its value cannot be written as what it is.
    """
    identifier = Dataset()
    for keyword in RETURN_KEYS[request.level]:
        identifier[keyword] = _element(tag_of(keyword), "")
    plain = True
    for key, value in request.keys.items():
        tag = tag_of(key)
        if tag == _QUERY_RETRIEVE_LEVEL:
            if value.strip() not in {"", request.level}:
                raise InvalidRequestError(f"the keys ask for another level than {request.level}; leave one of them out")
        elif tag != _SPECIFIC_CHARACTER_SET:
            identifier[tag] = _element(tag, value)
            plain = plain and value.isascii()
    identifier.QueryRetrieveLevel = str(request.level)
    charset = request.remote.charset
    if not plain:
        _check_charset(request, charset)
    # Always asked for, so that matches name theirs; with a value only where our own keys need one.
    identifier[_SPECIFIC_CHARACTER_SET] = _element(_SPECIFIC_CHARACTER_SET, "" if plain else charset)
    target = DicomBytesIO()
    target.is_implicit_VR = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    target.is_little_endian = True
    with _quiet():
        try:
            write_dataset(target, identifier)
        except Exception:  # noqa: BLE001 - pydicom raises many things, and each repeats the value
            raise InvalidRequestError("the value of a key does not fit its VR; correct the keys") from None
    return target.getvalue()


def _element(tag: int, value: str) -> DataElement:
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        # A private attribute: text is what can be asked for.
        vr = "LO"
    # "US or SS" and its like: what is not known yet is asked for without a value, where all are alike.
    vr = vr.split(" or ")[0]
    if vr == "SQ":
        if value:
            raise InvalidRequestError("a key is a sequence and can only be asked for without a value", _name(tag))
        return DataElement(tag, vr, [])
    try:
        return DataElement(tag, vr, _number(vr, value), validation_mode=IGNORE)
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequestError(f"the value of a key is none of VR {vr}; correct it", _name(tag)) from None


def _number(vr: str, value: str) -> Any:
    if not value:
        return "" if vr not in {"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT", "OB", "OW", "UN"} else None
    if vr in {"US", "SS", "UL", "SL", "UV", "SV"}:
        return int(value)
    if vr in {"FL", "FD"}:
        return float(value)
    if vr == "AT":
        return int(value, 16)
    if vr in {"OB", "OW", "UN"}:
        raise ValueError("binary")
    return value


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"{tag:08X}"


def _check_charset(request: FindRequest, charset: str) -> None:
    """Refuse what would not be read back: the peer would find other patients, or none.

    pydicom writes question marks for what a charset lacks, and leaves out the escape sequences of ISO 2022 IR 58.
    """
    with _quiet():
        encodings = convert_encodings(charset.split("\\"))
        for value in request.keys.values():
            if decode_bytes(encode_string(value, encodings), encodings, TEXT_VR_DELIMS) != value:
                raise InvalidRequestError(
                    f"a key cannot be written in {charset}; set the charset of this remote in pacs-tasks.toml to one "
                    "that the PACS reads and that can, such as GB18030 or ISO_IR 192"
                )


def decode_match(content: bytes, transfer_syntax_uid: str, charset: str) -> dict[str, Any]:
    """Give a match as a DICOM JSON object (PS3.18 annex F).

    Parameters
    ----------
    charset
        In which text is read when the match itself names none.

    Returns
    -------
    Each element that can be read. A value that breaks its VR is kept as text, and the log says which tag it has.
    """
    implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    with _quiet():
        fallback = convert_encodings(charset.split("\\"))
        try:
            match = read_dataset(BytesIO(content), implicit, True, parent_encoding=fallback)
        except Exception:  # noqa: BLE001 - pydicom raises many things for a malformed data set; a query outlives them
            log.warning("a match could not be read and is shown empty")
            return {}
        if not _charset_of(match):
            match.set_original_encoding(implicit, True, fallback)
        found = _elements(match, fallback)
    return _without_escapes(found) if _CHINESE in content else found


def _charset_of(match: Dataset) -> str:
    try:
        return str(match[_SPECIFIC_CHARACTER_SET].value or "").strip() if _SPECIFIC_CHARACTER_SET in match else ""
    except Exception:  # noqa: BLE001 - as above
        return ""


def _elements(match: Dataset, encodings: list[str]) -> dict[str, Any]:
    return {f"{tag:08X}": _json(match, tag, encodings) for tag in sorted(match.keys())}


def _json(match: Dataset, tag: Any, encodings: list[str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = match[tag].to_json_dict(None, 1 << 30)
    except Exception:  # noqa: BLE001 - as above
        log.warning("a match has a malformed value of %08X; it is shown as text", tag)
    else:
        return found
    try:
        raw = match.get_item(tag)
    except Exception:  # noqa: BLE001 - as above
        # Not even its bytes are there.
        return {"vr": "UN"}
    value = getattr(raw, "value", None)
    if isinstance(value, Items):
        # Only what is malformed in a sequence is shown as text.
        return {"vr": "SQ", "Value": [_elements(item, encodings) for item in value]}
    text = value.decode(encodings[0], "replace") if isinstance(value, bytes) else str(value or "")
    text = text.strip("\0 ")
    vr = getattr(raw, "VR", None) or "UN"
    return {"vr": str(vr), "Value": text.split("\\")} if text else {"vr": str(vr)}


def _without_escapes(shown: Any) -> Any:
    """Leave out escape sequences of ISO 2022 IR 58: pydicom decodes what follows them and keeps them in the text."""
    if isinstance(shown, str):
        return shown.replace(_CHINESE.decode("ascii"), "")
    if isinstance(shown, list):
        return [_without_escapes(each) for each in shown]
    if isinstance(shown, dict):
        return {key: _without_escapes(each) for key, each in shown.items()}
    return shown
