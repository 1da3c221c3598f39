"""``python -m pacs_tasks.dimse.files.decompress``: the process of :mod:`pacs_tasks.dimse.files.decoder`.

A line of standard input names a file and its transfer syntax; standard output gets the data set. Only this process
imports numpy.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from pacs_tasks.dimse.files.decoder import HEADER, Answer


def _decompress(ds: pydicom.Dataset, syntax: str) -> None:
    if "PixelData" not in ds or not ds["PixelData"].is_undefined_length:
        return
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


def decompressed(path: str, syntax: str) -> tuple[Answer, bytes]:
    """Decompress one file.

    The colour space and the SOP Instance UID stay: nothing is lost beyond the loss of the compression itself.
    """
    try:
        ds = pydicom.dcmread(path, force=True)
        # JPIP and private transfer syntaxes have none.
        get_decoder(UID(syntax))
        # Icons are compressed as the image is (PS3.3 section C.7.6.1.1.6).
        for each in (*ds.get("IconImageSequence", ()), ds):
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
    for line in sys.stdin.buffer:
        kind, content = decompressed(*json.loads(line))
        answers.write(HEADER.pack(kind, len(content)) + content)
        answers.flush()


if __name__ == "__main__":
    main()
