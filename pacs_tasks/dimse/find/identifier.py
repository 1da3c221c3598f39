"""Identifiers: the keys of a query on their way out (PS3.4 section C.2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.valuerep import TEXT_VR_DELIMS

from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.find.query_keys import (
    QUERY_RETRIEVE_LEVEL,
    SPECIFIC_CHARACTER_SET,
    Path,
    keys_of,
    name_of,
)
from pacs_tasks.dimse.find.silence import quiet
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindRequest, QueryModel

#: How many sequences a key may be in.
_DEEPEST = 8
_WHOLE_NUMBERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV"})
_REAL_NUMBERS = frozenset({"FL", "FD"})
#: Without a string to ask for; a peer returns them all the same.
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})


def charset_of(request: FindRequest) -> str:
    """The specific character set of the keys, and of matches that name none."""
    return request.remote.charset if request.charset is None else request.charset


def encode_find(request: FindRequest, transfer_syntax_uid: str, keys: Mapping[Path, str] | None = None) -> bytes:
    """Write the identifier of a C-FIND request.

    Parameters
    ----------
    keys
        Instead of all that the request asks for.

    Raises
    ------
    InvalidRequestError
        If a key is unknown, or its value cannot be written as what it is.
    """
    identifier, charset = Dataset(), charset_of(request)
    keys = keys_of(request) if keys is None else keys
    # What is asked for within a sequence makes its one item (PS3.4 section C.2.2.2.6), so it comes after an empty one.
    for path in sorted(keys, key=len):
        _put(identifier, path, keys[path], keys)
    if request.model is not QueryModel.WORKLIST:
        identifier[QUERY_RETRIEVE_LEVEL] = DataElement(QUERY_RETRIEVE_LEVEL, "CS", str(request.level))
    plain = all(value.isascii() for value in keys.values())
    if not plain:
        _check_charset(keys, charset)
    # Always asked for, so that matches name theirs; with a value only where our own keys need one, or it was asked for.
    named = "" if plain and request.charset is None else charset
    identifier[SPECIFIC_CHARACTER_SET] = DataElement(SPECIFIC_CHARACTER_SET, "CS", named, validation_mode=IGNORE)
    target = DicomBytesIO()
    target.is_implicit_VR = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    target.is_little_endian = True
    with quiet():
        try:
            write_dataset(target, identifier)
        except Exception:  # noqa: BLE001 - pydicom raises many things, and each repeats the value
            raise InvalidRequestError("the value of a key does not fit its VR; correct the keys") from None
    return target.getvalue()


def _put(identifier: Dataset, path: Path, value: str, keys: Mapping[Path, str]) -> None:
    if len(path) > _DEEPEST:
        raise InvalidRequestError(f"a key is within more than {_DEEPEST} sequences; correct it", name_of(path))
    item = identifier
    for depth, tag in enumerate(path[:-1], 1):
        if _vr_of(path[:depth], keys) != "SQ":
            raise InvalidRequestError("a key leads into an attribute that is no sequence; correct it", name_of(path))
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
        # "US or SS" and its like: what is not known yet is asked for without a value, where all are alike.
        return dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        pass
    # A private attribute. Its creator, (gggg,00xx), may be among the keys.
    creator = keys.get((*path[:-1], tag & 0xFFFF_0000 | tag >> 8 & 0xFF), "")
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        # Text is what can be asked for.
        return "LO"


def _element(path: Path, value: str, keys: Mapping[Path, str]) -> DataElement:
    tag, vr = path[-1], _vr_of(path, keys)
    if vr == "SQ":
        if value:
            raise InvalidRequestError(
                "a key is a sequence and can only be asked for without a value; name an attribute of its item as "
                "SEQUENCE.KEYWORD",
                name_of(path),
            )
        return DataElement(tag, vr, [])
    try:
        return DataElement(tag, vr, _value(vr, value), validation_mode=IGNORE)
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequestError(f"the value of a key is none of VR {vr}; correct it", name_of(path)) from None


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
    """Refuse what would not be read back: the peer would find other patients, or none.

    pydicom writes question marks for what a charset lacks, and leaves out the escape sequences of ISO 2022 IR 58.
    """
    with quiet():
        encodings = convert_encodings(charset.split("\\"))
        for value in keys.values():
            if decode_bytes(encode_string(value, encodings), encodings, TEXT_VR_DELIMS) != value:
                raise InvalidRequestError(
                    f"a key cannot be written in {charset}; set the charset of this remote in pacs-tasks.toml (or "
                    "--charset) to one that the PACS reads and that can, such as GB18030 or ISO_IR 192"
                )
