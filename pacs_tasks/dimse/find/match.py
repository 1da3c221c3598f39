"""Matches of a query on their way in, as DICOM JSON objects (PS3.18 annex F)."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as Items

from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.find.query_keys import SPECIFIC_CHARACTER_SET
from pacs_tasks.dimse.find.silence import quiet

log = logging.getLogger(__name__)

#: The escape sequence of ISO 2022 IR 58 (PS3.3 table C.12-4).
_CHINESE = b"\x1b$)A"


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
    with quiet():
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
        return str(match[SPECIFIC_CHARACTER_SET].value or "").strip() if SPECIFIC_CHARACTER_SET in match else ""
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
