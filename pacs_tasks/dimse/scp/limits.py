"""Limits of what a sender may write: bytes of an instance, bytes of an association, and a reserve of free space."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pacs_tasks.dimse.upper_layer.wire import Wire

#: The reserve without a setting: so many bytes, or this part of a smaller file system.
_RESERVE = 1 << 30
_PART_OF_DISK = 20
#: The reserve of files on a file system that can hold only so many: this part of them, and so many on a small one, but
#: not more than a quarter.
_PART_OF_FILES = 20
_FILES, _MOST_OF_FILES = 1000, 4
#: Free space is read again after so many bytes and seconds at most, in case others write too.
_UNREAD = 1 << 26
_UNREAD_FOR = 0.25
#: Of what may still be written, this process writes at most so much without reading again: others do the same.
_PART_OF_REST = 8
#: Bytes that a sender may go on to send of an instance that is too large, to receive the response.
_DRAINED = 1 << 26


class LimitError(Exception):
    """An instance is not written further; the text is the Error Comment, which has at most 64 characters."""


class Space:
    """The free space of the file system of a directory, in bytes and in files. Thread-safe.

    Parameters
    ----------
    keep
        Bytes that stay free. None is a gibibyte, or a twentieth of a smaller file system. 0 keeps no reserve of files
        either.
    """

    def __init__(self, directory: Path, keep: int | None = None) -> None:
        self._directory, self._keep = directory, keep
        # Threads may count wrongly at the same moment; the next read corrects that.
        self._unread, self._until = 0, -math.inf

    def take(self, size: int, times: int = 1) -> None:
        """Announce that so many bytes are written now.

        Parameters
        ----------
        times
            How many times the reserve must stay free.

        Raises
        ------
        LimitError
            If that would touch the reserve.
        OSError
            If the free space cannot be read.
        """
        self._unread -= size
        if self._unread >= 0 and times == 1 and time.monotonic() < self._until:
            return
        total, _, free = shutil.disk_usage(self._directory)
        keep = min(_RESERVE, total // _PART_OF_DISK) if self._keep is None else self._keep
        rest = free - size - times * keep
        if keep and rest < 0:
            self._unread = 0
            raise LimitError("the disk of the receiver is almost full")
        if keep and not self._has_files(times):
            self._unread = 0
            raise LimitError("the disk of the receiver has no room for more files")
        self._unread = min(rest // _PART_OF_REST, _UNREAD)
        self._until = time.monotonic() + _UNREAD_FOR

    def _has_files(self, times: int) -> bool:
        """Whether more files than the reserve may be made: small ones use up the inodes long before the bytes."""
        enough = True
        if sys.platform != "win32":
            found = os.statvfs(self._directory)
            # Those that make inodes as they need them, such as btrfs, report 0.
            reserve = max(found.f_files // _PART_OF_FILES, min(_FILES, found.f_files // _MOST_OF_FILES))
            enough = found.f_favail >= times * reserve
        return enough


@dataclass(frozen=True)
class Limits:
    """The limits of each association.

    Attributes
    ----------
    instance, association
        Bytes of data sets.
    space
        The file system to which they are written; None does without a reserve.
    """

    instance: float = math.inf
    association: float = math.inf
    space: Space | None = None


NO_LIMITS = Limits()


class Intake:
    """What one association has brought so far, and whether it may bring more."""

    def __init__(self, limits: Limits, wire: Wire) -> None:
        self._limits, self._wire = limits, wire
        self._instance = self._association = 0

    def begin(self) -> None:
        """Begin an instance.

        Raises
        ------
        PeerUnavailableError
            If the association has had its last response. It is aborted.
        """
        self._instance = 0
        if self._association > self._limits.association:
            raise self._wire.lost("went on to send after its association had reached the limit of bytes.")

    def take(self, size: int) -> None:
        """Count bytes that are to be written.

        Raises
        ------
        LimitError
            If they are too many.
        """
        self.drain(size)
        if self._instance > self._limits.instance:
            raise LimitError("the instance is larger than this receiver accepts")
        if self._association > self._limits.association:
            raise LimitError("the association has reached its limit of bytes")
        if self._limits.space is not None:
            self._limits.space.take(size)

    def drain(self, size: int) -> None:
        """Count bytes that are not written, so that the sender can receive the response.

        Raises
        ------
        PeerUnavailableError
            If they do not end. The association is aborted.
        """
        self._instance += size
        self._association += size
        if self._instance > self._limits.instance + _DRAINED:
            raise self._wire.lost("sent an instance without end. The association was aborted.")
