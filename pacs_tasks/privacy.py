"""What other users of a machine can read, and what a terminal can be made to do by the text of others."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Literal

#: C0, C1 and DEL steer a terminal (ECMA-48), and marks of direction change the order in which text is read (Unicode
#: Standard Annex #9): a name would show as another one. U+2028 and U+2029 begin a line.
_STEERING = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]"
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

#: What the members of a file's group may do with it.
GroupAccess = Literal["none", "read", "write"]
_UMASKS: dict[GroupAccess, int] = {"none": 0o077, "read": 0o027, "write": 0o007}

#: The contents of a log file beyond this many bytes move to ``<name>.1``, those to ``<name>.2``, and so on.
LOG_LIMIT = 10 * 1024 * 1024
_OLD_LOGS = 3


def plain(text: str) -> str:
    r"""Show each character that steers a terminal as an escape, such as ``\u001b``, which JSON reads as well."""
    if text.isprintable():
        return text
    return re.sub(_STEERING, lambda found: _NAMED.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


def keep_private(access: GroupAccess = "none") -> int:
    """Make every file and directory that this process creates private to its owner, or to its group as well.

    Returns
    -------
    int
        The umask before. On Windows, nothing changes: there the directory decides.
    """
    return os.umask(_UMASKS[access] if sys.platform != "win32" else 0)


def directory_mode(access: GroupAccess) -> int:
    """Return the mode of a directory that has files with this access."""
    return 0o777 & ~_UMASKS[access]


def rotate(path: Path) -> None:
    """Begin a new log file where this one is too long. A process that has it open continues in the old one."""
    # Windows does not rename an open file.
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size > LOG_LIMIT:
            for number in range(_OLD_LOGS, 0, -1):
                newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
                if newer.exists():
                    newer.replace(path.with_name(f"{path.name}.{number}"))
