"""A part of a file that is read piece by piece."""

from __future__ import annotations

from io import FileIO

from pacs_tasks.errors import UnreadableInputError


class FileSlice:
    """``length`` bytes of an open file, from ``offset`` on.

    Where bytes are copied anyway it takes the place of a memory map: a file that becomes shorter is an error to whom
    reads it, and the end of the process to whom touches its map.
    """

    def __init__(self, file: FileIO, offset: int, length: int) -> None:
        self._file, self._offset, self._length = file, offset, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, wanted: slice) -> bytes:
        """Read a piece; slices have no step here.

        Raises
        ------
        UnreadableInputError
            If the file became shorter, or cannot be read any more.
        """
        start, stop, _ = wanted.indices(self._length)
        try:
            self._file.seek(self._offset + start)
            content = self._file.read(stop - start)
        except OSError as error:
            raise UnreadableInputError(f"the file can no longer be read ({error.strerror}); send it again") from None
        if len(content) != stop - start:
            raise UnreadableInputError("the file became shorter while it was sent; send it again")
        return content
