"""Harmless, recognisable names of directories and files, from the values of a data set."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection
from io import FileIO
from typing import Any

from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN, SPECIFIC_CHARACTER_SET, encode_implicit
from pacs_tasks.dimse.find.match import decode_match
from pacs_tasks.errors import NotDicomError, UnreadableInputError
from pacs_tasks.request.template import FIELDS

#: The longest name that ext4, NTFS, APFS and XFS allow, in bytes of UTF-8.
LONGEST = 255
#: Characters that one of the systems to which files are copied does not allow in a name.
_FORBIDDEN = frozenset('/\\<>:"|?*')
#: Control and format characters (a right-to-left mark reverses ``gpj.exe``), halves of pairs, and line ends.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"))
#: Device names of Windows, with any extension.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:$|[ .])", re.IGNORECASE)
#: Bytes that are read of one value; a name has room for 255.
_LONGEST_VALUE = 1 << 10
#: Component groups of a person's name (PS3.5 section 6.2.1.2), the preferred one first.
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


# Values, from the head of a file


def values_of(path: str, keywords: Collection[str], charset: str) -> dict[str, str]:
    """Read the values of fields from a file. Missing and unreadable ones are left out.

    Parameters
    ----------
    charset
        The character set of data sets that do not name one.

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
        found = part10.read_values(file, instance, {*wanted, SPECIFIC_CHARACTER_SET}, _LONGEST_VALUE)
    # Text is encoded alike in every transfer syntax, and matches have the same trouble with character sets.
    decoded = decode_match(encode_implicit(found), IMPLICIT_VR_LITTLE_ENDIAN, charset)
    return {keyword: _text(decoded.get(f"{tag:08X}", {})) for tag, keyword in wanted.items()}


def _text(element: dict[str, Any]) -> str:
    """The values of a DICOM JSON element (PS3.18 section F.2.2), joined."""
    return "_".join(_one(value) for value in element.get("Value") or [] if value is not None)


def _one(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    name = next((value[group] for group in _GROUPS if value.get(group)), "")
    return str(name).rstrip("^ ").replace("^", "_")


# Names


def of_value(value: str, keyword: str, width: int = 0) -> str:
    """Return a piece of a name for the value of a field; ``no-PatientID`` if it is empty.

    Parameters
    ----------
    width
        Pad a number with zeroes to this many digits.
    """
    text = value.strip(" \0")
    if width and re.fullmatch(r"[+-]?[0-9]{1,12}", text):
        text = f"{int(text):0{width}}"
    text = "".join(_harmless(each) for each in unicodedata.normalize("NFC", text)).strip()
    return text or f"no-{keyword}"


def _harmless(character: str) -> str:
    if character in _FORBIDDEN or unicodedata.category(character) in _UNSEEN:
        return "_"
    return " " if character.isspace() else character


def component(text: str, ending: str = "") -> str:
    """Return a name that no system mistakes for a hidden file, an option, a device or another directory.

    Parameters
    ----------
    text
        Pieces as :func:`of_value` returns them, and the text between them.
    ending
        The end of the name, such as ``.dcm``; it is never cut.

    Returns
    -------
    At most :data:`LONGEST` bytes. A name that had to be cut ends with a digest, so that two long names differ.
    """
    # One character replaces one, so that different names stay different.
    bare = text.rstrip(". ")
    text = bare + "_" * (len(text) - len(bare))
    bare = text.lstrip(".- ~")
    text = "_" * (len(text) - len(bare)) + bare
    if _DEVICE.match(text):
        text = f"_{text}"
    room = LONGEST - len(ending.encode())
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > room:
        digest = f"~{hashlib.sha256(encoded).hexdigest()[:8]}"
        text = encoded[: room - len(digest)].decode("utf-8", "ignore").rstrip(". ") + digest
    return text + ending
