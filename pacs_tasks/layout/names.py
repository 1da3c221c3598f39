"""Names of directories and files from values that anybody may have written: harmless, and still to be recognised."""

from __future__ import annotations

import hashlib
import re
import unicodedata

#: What a file system takes of one name (ext4, NTFS, APFS, XFS), in bytes of UTF-8.
LONGEST = 255
#: What may not stand in a name on one of the systems that files are copied to.
_FORBIDDEN = frozenset('/\\<>:"|?*')
#: Control and format characters (a right-to-left mark turns ``gpj.exe`` round), halves of pairs, and line ends.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"))
#: Devices of Windows, with any ending.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?:$|[ .])", re.IGNORECASE)


def of_value(value: str, keyword: str, width: int = 0) -> str:
    """Give a piece of a name for the value of a field; ``no-PatientID`` where there is none."""
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
    """Give a name that no system takes for something else: hidden, an option, a device, another directory.

    Parameters
    ----------
    text
        Pieces as :func:`of_value` gives them, and what stands between them.
    ending
        What the name ends with in any case, such as ``.dcm``.

    Returns
    -------
    At most :data:`LONGEST` bytes. What had to be cut has a digest of the whole, so that two that begin alike differ.
    """
    # One sign for one sign, so that names stay apart.
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
