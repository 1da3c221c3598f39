"""Uploaded files, in a directory that the workers see too, until their job is done or they expire.

An upload is a directory with its id as the name. It has the directory ``files`` or the archive ``files.zip``, and the
file ``jobs`` with the jobs that read it. Files are numbered: no name of a client becomes a path.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from pacs_tasks.client import PacsClient
from pacs_tasks.dimse.sources.zip_directory import ZIP, has_more_than
from pacs_tasks.errors import JobNotFoundError
from pacs_tasks.operations import TRANSFERS
from pacs_tasks.outcome import Progress
from pacs_tasks.serve.problems import RefusedError

#: Files of one upload.
_MOST_FILES = 100_000
#: Bytes of the disk that stay free.
_RESERVE = 1 << 30
_FILES, _ARCHIVE, _JOBS = "files", "files.zip", "jobs"
#: The ending of an upload that is not whole yet.
_PART = ".part"


class Parts:
    """The files of a body of type multipart/form-data (RFC 7578): each part is one."""

    def __init__(self, directory: Path, boundary: bytes) -> None:
        directory.mkdir()
        self.count = 0
        self._directory, self._whole = directory, False
        self._file: BinaryIO | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def write(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except MultipartParseError:
            raise not_whole() from None

    def close(self) -> None:
        self._end()

    def verify(self) -> None:
        """Verify that the body was whole; raises :class:`RefusedError` if not."""
        if not self._whole:
            raise not_whole()

    def _begin(self) -> None:
        self.count += 1
        if self.count > _MOST_FILES:
            raise too_large(f"more than {_MOST_FILES} files")
        self._file = (self._directory / f"{self.count:06}").open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _finish(self) -> None:
        self._whole = True


class Archive:
    """A ZIP archive, which workers unpack file by file; ``most`` is the number of bytes that it may unpack to."""

    def __init__(self, path: Path, most: int) -> None:
        self.count = 0
        self._path, self._most, self._file = path, most, path.open("xb")

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def close(self) -> None:
        self._file.close()

    def verify(self) -> None:
        """Verify that the body was whole; raises :class:`RefusedError` if not."""
        try:
            with self._path.open("rb") as file:
                # Workers know a ZIP by its beginning. What begins as a tar would be read as one.
                if not file.read(len(ZIP[0])).startswith(ZIP):
                    raise not_whole()
                if has_more_than(_MOST_FILES, file):
                    raise too_large(f"more than {_MOST_FILES} files")
                with zipfile.ZipFile(file) as archive:
                    members = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise not_whole() from None
        self.count = sum(not each.is_dir() for each in members)
        # zipfile never unpacks more of a member than this. Members that share their bytes count each.
        if sum(each.file_size for each in members) > self._most:
            raise too_large(f"more than {self._most} bytes once it is unpacked")


class Upload:
    """An upload that is being received. It has its name once it is whole; otherwise nothing is left of it."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.id = uuid.uuid4().hex
        self.size = 0
        self._limit, self._whole = limit, directory / self.id
        self._path = directory / f"{self.id}{_PART}"
        directory.mkdir(parents=True, exist_ok=True)
        self._path.mkdir()

    def sink(self, boundary: bytes | None) -> Parts | Archive:
        """Open the files: those of a multipart body with this boundary, or an archive."""
        if boundary is None:
            return Archive(self._path / _ARCHIVE, self._limit)
        return Parts(self._path / _FILES, boundary)

    def write(self, sink: Parts | Archive, data: bytes) -> None:
        """Write a piece of the body.

        Raises
        ------
        RefusedError
            If it is too large, or the disk is full.
        """
        self.size += len(data)
        if self.size > self._limit:
            raise too_large(f"more than {self._limit} bytes")
        if shutil.disk_usage(self._path).free < _RESERVE:
            raise RefusedError(507, "UploadsFullError", "The disk for uploads is full. Try again once jobs have ended.")
        sink.write(data)

    def finish(self) -> None:
        """Give it its name."""
        self._path.rename(self._whole)

    def discard(self) -> None:
        """Remove what was received unless it is whole."""
        shutil.rmtree(self._path, ignore_errors=True)


