"""Give a complete file its final name: never over another file without a trace, and never through a link.

A remote chooses the UIDs, and so the name. If a file of that name is there already and has other content, it keeps its
content under the name with ``.1`` added (or ``.2`` ...), and a remark gives the digests of both.

Directories are opened one below the other without following links, and the file is linked into the open directory. So
it cannot land elsewhere, even if somebody puts a link into the place of a directory meanwhile. Systems without
``openat`` (Windows) check each directory by its path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Self

from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.elements import DEFLATED, MalformedError
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.files.regular import open_regular
from pacs_tasks.errors import UnreadableInputError

#: Part of the remark on a file that came although another one had its name.
OTHER_CONTENT = "other content"
#: Names to try for an older file before one is chosen at random: somebody may send many in a row.
_NUMBERS = 20
#: Attempts to give a file its name while others take it, or remove the empty directory.
_MOST_TRIES = 100
#: Attempts to wait for an empty file, and seconds between them: somebody without hard links is about to fill it.
_PATIENCE, _PAUSE = 20, 0.01
#: Errors of a file system without hard links.
_NO_LINKS = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
_CHUNK = 1 << 20
#: What keeps the threads of a process apart where directories cannot be locked; Windows has one worker process.
_by_path = threading.Lock()
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NO_FOLLOW | getattr(os, "O_CLOEXEC", 0)
#: A directory above may be entered without being listed.
_ABOVE = _DIRECTORY | getattr(os, "O_PATH", 0)
#: Whether directories can be opened one below the other.
OPENAT = os.open in os.supports_dir_fd and os.link in os.supports_dir_fd and bool(_NO_FOLLOW)
#: A link in the place of an unfinished file is not followed.
_FOLLOW = os.link not in os.supports_follow_symlinks


@dataclass(frozen=True)
class Placed:
    """A file that has its final path, and what is remarkable about that, as a clause."""

    path: Path
    remark: str = ""


class Folder:
    """A directory below ``root`` in which files get their final names, open while this is a context.

    ``root`` must exist; directories between are made.

    Parameters
    ----------
    strict
        ``root`` had no link in its path when it was resolved, and must not have one now.

    Raises
    ------
    OSError
        On entry, if it cannot be opened or made, or one between is a link.
    """

    def __init__(self, root: Path, path: Path, *, strict: bool = False) -> None:
        self._root, self._path, self._strict = root, path, strict
        self._fd: int | None = None
        self._locked = False

    def __enter__(self) -> Self:
        # Each instance comes by here, and Path.relative_to takes as long as three directories.
        above = len(self._root.parts)
        parts = self._path.parts
        if parts[:above] != self._root.parts:
            raise ValueError("the directory is not below the top directory")
        if not OPENAT:
            self._path = _checked(self._root, parts[above:])
            return self
        top = open_directory(self._root) if self._strict else os.open(self._root, _DIRECTORY & ~_NO_FOLLOW)
        self._fd = _descend(top, parts[above:], make=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
        elif self._locked:
            _by_path.release()

    def _at(self, name: str) -> str:
        return name if self._fd is not None else str(self._path / name)

    def claim(self, temporary: Path, name: str) -> bool:
        """Give a file a free name; false if another one has it. Of two processes that want it at once, one gets it."""
        try:
            os.link(temporary, self._at(name), dst_dir_fd=self._fd, follow_symlinks=_FOLLOW)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._claim_without_links(temporary, name)
        temporary.unlink()
        return True

    def _claim_without_links(self, temporary: Path, name: str) -> bool:
        """Do the same by an empty file, which nobody mistakes for an instance."""
        self._lock()
        if not self._reserve(name):
            return False
        try:
            os.replace(temporary, self._at(name), dst_dir_fd=self._fd)
        except BaseException:
            os.unlink(self._at(name), dir_fd=self._fd)
            raise
        return True

    def _lock(self) -> None:
        """Keep others of this machine out of the directory until it is closed.

        One that stops for long between its empty file and its replacement would replace the file of another.
        """
        if self._locked:
            return
        self._locked = True
        if self._fd is None:
            _by_path.acquire()
            return
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - Windows has none

            # The file system may have no locks either.
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX)

    def _reserve(self, name: str) -> bool:
        try:
            os.close(os.open(self._at(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._fd))
        except FileExistsError:
            return False
        return True

    def settle(self, temporary: Path, name: str) -> str:
        """Give a file its name, whatever has that name now.

        Returns
        -------
        A remark, empty unless a file with other content had the name. If the same content is there, that file stays,
        with the time of now, and ``temporary`` is removed.
        """
        remark = ""
        for tries in range(_MOST_TRIES):
            if self.claim(temporary, name):
                return remark
            found = self._compare(temporary, name)
            if found is None:
                # It is gone again.
                continue
            if found.empty and tries < _PATIENCE:
                time.sleep(_PAUSE)
                continue
            if found.same:
                if not self._is(temporary, name):
                    temporary.unlink()
                return remark
            kept = self._move_aside(name)
            if kept and found.beginning and self._identity(kept) == found.identity:
                os.unlink(self._at(kept), dir_fd=self._fd)
            elif kept:
                remark = _remark(found, kept.removeprefix(name))
        raise FileExistsError(errno.EEXIST, "other files take the name of the instance again and again")

    def _is(self, temporary: Path, name: str) -> bool:
        """Whether a file has its final name already, by whatever path."""
        return os.path.realpath(temporary) == os.path.join(os.path.realpath(self._path), name)  # noqa: PTH118

    def _move_aside(self, name: str) -> str:
        """Move whatever has a name to a free one beside it; return that, or nothing if the name is free by now."""
        numbers = (f"{name}.{number}" for number in range(1, _NUMBERS))
        aside = next(filter(self._reserve, numbers), "")
        if not aside:
            aside = f"{name}.{secrets.token_hex(8)}"
            self._reserve(aside)
        try:
            # It replaces the empty file, and takes what is there at this moment, which nobody else can take then.
            os.replace(self._at(name), self._at(aside), src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException as error:
            os.unlink(self._at(aside), dir_fd=self._fd)
            if isinstance(error, FileNotFoundError):
                return ""
            raise
        return aside

    def _identity(self, name: str) -> tuple[int, int]:
        found = os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)
        return found.st_dev, found.st_ino

    def _compare(self, temporary: Path, name: str) -> _Compared | None:
        """Compare a file with what has its name; nothing if there is nothing any more."""
        try:
            descriptor = open_regular(self._at(name), flags=_NO_FOLLOW, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError:
            # A link, a pipe, or a file that we may not read.
            return _Compared()
        with FileIO(descriptor) as old, FileIO(open_regular(str(temporary))) as new:
            if os.fstat(old.fileno()).st_dev != os.fstat(new.fileno()).st_dev:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(temporary))
            found = _compared(old, new)
            if found.same:
                # The file counts as new: whoever waits for it sees that it has come.
                with suppress(OSError):
                    os.utime(descriptor if os.utime in os.supports_fd else self._at(name))
            return found


class _Compared(NamedTuple):
    """How an older file compares with a new one: the same content, or its beginning. ``identity``: device and inode."""

    same: bool = False
    beginning: bool = False
    empty: bool = False
    identity: tuple[int, int] | None = None
    old_sha256: str = ""
    new_sha256: str = ""


def _compared(old: FileIO, new: FileIO) -> _Compared:
    """Compare data sets: the file meta information names only who sent and who wrote."""
    found = os.fstat(old.fileno())
    identity = found.st_dev, found.st_ino
    before, now = _instance_in(old), _instance_in(new)
    # Where not even the file meta information of the older one is whole, all of both is compared.
    starts = (before.data_offset, now.data_offset if now else 0) if before else (0, 0)
    if before is None or (now is not None and _label(before) == _label(now)):
        left = found.st_size - starts[0], os.fstat(new.fileno()).st_size - starts[1]
        if left[0] <= left[1] and _begins_alike(old, new, starts, left[0]):
            same = left[0] == left[1]
            if same or not _is_whole(old, before):
                return _Compared(same=same, beginning=not same, empty=not found.st_size, identity=identity)
    return _Compared(identity=identity, old_sha256=_sha256(old, starts[0]), new_sha256=_sha256(new, starts[1]))


def _instance_in(file: FileIO) -> StoredInstance | None:
    with suppress(UnreadableInputError):
        return part10.read_descriptor(file.fileno())
    return None


def _label(instance: StoredInstance) -> tuple[str, ...]:
    return instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid


def _is_whole(file: FileIO, instance: StoredInstance | None) -> bool:
    """Whether a data set ends where its file does: it is no truncated copy of a longer one.

    Whether a deflated one does is not looked at: it stays.
    """
    if instance is None:
        return False
    try:
        return instance.transfer_syntax_uid in DEFLATED or sum(1 for _ in part10.walk_file(file, instance)) > 0
    except MalformedError:
        return False


def _begins_alike(old: FileIO, new: FileIO, starts: tuple[int, int], size: int) -> bool:
    old.seek(starts[0])
    new.seek(starts[1])
    while size > 0:
        part = old.read(min(_CHUNK, size))
        if not part or part != new.read(len(part)):
            return False
        size -= len(part)
    return True


def _sha256(file: FileIO, start: int) -> str:
    file.seek(start)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _remark(found: _Compared, ending: str) -> str:
    """Say that an older file had the name, as a clause; paths stay out of it."""
    if not found.old_sha256:
        return (
            f"something with {OTHER_CONTENT} that is not a readable file had its name and is kept with {ending} added"
        )
    return (
        f"an older file with {OTHER_CONTENT} had its name and is kept with {ending} added (SHA-256 of the data sets: "
        f"new {found.new_sha256}, older {found.old_sha256})"
    )


def open_directory(path: Path, *, make: bool = False) -> int:
    """Open a directory whose path had no links when it was resolved; not on Windows.

    Parameters
    ----------
    make
        Make it, and what is missing above it.

    Raises
    ------
    OSError
        If it cannot be opened, or a link has come into its path since.
    """
    if not make:
        descriptor = os.open(path, _DIRECTORY & ~_NO_FOLLOW)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
    return _descend(os.open(path.anchor, _DIRECTORY), path.parts[1:], make=make)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the system knows an open directory by this path, where it tells (Linux): one step instead of many."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)  # noqa: PTH115 - a Path takes ten times as long
    except OSError:
        return False


def _descend(descriptor: int, names: Sequence[str], *, make: bool) -> int:
    """Open directories one below the other; close all but the last."""
    try:
        for number, name in enumerate(names, 1):
            below = _open_below(descriptor, name, _DIRECTORY if number == len(names) else _ABOVE, make=make)
            os.close(descriptor)
            descriptor = below
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_below(descriptor: int, name: str, flags: int, *, make: bool) -> int:
    try:
        return os.open(name, flags, dir_fd=descriptor)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=descriptor)
        return os.open(name, flags, dir_fd=descriptor)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}:
            raise _link(name) from None
        raise


def _checked(root: Path, parts: tuple[str, ...]) -> Path:
    """Do the same by path."""
    current = root
    for name in parts:
        current /= name
        current.mkdir(exist_ok=True)
        if current.is_symlink() or current.resolve() != current.parent.resolve() / name:
            raise _link(name)
    return current


def _link(name: str) -> OSError:
    return OSError(errno.ELOOP, "a link is in the place of a directory", name)


def place(temporary: Path, root: Path, target: Path, *, strict: bool = False) -> str:
    """Give a file its final path below ``root``, as :meth:`Folder.settle`; return the remark.

    Parameters
    ----------
    strict
        As for :class:`Folder`.

    Raises
    ------
    OSError
        If it cannot; ``root`` itself is never made, because somebody may have moved it away on purpose.
    """
    for tries in range(1, _MOST_TRIES + 1):
        try:
            with Folder(root, target.parent, strict=strict) as folder:
                return folder.settle(temporary, target.name)
        except FileNotFoundError:
            # A cleaner may remove a new, still empty directory at any moment.
            if tries == _MOST_TRIES or not root.is_dir() or not temporary.exists():
                raise
    raise FileNotFoundError(errno.ENOENT, "the directory disappears each time it is made", str(target.parent))
