"""A file's data set, walked by its headers: what lies between them is not read.

Not by a memory map: a file that somebody shortens meanwhile would end the process that touches its map.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import FileIO

from pacs_tasks.dimse.files.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    UNDEFINED,
    Element,
    Encoding,
    MalformedError,
    Walking,
    inflate,
    walk,
)
from pacs_tasks.dimse.files.part10 import StoredInstance

#: One read holds the headers of most instances in front of their pixel data.
_WINDOW = 1 << 13
_HEADER = 12


class _InFile(Walking):
    """The same walk over an open file: ``data`` is the piece that begins at ``_start``."""

    def __init__(self, file: FileIO, size: int, encoding: Encoding) -> None:
        super().__init__(b"", encoding)
        self._file, self._start, self._all = file, 0, size

    def header(self, position: int, explicit: bool) -> tuple[int, int, int]:
        self._see(position)
        tag, length, value = super().header(position - self._start, explicit)
        return tag, length, value + self._start

    def unknown(self, position: int) -> bool:
        self._see(position)
        return super().unknown(position - self._start)

    def _see(self, position: int) -> None:
        """Have the bytes of one header here, or those that are left of the file."""
        if self._start <= position <= self._start + self.size - _HEADER:
            return
        if position > self._all:
            raise MalformedError("it is cut off")
        self._file.seek(position)
        self.data = self._file.read(_WINDOW)
        self._start, self.size = position, len(self.data)


def elements(file: FileIO, instance: StoredInstance) -> Iterator[Element]:
    """Give the outermost elements of a data set that is not deflated, each once its end was found.

    Raises
    ------
    MalformedError
        Where the lengths do not add up to exactly the end of the file, or tags do not ascend (PS3.5 section 7.1).
    OSError
        If the file cannot be read any more.
    """
    encoding = Encoding.of(instance.transfer_syntax_uid)
    walking = _InFile(file, instance.size, encoding)
    position, last = instance.data_offset, -1
    while position < instance.size:
        tag, length, value = walking.header(position, encoding.explicit)
        if tag <= last:
            # What was to be written later is often zeroes.
            raise MalformedError("its elements are out of order")
        last = tag
        if length == UNDEFINED:
            position = walking.skip(value, encoding.explicit and not walking.unknown(position))
        else:
            position = value + length
        if position > instance.size:
            raise MalformedError("it is cut off")
        yield Element(tag, value, None if length == UNDEFINED else length)


def values(file: FileIO, instance: StoredInstance, wanted: Collection[int], longest: int) -> dict[int, bytes]:
    """Read values from the head of a data set, as far as it can be walked; never more than ``longest`` bytes of one."""
    found: dict[int, bytes] = {}
    last = max(wanted)
    deflated = instance.transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    try:
        content = _beginning(file, instance) if deflated else b""
        encoding = Encoding.of(instance.transfer_syntax_uid)
        for element in walk(content, encoding) if deflated else elements(file, instance):
            if element.tag > last:
                break
            if element.tag in wanted and element.length is not None:
                length = min(element.length, longest)
                if deflated:
                    found[element.tag] = content[element.position : element.position + length]
                else:
                    file.seek(element.position)
                    found[element.tag] = file.read(length)
    except MalformedError:
        # What stands in front of it is true all the same.
        pass
    return found


def _beginning(file: FileIO, instance: StoredInstance) -> bytes:
    file.seek(instance.data_offset)
    return inflate(file.read(instance.size - instance.data_offset), 0)
