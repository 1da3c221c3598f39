"""The process that decompresses pixel data for this one.

pydicom imports numpy and every plugin when it is imported itself: 0.2 s and 18 MB for each worker, although few ever
decompress. :func:`~pacs_tasks.dimse.files.hide_decoders` spares our programs that, and the first file to decompress
starts a process that has them. A plugin that a damaged file crashes takes that process with it, not the worker.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from enum import IntEnum
from pathlib import Path
from typing import IO, cast

#: Seconds for one file. A decoder that takes longer is stuck.
LIMIT = 300.0
#: Bytes that a data set may have once it is uncompressed, and how many times its file if that is more. Images seldom
#: reach ten.
_HARMLESS, _MOST_GROWTH = 1 << 30, 50
#: An answer: its kind, and the length of the data set that follows.
HEADER = struct.Struct(">BQ")


def most_bytes(size: int) -> int:
    """Give the bytes that the data set of a file of ``size`` bytes may have once it is uncompressed."""
    return max(_HARMLESS, _MOST_GROWTH * size)


class Answer(IntEnum):
    """What came of a file."""

    DECOMPRESSED = 0
    NO_DECODER = 1
    DAMAGED = 2


class _Decoder:
    """One process, which ends with its standard input: when this one ends, however it ends."""

    def __init__(self) -> None:
        # Where the package is not installed, only this process knows where it is.
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "pacs_tasks.dimse.files.decompress"]
        # Warnings of pydicom hold values.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables
        )

    def decode(self, path: str, syntax: str) -> tuple[Answer, bytes]:
        """Have one file decompressed. The process is of no more use after an ``EOFError`` or an ``OSError``."""
        request, answer = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        limit = threading.Timer(LIMIT, self._process.kill)
        limit.start()
        try:
            request.write(json.dumps([path, syntax]).encode() + b"\n")
            request.flush()
            kind, length = HEADER.unpack(_exactly(answer, HEADER.size))
            if length > most_bytes(Path(path).stat().st_size):
                raise EOFError
            return Answer(kind), _exactly(answer, length)
        finally:
            limit.cancel()

    def close(self) -> None:
        self._process.kill()
        # It closes the pipes, one of which may hold a request that nobody reads any more, and collects the process.
        with contextlib.suppress(OSError), self._process:
            pass


_lock = threading.Lock()
#: The decoder by the process that started it: a fork has none yet.
_decoders: dict[int, _Decoder] = {}


def decode(path: str, syntax: str) -> tuple[Answer, bytes]:
    """Decompress the pixel data of a file, and encode its data set in Explicit VR Little Endian.

    Parameters
    ----------
    path
        The file.
    syntax
        Its transfer syntax.
    """
    with _lock:
        if os.getpid() not in _decoders:
            _decoders[os.getpid()] = _Decoder()
        try:
            return _decoders[os.getpid()].decode(path, syntax)
        except (EOFError, OSError):
            end()
            return Answer.DAMAGED, b""
        except BaseException:
            # The answer to this file would be taken for that to the next.
            end()
            raise


def _exactly(file: IO[bytes], length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:
        raise EOFError
    return content


@atexit.register
def end() -> None:
    """End the decoder of this process. The next file gets another one."""
    if decoder := _decoders.pop(os.getpid(), None):
        decoder.close()
