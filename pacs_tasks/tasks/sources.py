"""What a request names to send, as lines of a manifest: files, what is below directories and URLs, and in archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path

from pacs_tasks.dimse.sources import archive, objects
from pacs_tasks.errors import JobCancelledError, UnreadableInputError
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.source import is_url
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.paths import files_below, readable_directory, readable_file


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