class Spool:
    """All uploads.

    Parameters
    ----------
    directory
        Where they are.
    limit
        Bytes that one may have, packed and unpacked.
    keep
        Seconds after which one expires that no unfinished job reads.
    """

    def __init__(self, directory: Path, limit: int, keep: float) -> None:
        self._directory, self.limit, self.keep = directory, limit, keep

    def begin(self) -> Upload:
        """Begin to receive an upload."""
        return Upload(self._directory, self.limit)

    def path(self, upload_id: str, known: Collection[str] = ()) -> Path:
        """Return the directory or the archive that a request may name.

        Parameters
        ----------
        known
            The paths of the job that the same call has enqueued before. Its upload may be removed by now.

        Raises
        ------
        RefusedError
            If there is no such upload.
        """
        place = self._place(upload_id)
        for each in map(Path, known):
            if each.parent == place:
                return each
        found = self._find(upload_id)
        return found / _FILES if (found / _FILES).is_dir() else found / _ARCHIVE

    def note_job(self, upload_id: str, job_id: str) -> None:
        """Note that a job reads an upload, unless that is removed by now."""
        with contextlib.suppress(FileNotFoundError), (self._place(upload_id) / _JOBS).open("a") as file:
            file.write(f"{job_id}\n")

    def remove(self, upload_id: str, client: PacsClient) -> None:
        """Remove an upload.

        Raises
        ------
        RefusedError
            If there is none, or an unfinished job reads it.
        """
        found = self._find(upload_id)
        if any(not each.state.finished for each in _jobs(found, client)):
            raise RefusedError(
                409, "UploadInUseError", "A job that has not ended reads this upload. Cancel it, or wait for its end."
            )
        shutil.rmtree(found, ignore_errors=True)

    def sweep(self, client: PacsClient) -> int:
        """Remove each upload whose files were all sent, and each that has expired; return their number."""
        removed = 0
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if self._is_over(path, client):
                    shutil.rmtree(path, ignore_errors=True)
                    removed += 1
        return removed

    def _is_over(self, path: Path, client: PacsClient) -> bool:
        jobs = list(_jobs(path, client))
        transfers = [each for each in jobs if each.task in TRANSFERS]
        if any(not each.state.finished for each in jobs):
            return False
        newest = max(each.stat().st_mtime for each in (path, *path.iterdir()))
        return (bool(transfers) and all(map(_complete, transfers))) or time.time() - newest > self.keep

    def _place(self, upload_id: str) -> Path:
        """Give the directory of an upload, which may be removed. An id that is a path would lead out of the spool."""
        if re.fullmatch("[0-9a-f]{32}", upload_id) is None:
            raise _not_found()
        return self._directory / upload_id

    def _find(self, upload_id: str) -> Path:
        found = self._place(upload_id)
        if not found.is_dir():
            raise _not_found()
        return found


def _jobs(path: Path, client: PacsClient) -> Iterator[Progress]:
    """Read the jobs that read an upload, as far as they are kept."""
    with contextlib.suppress(FileNotFoundError):
        for job_id in (path / _JOBS).read_text().split():
            with contextlib.suppress(JobNotFoundError):
                yield client.job(job_id).progress()


def _complete(progress: Progress) -> bool:
    """Whether a job has sent everything, so that nobody will retry it."""
    counters = progress.counters
    sent = 0 < counters.total == counters.done + counters.skipped
    return progress.state.finished and sent


def _not_found() -> RefusedError:
    return RefusedError(
        404, "UploadNotFoundError", "There is no such upload, or it was removed. Upload the files again."
    )


def too_large(why: str) -> RefusedError:
    return RefusedError(413, "ContentTooLargeError", f"The upload has {why}. Divide it.")


def not_whole() -> RefusedError:
    return RefusedError(400, "MalformedUploadError", "The upload is damaged or not whole. Send it again.")
