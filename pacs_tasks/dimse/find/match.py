"""The matches of a query, as DICOM JSON objects (PS3.18 annex F).

The matches that nearly all PACS send hold single and multiple values of text in one character set, and a few integers.
They are decoded without pydicom, at a tenth of the cost. pydicom decodes those with anything else: a sequence, a code
extension, a value that breaks its VR. A test compares the two.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, Protocol

from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as Items

from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN, SHORT_VRS, SPECIFIC_CHARACTER_SET
from pacs_tasks.dimse.find.identifier import Path, attempt, quiet

log = logging.getLogger(__name__)

#: Stands for the values that identify a match, which may be long.
Identity = bytes

#: The escape sequence of ISO 2022 IR 58 (PS3.3 table C.12-4).
_CHINESE = b"\x1b$)A"


class Keep(Protocol):
    """Where the matches of a query are kept, such as a list."""

    def append(self, match: dict[str, Any], /) -> None:
        """Keep one more match."""

    def clear(self) -> None:
        """Forget the matches so far: the query begins anew."""


class Matches:
    """The matches of a query, which may come from several requests.

    Parameters
    ----------
    unique
        The keys that identify a match.
    limit
        The largest number of matches to keep; None keeps all.
    keep
        Where they are kept.
    date
        The date by which the query can be split.

    Attributes
    ----------
    number
        How many are kept.
    limit_hit
        Whether the remote sent more than ``limit`` matches.
    cut_off
        Why the rest of the answer was not read; empty if it was.
    undated
        Whether a match lacks the date.
    """

    def __init__(self, unique: Sequence[Path], limit: int | None, keep: Keep, date: Path) -> None:
        self._unique, self._limit, self._keep, self._date = unique, limit, keep, date
        self._known: set[Identity] = set()
        self.number = 0
        self.limit_hit = self.undated = False
        self.cut_off = ""

    def add(self, match: dict[str, Any], *, once: bool) -> Identity | None:
        """Add a match and return its identity, or None if it is one more than the limit.

        With ``once``, a match that is known already is not added again.
        """
        identity = self.identity(match)
        if once and identity in self._known:
            return identity
        if self._limit is not None and self.number >= self._limit:
            self.limit_hit = True
            return None
        if once:
            self._known.add(identity)
        self._keep.append(match)
        self.number += 1
        self.undated = self.undated or not text_at(match, self._date)
        return identity

    def identity(self, match: Mapping[str, Any]) -> Identity:
        """Return what stands for the values of the unique keys. If the last of them is missing, for the whole match."""
        values = [text_at(match, path) for path in self._unique]
        named = values if values[-1] else ["", json.dumps(match, sort_keys=True)]
        return hashlib.blake2b("\0".join(named).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def text_at(match: Mapping[str, Any], path: Path) -> str:
    """Return the values at a path of a match as one text; of each sequence it reads the first item."""
    for tag in path[:-1]:
        items = match.get(f"{tag:08X}", {}).get("Value") or [{}]
        match = items[0] if isinstance(items[0], Mapping) else {}
    values = match.get(f"{path[-1]:08X}", {}).get("Value") or ()
    return "\\".join(str(value) for value in values)


def decode_match(content: bytes, transfer_syntax_uid: str, charset: str) -> dict[str, Any]:
    """Decode a match to a DICOM JSON object (PS3.18 annex F).

    Parameters
    ----------
    charset
        The character set of matches that name none, an unknown one, or ISO_IR 6, which remotes write beside any text.

    Returns
    -------
    Each element that can be read. A value that breaks its VR is kept as text, and its tag is logged.
    """
    fallback = _encodings(charset)
    if len(fallback) == 1:
        found = decode_plain(content, transfer_syntax_uid, fallback[0])
        if found is not None:
            return found
    return decode_by_pydicom(content, transfer_syntax_uid, list(fallback))


@lru_cache(maxsize=64)
def _encodings(charset: str) -> tuple[str, ...]:
    with quiet():
        return tuple(convert_encodings(charset.split("\\")))


def decode_by_pydicom(content: bytes, transfer_syntax_uid: str, fallback: list[str]) -> dict[str, Any]:
    """Decode any match; ``fallback`` are Python's names of the character set of matches that name none."""
    implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    with quiet():
        match = attempt(lambda: read_dataset(BytesIO(content), implicit, True, parent_encoding=fallback))
        if match is None:
            log.warning("A match could not be read and is shown empty")
            return {}
        if not _is_usable(_charset_of(match)):
            match.set_original_encoding(implicit, True, fallback)
        found = _elements(match, fallback)
    return _without_escapes(found) if _CHINESE in content else found


