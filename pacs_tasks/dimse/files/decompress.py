"""``python -m pacs_tasks.dimse.files.decompress``: the process of :mod:`pacs_tasks.dimse.files.decoder`.

A line of standard input names a file and its transfer syntax; standard output gets the data set. Only this process
imports numpy.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from pacs_tasks.dimse.files.decoder import HEADER, Answer, most_bytes

#: Bytes that decoders may take beside the pixel data, and copies that there are of these before they are encoded.
_BESIDE, _COPIES = 1 << 30, 8

#: Has this process take no more than so many further bytes.
Limit = Callable[[int], None]


def memory_limit() -> Limit:
    """Give what limits the memory of this process, beyond what it has now, where the platform can.

    Decoders trust what a codestream claims, which may be far more than what the data set claims.
    """
    begun = 0
    if sys.platform == "linux":
        begun = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    def limit(more: int) -> None:
        if sys.platform == "linux":
            import resource  # noqa: PLC0415 - Windows has none

            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            most = begun + more
            resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))

    return limit


def _claimed(ds: pydicom.Dataset) -> int:
    """Give the bytes that the pixel data have once they are decompressed, as the data set claims."""
    keywords = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    rows, columns, samples, bits = (int(ds.get(each) or 0) for each in keywords)
    return rows * columns * samples * max(1, int(ds.get("NumberOfFrames") or 1)) * bits // 8


def _is_compressed(ds: pydicom.Dataset) -> bool:
    return "PixelData" in ds and ds["PixelData"].is_undefined_length


def _decompress(ds: pydicom.Dataset, syntax: str) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.decompress(as_rgb=False, generate_instance_uid=False)
    if ds.get("PhotometricInterpretation") == "YBR_FULL_422":
        # Decoders give each pixel its own samples.
        ds.PhotometricInterpretation = "YBR_FULL"
    # Only encapsulated pixel data have an offset table (PS3.3 section C.7.6.3.1.8).
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in ds:
            delattr(ds, keyword)


def decompressed(path: str, syntax: str, limit: Limit) -> tuple[Answer, bytes]:
    """Decompress one file.

    The colour space and the SOP Instance UID stay: nothing is lost beyond the loss of the compression itself.
    """
    try:
        size = Path(path).stat().st_size
        limit(_BESIDE + _COPIES * size)
        ds = pydicom.dcmread(path, force=True)
        # JPIP and private transfer syntaxes have none.
        get_decoder(UID(syntax))
        # Icons are compressed as the image is (PS3.3 section C.7.6.1.1.6).
        images = [each for each in (*ds.get("IconImageSequence", ()), ds) if _is_compressed(each)]
        claimed = sum(map(_claimed, images))
        if claimed > most_bytes(size):
            return Answer.DAMAGED, b""
        limit(_BESIDE + _COPIES * (size + claimed))
        for each in images:
            _decompress(each, syntax)
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        return Answer.DECOMPRESSED, buffer.getvalue()
    except (ImportError, NotImplementedError):
        return Answer.NO_DECODER, b""
    except Exception as error:  # noqa: BLE001 - plugins raise whatever they like at damaged pixel data
        return Answer.NO_DECODER if "missing dependencies" in str(error) else Answer.DAMAGED, b""


def main() -> None:
    # Ctrl-C reaches this process too, and the worker still needs it for the files that it finishes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a plugin prints is not an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit = memory_limit()
    for line in sys.stdin.buffer:
        path, syntax = json.loads(line)
        kind, content = decompressed(path, syntax, limit)
        answers.write(HEADER.pack(kind, len(content)))
        answers.write(content)
        answers.flush()
        # The next file needs the room.
        del content


if __name__ == "__main__":
    main()
