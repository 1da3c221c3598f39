"""The directory of a ZIP archive (APPNOTE 4.3.12), counted before :mod:`zipfile` makes an object of each entry.

An entry takes ten times its 46 bytes there, and all entries may point to the same file.
"""

from __future__ import annotations

import os
import struct
import zipfile
from typing import IO

#: The beginnings of a ZIP archive: of a file, and of the end where it holds none.
ZIP = (b"PK\3\4", b"PK\5\6")
#: The end record: bytes of the directory.
_END, _END_SIGNATURE = struct.Struct("<12xL6x"), b"PK\5\6"
#: The same in ZIP64, and between the two what points to it.
_END_64, _END_64_SIGNATURE, _LOCATOR, _LOCATOR_SIGNATURE = struct.Struct("<40xQ8x"), b"PK\6\6", 20, b"PK\6\7"
_IN_ZIP64 = 0xFFFF_FFFF
#: The header of an entry: bytes of its name, its extra fields and its comment, which follow.
_ENTRY, _ENTRY_SIGNATURE = struct.Struct("<28xHHH12x"), b"PK\1\2"
#: Bytes of the comment behind the end record, as zipfile has it.
_LONGEST_COMMENT = 1 << 16
#: Bytes of a directory, which zipfile reads at once.
_LARGEST = 1 << 28
_PIECE = 1 << 16


def has_more_than(most: int, file: IO[bytes]) -> bool:
    """Whether the directory of a ZIP archive has more entries, or more bytes than any directory should.

    Raises
    ------
    zipfile.BadZipFile
        If it is damaged.
    """
    start, size = _place(file)
    if size > _LARGEST:
        return True
    # Otherwise it has no room for more.
    return size // _ENTRY.size > most and _count(file, start, size, most) > most


def _place(file: IO[bytes]) -> tuple[int, int]:
    """Give the position and the size of the directory. Other data may be in front of the archive."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _END.size - _LONGEST_COMMENT))
    tail = file.read()
    at = len(tail) - _END.size
    # zipfile looks at the very end first.
    if at < 0 or not (tail.startswith(_END_SIGNATURE, at) and tail.endswith(b"\0\0")):
        at = tail.rfind(_END_SIGNATURE)
    if not 0 <= at <= len(tail) - _END.size:
        raise zipfile.BadZipFile("no end record")
    (size,) = _END.unpack_from(tail, at)
    record = end - len(tail) + at
    start = record - size
    file.seek(max(0, record - _LOCATOR))
    if file.read(len(_LOCATOR_SIGNATURE)) == _LOCATOR_SIGNATURE:
        file.seek(max(0, record - _LOCATOR - _END_64.size))
        head = file.read(_END_64.size)
        # Versions of zipfile differ in what they read where this record is elsewhere, or contradicts the other one.
        if len(head) < _END_64.size or not head.startswith(_END_64_SIGNATURE):
            raise zipfile.BadZipFile("no end record of ZIP64")
        (large,) = _END_64.unpack(head)
        if size not in {large, _IN_ZIP64}:
            raise zipfile.BadZipFile("two end records that differ")
        start, size = record - _LOCATOR - _END_64.size - large, large
    if start < 0:
        raise zipfile.BadZipFile("the directory begins before the file")
    return start, size


def _count(file: IO[bytes], start: int, size: int, most: int) -> int:
    """Count the entries, but not many more than ``most``."""
    file.seek(start)
    count, at, piece, left = 0, 0, b"", size
    while count <= most and (left or at < len(piece)):
        if at + _ENTRY.size > len(piece):
            more = file.read(min(_PIECE, left))
            left -= len(more)
            # Names may end beyond what was read.
            at, piece = max(0, at - len(piece)), piece[at:] + more
            if not more:
                raise zipfile.BadZipFile("a directory that is cut off")
            continue
        if not piece.startswith(_ENTRY_SIGNATURE, at):
            raise zipfile.BadZipFile("no entry of a directory")
        at += _ENTRY.size + sum(_ENTRY.unpack_from(piece, at))
        count += 1
    return count
