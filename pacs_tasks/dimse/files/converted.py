"""A data set that is sent in another transfer syntax than that of its file, which the remote does not accept.

Between uncompressed transfer syntaxes nothing is lost, and memory stays constant. pydicom and its plugins decompress
pixel data, in memory, in a process of their own. Nothing is ever compressed.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from io import SEEK_END, BytesIO, FileIO
from typing import IO, cast

from pydicom import uid
from pydicom.config import IGNORE

from pacs_tasks.dimse.files.data_set import DataSetFile
from pacs_tasks.dimse.files.decoder import Answer, decode, most_bytes
from pacs_tasks.dimse.files.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Encoding,
    MalformedError,
)
from pacs_tasks.dimse.files.part10 import StoredInstance, unreadable
from pacs_tasks.dimse.files.recode import Recoded
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.request import Transcode

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
        self._temporary: list[IO[bytes]] = []
        self._rest = bytearray()
        super().__init__(instance, digest=digest)

    def _prepare(self) -> int:
        self._syntax = self._target
        try:
            recoded = self._recoded()
            if self._target != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
                self._blocks = recoded.blocks()
                return len(recoded)
            deflated = self._keep(_copied(_deflated(recoded.blocks())))
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
            file = self._keep(_copied(_bounded(inflated(read_on(self._file)), instance.size)))
        elif source not in UNCOMPRESSED:
            file, source = BytesIO(_decompressed(instance)), EXPLICIT_VR_LITTLE_ENDIAN
        if file is not self._file:
            position, end = 0, file.seek(0, SEEK_END)
        return Recoded(file, position, end, Encoding.of(source), Encoding.of(self._target))

    def _pad(self) -> bytes:
        # Values get their padding with their new headers; a deflated stream may be odd (PS3.5 section A.5).
        return b"\0" * (self._length % 2)

    def _keep(self, file: IO[bytes]) -> IO[bytes]:
        self._temporary.append(file)
        return file

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
        for each in self._temporary:
            each.close()
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