def _charset_of(match: Dataset) -> str:
    if SPECIFIC_CHARACTER_SET not in match:
        return ""

    def terms() -> str:
        value = match[SPECIFIC_CHARACTER_SET].value or ""
        return value.strip() if isinstance(value, str) else "\\".join(value)

    return attempt(terms) or ""


def _is_usable(charset: str) -> bool:
    """Whether a match names known character sets, not just the default one."""
    terms = charset.split("\\")
    return charset not in {"", "ISO_IR 6"} and all(term.strip() in python_encoding for term in terms)


def is_decoded(match: Mapping[str, Any]) -> bool:
    """Whether all text of a match fitted its character set."""
    return "\N{REPLACEMENT CHARACTER}" not in json.dumps(match, ensure_ascii=False)


def _elements(match: Dataset, encodings: list[str]) -> dict[str, Any]:
    return {f"{tag:08X}": _json(match, tag, encodings) for tag in sorted(match.keys())}


def _json(match: Dataset, tag: Any, encodings: list[str]) -> dict[str, Any]:
    found: dict[str, Any] | None = attempt(lambda: match[tag].to_json_dict(None, 1 << 30))
    if found is not None:
        return found
    log.warning("A match has a malformed value of %08X, which is shown as text", tag)
    raw = attempt(lambda: match.get_item(tag))
    value = getattr(raw, "value", None)
    if isinstance(value, Items):
        # Of a sequence, only its malformed elements are shown as text.
        return {"vr": "SQ", "Value": [_elements(item, encodings) for item in value]}
    text = value.decode(encodings[0], "replace") if isinstance(value, bytes) else str(value or "")
    text = text.strip("\0 ")
    vr = str(getattr(raw, "VR", None) or "UN")
    return {"vr": vr, "Value": text.split("\\")} if text else {"vr": vr}


def _without_escapes(shown: Any) -> Any:
    """Remove the escape sequences of ISO 2022 IR 58: pydicom decodes the text after them but leaves them in it."""
    if isinstance(shown, str):
        return shown.replace(_CHINESE.decode("ascii"), "")
    if isinstance(shown, list):
        return [_without_escapes(each) for each in shown]
    if isinstance(shown, dict):
        return {key: _without_escapes(each) for key, each in shown.items()}
    return shown


# Without pydicom

#: Character sets whose text has no escape sequences (PS3.3 section C.12.1.1.2).
_SINGLE = frozenset(
    ("ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 126", "ISO_IR 127", "ISO_IR 138", "ISO_IR 144",
     "ISO_IR 148", "ISO_IR 166", "ISO_IR 192", "GB18030", "GBK")
)  # fmt: skip
_CODECS = frozenset(python_encoding[each] for each in ("", *_SINGLE))
#: What a match names that says nothing: the character set of the remote counts.
_NONE = frozenset((b"", b"ISO_IR 6"))
#: Anything but printable characters; of these, the padding of a UID is removed before.
_UNUSUAL = re.compile(rb"[\x00-\x1f\x7f]").search
_ASCII = re.compile(rb"[ -~]*").fullmatch
_UID = re.compile(r"[0-9.]+").fullmatch
_INTEGER = re.compile(r" *[+-]?[0-9]{1,9} *").fullmatch
_DECIMAL = re.compile(r" *[+-]?[0-9]{1,12}(\.[0-9]{1,12})? *").fullmatch
_NUMBERS = {"US": struct.Struct("<H"), "UL": struct.Struct("<L"), "SS": struct.Struct("<h"), "SL": struct.Struct("<l")}
_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHL").unpack_from
_HEADER = 8


class _UnusualError(ValueError):
    """The match is one for pydicom."""


