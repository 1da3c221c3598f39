"""The values that name a file, from the head of its data set."""

from __future__ import annotations

import struct
from collections.abc import Collection
from io import FileIO
from typing import Any

from pacs_tasks.dimse.files import file_walk, part10
from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.find.match import decode_match
from pacs_tasks.errors import NotDicomError, UnreadableInputError
from pacs_tasks.request.template import FIELDS

_SPECIFIC_CHARACTER_SET = 0x0008_0005
#: Bytes of one value, of which a name has room for 255.
_LONGEST_VALUE = 1 << 10
#: Groups of components of a person's name (PS3.5 section 6.2.1.2), in the order in which one is taken.
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def values_of(path: str, keywords: Collection[str], charset: str) -> dict[str, str]:
    """Read the values of fields from a file; what is not there, or cannot be read, is left out.

    Parameters
    ----------
    charset
        In which text is read where the data set names no character set of its own.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    wanted = {FIELDS[keyword]: keyword for keyword in keywords}
    if not wanted:
        return {}
    try:
        instance = part10.read_instance(path)
    except (NotDicomError, UnreadableInputError):
        return {}
    with FileIO(path) as file:
        found = file_walk.values(file, instance, {*wanted, _SPECIFIC_CHARACTER_SET}, _LONGEST_VALUE)
    # The charset of text is a matter of its own, which is solved for matches.
    told = decode_match(_encoded(found), IMPLICIT_VR_LITTLE_ENDIAN, charset)
    return {keyword: _text(told.get(f"{tag:08X}", {})) for tag, keyword in wanted.items()}


def _encoded(values: dict[int, bytes]) -> bytes:
    """An identifier of these elements in Implicit VR Little Endian: text is the same in every encoding."""
    parts = []
    for tag, value in sorted(values.items()):
        even = value + b" " * (len(value) % 2)
        parts.append(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(even)) + even)
    return b"".join(parts)


def _text(element: dict[str, Any]) -> str:
    """The value of an element of a DICOM JSON object (PS3.18 section F.2.2), several of them joined."""
    return "_".join(_one(value) for value in element.get("Value") or [] if value is not None)


def _one(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    name = next((value[group] for group in _GROUPS if value.get(group)), "")
    return str(name).rstrip("^ ").replace("^", "_")
