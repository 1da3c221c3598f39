"""The encoded data set of a file, read block by block while it is sent."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from typing import Self

from pacs_tasks.dimse.files.elements import (
    DEFLATED,
    SERIES_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.files.part10 import StoredInstance, own_uids, unreadable
from pacs_tasks.dimse.files.regular import read_regular
from pacs_tasks.errors import UnreadableInputError

#: Blocks that may wait for the digest: memory stays constant where the network is faster than SHA-256.
_MAX_PENDING = 3


class DataSetFile:
    """The data set of a file as a sequence of bytes; it is a context manager that closes the file.

    Each slice reads the file. Request slices in order and once each, because the digest covers them as they are read.
    The file is not mapped: if it becomes shorter, a read reports that, where touching a map would end the process.

    Parameters
    ----------
    digest
        Compute the SHA-256 of what is read, from the second slice on in a thread.

    Raises
    ------
    UnreadableInputError
        If the file cannot be opened, its size has changed, or its data set has an odd length.
    """

    def __init__(self, instance: StoredInstance, *, digest: bool = False) -> None:
        self._instance = instance
        #: The transfer syntax of the bytes that this gives.
        self._syntax = instance.transfer_syntax_uid
        self._digest = _Digest() if digest else None
        self._first = b""
        try:
            self._file = read_regular(instance.path)
        except (OSError, ValueError) as error:
            raise unreadable(error) from None
        try:
            self._check(os.fstat(self._file.fileno()).st_size)
            self._length = self._prepare()
            self._padding = self._pad()
        except BaseException:
            self.close()
            raise

    def _check(self, size: int) -> None:
        """Check that the file has the size that it had, and a data set."""
        instance = self._instance
        if size != instance.size:
            raise UnreadableInputError(
                f"The size of the file changed from {instance.size} to {size} bytes. Send it again."
            )
        if size <= instance.data_offset:
            raise UnreadableInputError("The file has no data set to send. Export it again.")

    def _prepare(self) -> int:
        """Give the number of bytes that :meth:`_read` gives."""
        return self._instance.size - self._instance.data_offset

    def _pad(self) -> bytes:
        """Give the byte that makes the data set even."""
        if self._instance.padding is not None:
            return self._instance.padding.more
        # Every value has an even length (PS3.5 section 7.1.1), so every data set and every fragment of it does. DCMTK,
        # and with it Orthanc, aborts the association at an odd fragment, at the cost of the other instances.
        if self._length % 2 == 0:
            return b""
        if self._syntax in DEFLATED:
            # The Standard itself pads a deflated stream with this byte (PS3.5 section A.5).
            return b"\0"
        raise UnreadableInputError(
            "The data set has an odd number of bytes, which no complete data set has (PS3.5 section 7.1.1): it is "
            "truncated or damaged. Fetch or export it again."
        )

    def __len__(self) -> int:
        """Bytes to send, always an even number."""
        return self._length + len(self._padding)

    def __getitem__(self, wanted: slice) -> bytes:
        """Read the next bytes.

        Raises
        ------
        UnreadableInputError
            If the file became shorter or can no longer be read.
        """
        start, stop, _ = wanted.indices(len(self))
        end = min(stop, self._length)
        try:
            content = self._read(start, end)
        except OSError as error:
            raise unreadable(error) from None
        if len(content) != end - start:
            raise UnreadableInputError("The file became shorter while it was sent. Send it again.")
        if stop > end:
            content += self._padding
        if start == 0:
            self._first = content
        if self._digest is not None:
            self._digest.update(content)
        return content

    def _read(self, start: int, end: int) -> bytes:
        """Read bytes of the data set."""
        instance = self._instance
        self._file.seek(instance.data_offset + start)
        content = self._file.read(end - start)
        if instance.padding is None or len(content) != end - start:
            return content
        return _replaced(content, instance.padding.length, instance.padding.at - instance.data_offset - start)

    def sha256(self) -> str:
        """Give the digest of all bytes that were read, hexadecimal; empty if none was requested."""
        return "" if self._digest is None else self._digest.hexdigest()

    def series(self) -> dict[str, str]:
        """Give the UIDs of study and series, by which a PACS is later queried; nothing if they cannot be read."""
        wanted = (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
        found: Mapping[int, str] = {}
        with suppress(MalformedError):
            found = read_uids(self._first, self._syntax, wanted)
        if len(found) < len(wanted) and len(self._first) < self._length:
            # A long element precedes them.
            with suppress(OSError):
                found = own_uids(self._file, self._instance, wanted)
        return {"study_uid": found.get(STUDY_INSTANCE_UID, ""), "series_uid": found.get(SERIES_INSTANCE_UID, "")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._digest is not None:
            self._digest.close()


def _replaced(content: bytes, part: bytes, position: int) -> bytes:
    """Put ``part`` in the place of as many bytes at a position, as far as they are within ``content``."""
    first, last = max(position, 0), min(position + len(part), len(content))
    if first >= last:
        return content
    return content[:first] + part[first - position : last - position] + content[last:]


class _Digest:
    """SHA-256 of successive blocks. From the second block on a thread computes it, for which hashlib frees the GIL.

    A gigabyte takes about a second, as long as its sending; a single block is faster without a thread.
    """

    def __init__(self) -> None:
        self._sha256 = sha256()
        self._first = b""
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def update(self, block: bytes) -> None:
        if not self._first:
            self._first = block
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sha256")
            self._pending.append(self._thread.submit(self._sha256.update, self._first))
        if len(self._pending) >= _MAX_PENDING:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._sha256.update, block))

    def hexdigest(self) -> str:
        if self._thread is None:
            self._sha256.update(self._first)
            self._first = b""
        while self._pending:
            self._pending.popleft().result()
        return self._sha256.hexdigest()

    def close(self) -> None:
        """End the thread, after the block at work at most."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
