"""The encoded data set of a file, read block by block while it is sent: as it is, or in another transfer syntax.

It is converted where the remote does not accept the transfer syntax of the file. Between uncompressed transfer syntaxes
nothing is lost, and memory stays constant. pydicom and its plugins decompress pixel data, in memory, in a process of
their own. Nothing is ever compressed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from hashlib import sha256
from io import SEEK_END, BytesIO, FileIO
from typing import IO, Self, cast

from pydicom import uid
from pydicom.config import IGNORE

from pacs_tasks.dimse.files.decoder import Answer, decode, most_bytes
from pacs_tasks.dimse.files.elements import (
    DEFLATED,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    SERIES_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Encoding,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.files.part10 import StoredInstance, own_uids, unreadable
from pacs_tasks.dimse.files.recode import Recoded
from pacs_tasks.dimse.files.regular import read_regular
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.request import Transcode

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


# In another transfer syntax

#: The uncompressed transfer syntaxes, the best one to convert to first: Implicit VR loses the VRs of private elements.
UNCOMPRESSED = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
)
#: Compressed transfer syntaxes that lose nothing (PS3.5 section A.4). JPEG 2000 and HTJ2K without that in their names
#: may lose something.
LOSSLESS = frozenset(
    (
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.JPEG2000MCLossless,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
        uid.RLELossless,
        # pydicom has no names for these yet.
        "1.2.840.10008.1.2.1.98",  # Encapsulated Uncompressed Explicit VR Little Endian
        "1.2.840.10008.1.2.4.110",  # JPEG XL lossless
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    )
)
#: Bytes of a temporary copy that stay in memory, and of one read.
_IN_MEMORY = 1 << 22
_BLOCK = 1 << 18


def convertible(syntax: str, transcode: Transcode) -> bool:
    """Whether a data set in this transfer syntax may be sent in an uncompressed one."""
    if transcode is Transcode.DECOMPRESS:
        return True
    return transcode is Transcode.UNCOMPRESSED and syntax in UNCOMPRESSED


def loss(syntax: str) -> str:
    """Say what the conversion from a compressed transfer syntax to an uncompressed one keeps; nothing for others."""
    if syntax in UNCOMPRESSED:
        return ""
    if syntax in LOSSLESS:
        return "It was sent decompressed. No pixel value was lost."
    return "It was sent decompressed. What the compression had lost stays lost, and nothing more."


class ConvertedFile(DataSetFile):
    """The data set of a file in the uncompressed transfer syntax ``syntax``; for the rest as its base.

    Raises
    ------
    UnreadableInputError
        If the file cannot be read to its end, or its pixel data not be decompressed here.
    """

    def __init__(self, instance: StoredInstance, syntax: str, *, digest: bool = False) -> None:
        self._target = syntax
        self._temporary = ExitStack()
        self._rest = bytearray()
        super().__init__(instance, digest=digest)

    def _prepare(self) -> int:
        self._syntax = self._target
        try:
            recoded = self._recoded()
            if self._target != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
                self._blocks = recoded.blocks()
                return len(recoded)
            deflated = self._temporary.enter_context(_copied(_deflated(recoded.blocks())))
        except MalformedError as error:
            raise UnreadableInputError(
                f"The data set cannot be converted to another transfer syntax: {error}. Export the file again."
            ) from None
        except OSError as error:
            raise unreadable(error) from None
        length = deflated.seek(0, SEEK_END)
        deflated.seek(0)
        self._blocks = read_on(deflated)
        return length

    def _recoded(self) -> Recoded:
        instance, source = self._instance, self._instance.transfer_syntax_uid
        file: IO[bytes] = self._file
        position, end = instance.data_offset, instance.size
        if source == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            self._file.seek(position)
            file = self._temporary.enter_context(_copied(_bounded(inflated(read_on(self._file)), instance.size)))
        elif source not in UNCOMPRESSED:
            file, source = BytesIO(_decompressed(instance)), EXPLICIT_VR_LITTLE_ENDIAN
        if file is not self._file:
            position, end = 0, file.seek(0, SEEK_END)
        return Recoded(file, position, end, Encoding.of(source), Encoding.of(self._target))

    def _pad(self) -> bytes:
        # Values get their padding with their new headers; a deflated stream may be odd (PS3.5 section A.5).
        return b"\0" * (self._length % 2)

    def _read(self, start: int, end: int) -> bytes:
        try:
            while len(self._rest) < end - start:
                self._rest += next(self._blocks)
        except (MalformedError, StopIteration):
            raise UnreadableInputError("The file became shorter while it was sent. Send it again.") from None
        content = bytes(self._rest[: end - start])
        del self._rest[: end - start]
        return content

    def close(self) -> None:
        self._temporary.close()
        super().close()


def read_on(file: IO[bytes] | FileIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _copied(blocks: Iterable[bytes]) -> IO[bytes]:
    """Write blocks to a temporary file that is on disk only if it is large."""
    # The caller keeps it open, and closes it.
    file = cast(IO[bytes], tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115
    try:
        for block in blocks:
            file.write(block)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def inflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Inflate a data set (PS3.5 section A.5), with constant memory."""
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for block in blocks:
            rest = block
            while rest and not inflating.eof:
                yield inflating.decompress(rest, _BLOCK)
                rest = inflating.unconsumed_tail
        yield inflating.flush()
    except zlib.error:
        raise MalformedError("it cannot be inflated") from None
    if not inflating.eof:
        raise MalformedError("it is truncated")


def _bounded(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Pass on what a data set inflates to, as long as it is not far more than a file of this size holds."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    most = min(most_bytes(size), free // 2)
    length = 0
    for block in blocks:
        length += len(block)
        if length > most:
            raise MalformedError(
                f"its {size} bytes inflate to more than {most}, which is too much for the disk of this worker, or the "
                "file was made to fill it"
            )
        yield block


def _deflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for block in blocks:
        yield deflating.compress(block)
    yield deflating.flush()


def _decompressed(instance: StoredInstance) -> bytes:
    """Decompress the pixel data, and encode the data set in Explicit VR Little Endian."""
    answer, content = decode(instance.path, instance.transfer_syntax_uid)
    if answer is Answer.DECOMPRESSED:
        return content
    name = uid.UID(instance.transfer_syntax_uid, IGNORE).name
    if answer is Answer.NO_DECODER:
        raise UnreadableInputError(
            f"This worker has no decoder for {name}. Install pacs-tasks[decompress] there if it covers it, or send the "
            "file to a PACS that accepts it compressed."
        )
    raise UnreadableInputError(
        f"The pixel data ({name}) cannot be decompressed: they are damaged or not what they claim to be. Export the "
        "file again, or send it with --transcode uncompressed."
    )