def decode_plain(content: bytes, transfer_syntax_uid: str, fallback: str) -> dict[str, Any] | None:
    """Do the same as :func:`decode_by_pydicom` without pydicom; None if the match is unusual."""
    codec = fallback
    found: dict[str, Any] = {}
    try:
        for tag, vr, value in _plain_elements(content, implicit=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN):
            if tag == SPECIFIC_CHARACTER_SET:
                codec = _codec(value, fallback)
            if codec not in _CODECS:
                return None
            values = _values(vr, value, codec)
            found[f"{tag:08X}"] = {"vr": vr, "Value": values} if values else {"vr": vr}
    except (_UnusualError, UnicodeDecodeError, struct.error):
        return None
    return found


def _plain_elements(content: bytes, *, implicit: bool) -> Iterator[tuple[int, str, bytes]]:
    """Give tag, VR and value of each element."""
    position, size, before = 0, len(content), -1
    while position < size:
        if implicit:
            group, number, length = _IMPLICIT(content, position)
            vr = _vr(group << 16 | number)
        else:
            group, number, code, length = _EXPLICIT(content, position)
            if code not in SHORT_VRS:
                raise _UnusualError
            vr = code.decode("ascii")
        tag = group << 16 | number
        position += _HEADER
        if tag <= before or position + length > size or not number or group & 1 or group <= 2:
            raise _UnusualError
        yield tag, vr, content[position : position + length]
        position, before = position + length, tag


@lru_cache(maxsize=4096)
def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        raise _UnusualError from None


def _codec(value: bytes, fallback: str) -> str:
    term = value.rstrip(b" ")
    if term in _NONE:
        return fallback
    named = term.decode("ascii", "replace")
    if named not in _SINGLE:
        raise _UnusualError
    return python_encoding[named]


def _values(vr: str, value: bytes, codec: str) -> list[Any]:
    """Decode the values of an element; none if it is empty."""
    if vr in _NUMBERS:
        return [each for (each,) in _NUMBERS[vr].iter_unpack(value)]
    read = _READ.get(vr)
    if read is None:
        raise _UnusualError
    value = value.rstrip(b" \0" if vr == "UI" else b" ")
    if _UNUSUAL(value):
        raise _UnusualError
    if vr in _TEXT:
        text = value.decode(codec)
    elif _ASCII(value):
        text = value.decode("ascii")
    else:
        raise _UnusualError
    return read(text) if text else []


def _filled(values: list[str]) -> list[Any]:
    if not all(values):
        raise _UnusualError
    return values


def _split(text: str) -> list[Any]:
    return _filled(text.split("\\"))


def _stripped(text: str) -> list[Any]:
    return _filled([each.strip() for each in text.split("\\")])


def _right_stripped(text: str) -> list[Any]:
    return _filled([each.rstrip(" ") for each in text.split("\\")])


def _whole(text: str) -> list[Any]:
    return [text]


def _uids(text: str) -> list[Any]:
    return _checked(text, _UID)


def _integers(text: str) -> list[Any]:
    return [int(each) for each in _checked(text, _INTEGER)]


def _decimals(text: str) -> list[Any]:
    return [float(each) for each in _checked(text, _DECIMAL)]


def _checked(text: str, check: Callable[[str], object]) -> list[str]:
    values = _split(text)
    if not all(check(each) for each in values):
        raise _UnusualError
    return values


def _names(text: str) -> list[Any]:
    """The component groups of each name (PS3.5 section 6.2.1)."""
    names = []
    for each in _split(text):
        groups = each.split("=")
        if len(groups) > len(_GROUPS) or not groups[-1] or each != each.strip():
            raise _UnusualError
        names.append(dict(zip(_GROUPS, groups, strict=False)))
    return names


_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
#: VRs to which the character set applies (PS3.5 section 6.1.2.3).
_TEXT = frozenset(("LO", "LT", "PN", "SH", "ST"))
_READ: dict[str, Callable[[str], list[Any]]] = {
    **dict.fromkeys(("AS", "CS", "DA", "DT", "TM"), _split),
    "UI": _uids,
    "AE": _stripped,
    "DS": _decimals,
    "IS": _integers,
    **dict.fromkeys(("LO", "SH"), _right_stripped),
    **dict.fromkeys(("LT", "ST"), _whole),
    "PN": _names,
}
