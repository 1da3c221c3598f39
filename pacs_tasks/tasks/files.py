"""The files that a request names, below directories and URLs and in archives, and the instance in each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path

from pacs_tasks.dimse.files import damage, part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.files.regular import is_of_system
from pacs_tasks.dimse.sources import archive, objects
from pacs_tasks.dimse.sources.archive import Unpacked
from pacs_tasks.dimse.sources.members import Member
from pacs_tasks.errors import DamagedFileError, JobCancelledError, NotDicomError, UnreadableInputError
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import FilesRequest
from pacs_tasks.source import is_url
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.permissions import check_file, check_source, here


class Kind(Enum):
    """What a path or a URL must name."""

    ANY = auto()
    FILE = auto()
    DIRECTORY = auto()


def listed(named: Sequence[str], claim: Claim, kind: Kind = Kind.ANY) -> Iterator[FileLine]:
    """Give the files that paths and URLs name. Archives are listed where anything may be named.

    Parameters
    ----------
    claim
        It is called for each file, and each entry of an archive.

    Raises
    ------
    UnreadableInputError
        If there is nothing of that name and kind, or it cannot be listed.
    JobCancelledError
        If the job was cancelled meanwhile.
    """

    def check() -> None:
        if claim():
            raise JobCancelledError("The job was cancelled before it sent anything.")

    for each in named:
        if is_url(each):
            found = _objects_of(each, check, kind)
        elif kind is Kind.DIRECTORY or (kind is Kind.ANY and Path(each).is_dir()):
            readable_directory(each)
            found = (FileLine(path, size) for path, size in files_below(each))
        else:
            readable_file(each)
            if kind is Kind.ANY and archive.is_archive(each):
                found = _members_of(each, check)
            else:
                found = iter([FileLine(each, Path(each).stat().st_size)])
        for line in found:
            check()
            yield line


def readable_file(path: str) -> None:
    """Raise :class:`UnreadableInputError` unless ``path`` is a file that this worker can see."""
    if Path(path).is_dir():
        raise UnreadableInputError("The path is a directory. Name a file, or use send-dir.", path)
    if not Path(path).exists():
        raise UnreadableInputError(
            f"{here()} cannot find the file. Check the path, or mount its storage on the worker's machine.", path
        )


def readable_directory(path: str) -> None:
    """Raise :class:`UnreadableInputError` unless ``path`` is a directory that this worker can list."""
    try:
        if is_of_system(Path(path).stat()):
            raise UnreadableInputError(
                "The directory is in /proc or /sys, with nothing to send. Name another one.", path
            )
        with os.scandir(path):
            return
    except FileNotFoundError:
        raise UnreadableInputError(
            f"{here()} cannot find the directory. Check the path, or mount its storage on the worker's machine.", path
        ) from None
    except NotADirectoryError:
        raise UnreadableInputError("The path is not a directory. Name a directory, or use send-file.", path) from None
    except OSError as error:
        raise UnreadableInputError(
            f"{here()} cannot list the directory ({error.strerror}). Check its permissions.", path
        ) from None


def files_below(directory: str) -> Iterator[tuple[str, int]]:
    """Every file below ``directory`` with its size in bytes, in the order of names.

    A directory that cannot or must not be listed counts as a file, so that the part that reads it reports the error.
    Links to directories are followed only once.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [directory]
    while waiting:
        current = waiting.pop()
        try:
            check_file(current)
        except UnreadableInputError:
            yield current, 0
            continue
        try:
            stat = Path(current).stat()
            if is_of_system(stat):
                yield current, 0
                continue
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            yield current, 0
            continue
        if stat.st_ino and (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below = []
        for entry in entries:
            try:
                if entry.is_dir():
                    below.append(entry.path)
                else:
                    yield entry.path, entry.stat().st_size
            except OSError:
                yield entry.path, 0
        waiting.extend(reversed(below))


def _objects_of(url: str, check: Callable[[], object], kind: Kind) -> Iterator[FileLine]:
    found = None if kind is Kind.DIRECTORY else objects.found(url)
    if found is None:
        if kind is Kind.FILE:
            raise UnreadableInputError("The URL names no object. Use send or send-dir for all that is below it.", url)
        below = objects.below(url)
        if not below:
            raise UnreadableInputError("There is nothing at this URL and below it. Check it.", url)
        yield from (FileLine(each.url, each.size, each.url) for each in below)
    elif kind is Kind.ANY and archive.is_archive(url):
        yield from _members_of(url, check)
    else:
        yield FileLine(url, found.size, url)


def _members_of(path: str, check: Callable[[], object]) -> Iterator[FileLine]:
    return (FileLine(each.path, each.size, path, each.place) for each in archive.members(path, check))


def instance_in(path: str, *, packed: bool = False) -> StoredInstance:
    """The instance in a file, which was ``packed`` in an archive or not."""
    try:
        return part10.read_instance(path)
    except NotDicomError:
        if not archive.is_archive(path):
            raise
        if packed:
            raise NotDicomError(
                "The file is an archive in an archive. Unpack the outer one, and name this one in `pacs-tasks send`.",
                path,
            ) from None
        raise NotDicomError(
            "The file is an archive. Name it in `pacs-tasks send` to send the files in it.", path
        ) from None


def read_header(line: FileLine, unpacked: Unpacked, request: FilesRequest) -> StoredInstance | InstanceOutcome:
    """The instance in a file; else SKIPPED for a file that is not one, FAILED for an unreadable or damaged one."""
    member = Member(line.path, line.size, line.place)
    try:
        if not line.archive:
            check_file(line.path)
            return _judged(instance_in(line.path), request)
        check_source(line.archive)
        path = unpacked.file(line.archive, member)
        try:
            return _judged(instance_in(path, packed=True), request)
        except (DamagedFileError, UnreadableInputError):
            unpacked.discard(line.archive, member)
            raise
    except NotDicomError as error:
        return InstanceOutcome.unanswered(line.path, error, InstanceCategory.SKIPPED)
    except (DamagedFileError, UnreadableInputError) as error:
        return InstanceOutcome.unanswered(line.path, error)


def _judged(instance: StoredInstance, request: FilesRequest) -> StoredInstance:
    try:
        return damage.judged(instance, repair=request.repair)
    except DamagedFileError:
        if not request.send_damaged:
            raise
        return replace(instance, padding=part10.AS_IT_IS)
