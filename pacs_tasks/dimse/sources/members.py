"""The members of a ZIP or tar archive, and one of them at a time, opened by its place."""

from __future__ import annotations

import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, Self, cast

from pacs_tasks.errors import UnreadableInputError

_ENCRYPTED = 0x1
_CHUNK = 1 << 20


class Member(NamedTuple):
    """A file in an archive: its path below that of the archive, its size in bytes, its place in the archive.

    In a ZIP, the place is that in its directory; in a tar, that of its header in bytes, or -1 minus that where the tar
    is compressed, so that it can only be read from its beginning.
    """

    path: str
    size: int
    place: int


class Packed(ABC):
    """An archive that is open."""

    #: Bytes that were unpacked to list it so far.
    unpacked = 0

    @abstractmethod
    def members(self) -> Iterator[Member | None]:
        """Give its files in its own order, and whatever else there is; ``None`` for a directory."""

    @abstractmethod
    def check_end(self, most: int) -> None:
        """Read what follows the members, at most so many bytes of it, to know that all of it is there."""

    @abstractmethod
    @contextmanager
    def opened(self, member: Member) -> Iterator[IO[bytes]]:
        """Open a member.

        Raises
        ------
        UnreadableInputError
            If it is not there any more, or is encrypted, or no file.
        """


class Zip(Packed):
    """A ZIP archive, from its directory."""

    def __init__(self, path: str, file: zipfile.ZipFile) -> None:
        self._path, self._file = path, file

    def members(self) -> Iterator[Member | None]:
        for place, each in enumerate(self._file.infolist()):
            yield None if each.is_dir() else Member(f"{self._path}/{each.filename}", each.file_size, place)

    def check_end(self, most: int) -> None:
        """Its directory is its end."""

    @contextmanager
    def opened(self, member: Member) -> Iterator[IO[bytes]]:
        found = self._file.infolist()
        info = found[member.place] if member.place < len(found) else None
        if info is None or (f"{self._path}/{info.filename}", info.file_size) != member[:2]:
            raise changed(self._path)
        if info.flag_bits & _ENCRYPTED:
            raise UnreadableInputError("The file is encrypted. Unpack the archive and send the directory.", member.path)
        with self._file.open(info) as file:
            yield file


#: Headers that hold a long name or attributes for the next one, and how long these may be: tarfile reads them whole.
_FOR_THE_NEXT = frozenset((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"X"))
_LONGEST = 1 << 16
#: Such headers before one member. pax and GNU know four kinds.
_MOST_FOR_THE_NEXT = 8
#: What no global header may give to every member that follows: one long name would be repeated a million times.
_NOT_FOR_ALL = ("path", "linkpath", "size", "GNU.sparse.")


class _Headers(tarfile.TarFile):
    """A tar whose headers for the next member are counted."""

    for_the_next = 0


class _Header(tarfile.TarInfo):
    """A header of a tar. tarfile takes a damaged one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, file: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(file)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed does not know it
            raise
        except tarfile.HeaderError:
            raise tarfile.ReadError("damaged") from None

    def _proc_member(self, file: tarfile.TarFile) -> Self:
        """Judge a header, also one that comes after others for its member: every version of tarfile calls this."""
        # The map of a sparse file may have any length, and no file of DICOM is sparse in a tar.
        if self.type == tarfile.GNUTYPE_SPARSE or (self.type in _FOR_THE_NEXT and self.size > _LONGEST):
            raise tarfile.ReadError("not a tar of ordinary files")
        if isinstance(file, _Headers):
            file.for_the_next += 1
            if file.for_the_next > _MOST_FOR_THE_NEXT:
                raise tarfile.ReadError("headers without a member")
        return cast(Self, super()._proc_member(file))  # type: ignore[misc]  # typeshed does not know it

    def _proc_builtin(self, file: tarfile.TarFile) -> Self:
        """Take over what global headers say."""
        if isinstance(file, _Headers):
            file.for_the_next = 0
        said = file.pax_headers
        if any(key.startswith(_NOT_FOR_ALL) for key in said) or sum(map(len, (*said, *said.values()))) > _LONGEST:
            raise tarfile.ReadError("not a tar of ordinary files")
        return cast(Self, super()._proc_builtin(file))  # type: ignore[misc]  # typeshed does not know it

    def _proc_gnusparse_10(self, *_: object) -> Self:
        """Refuse the other kind of a sparse file, of which tarfile reads a map of any length."""
        raise tarfile.ReadError("not a tar of ordinary files")


class Tar(Packed):
    """A tar archive.

    Parameters
    ----------
    in_order
        It is compressed, so that every way back leads over its beginning.
    """

    def __init__(self, path: str, file: IO[bytes], *, in_order: bool) -> None:
        self._path, self._file, self._in_order = path, file, in_order

    def members(self) -> Iterator[Member | None]:
        with self._read_from(0) as archive:
            while (each := archive.next()) is not None:
                # It keeps them all.
                archive.members.clear()  # type: ignore[attr-defined]  # typeshed does not know it
                self.unpacked = each.offset_data
                place = -1 - each.offset if self._in_order else each.offset
                yield None if each.isdir() else Member(f"{self._path}/{each.name}", each.size, place)

    def check_end(self, most: int) -> None:
        read = 0
        while chunk := self._file.read(_CHUNK):
            read += len(chunk)
            if read > most:
                raise tarfile.ReadError("without end")

    @contextmanager
    def opened(self, member: Member) -> Iterator[IO[bytes]]:
        with self._read_from(-1 - member.place if member.place < 0 else member.place) as archive:
            info = archive.next()
            if info is None or (f"{self._path}/{info.name}", info.size) != member[:2]:
                raise changed(self._path)
            file = archive.extractfile(info) if info.isreg() else None
            if file is None:
                raise UnreadableInputError(
                    "This is a link or a device in the archive, not a file. Unpack the archive and send the directory.",
                    member.path,
                )
            with file:
                yield file

    @contextmanager
    def _read_from(self, place: int) -> Iterator[tarfile.TarFile]:
        self._file.seek(place)
        # Closing it leaves the file open. A name that is not UTF-8 cannot be recorded as it is.
        with _Headers(fileobj=self._file, tarinfo=_Header, errorlevel=2, errors="replace") as archive:
            yield archive


def changed(path: str) -> UnreadableInputError:
    """The error about an archive that is not what it was."""
    return UnreadableInputError("The archive has changed since the job began. Send it again.", path)
