"""Encoded input that is changed at random places: PDUs, command sets, identifiers, files."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import gettempdir
from typing import Final

from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_tasks.dimse.files.damage import judged
from pacs_tasks.dimse.files.data_set import UNCOMPRESSED, ConvertedFile
from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.dimse.files.whole import whole_instance
from pacs_tasks.dimse.find.match import decode_match
from pacs_tasks.dimse.scp.storage_scp import accept
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.errors import DamagedFileError, UnreadableInputError
from tests.support import dicom_files, messages, mutation

#: Files that are larger have nothing to show that smaller ones have not.
_LARGEST: Final = 70_000
_LENGTHS: Final = (0, 1, 2, 65_535, 65_536, 1 << 31, 0xFFFF_FFFE, 0xFFFF_FFFF)
_PIECES: Final = (
    b"SQ",
    b"UN",
    b"OB",
    b"UI",
    b"\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff",
    b"\x09\0\x01\x10UN\0\0\x04\0\0\0",
    b"\x08\0\x05\0CS\x0c\0ISO 2022 IR\\",
    b"\x1b$B",
)


def disturbed(chance: Random, content: bytes) -> bytes:
    """Change, remove, insert or repeat some bytes, mostly near the beginning; or cut the end off."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 10))):
        at = chance.randrange(min(len(found), chance.choice((200, 1_000, len(found) or 1))) or 1)
        length = struct.pack(chance.choice(("<L", ">L")), chance.choice(_LENGTHS))
        new, old = chance.choice(
            (
                (chance.randbytes(1), 1),
                (bytes((found[at] ^ (1 << chance.randrange(8)) if found else 0,)), 1),
                (b"", chance.choice((1, 2, 4, 100))),
                (chance.randbytes(chance.choice((1, 2, 4, 8))), 0),
                (length, 4),
                (chance.choice(_PIECES), chance.choice((0, 2, 4, 8))),
                (chance.choice(_PIECES) * chance.choice((1, 50, 500)), 0),
                (bytes(found[at : at + chance.randrange(400)]), 0),
                (b"", len(found) if chance.random() < 0.3 else 0),
            )
        )
        found[at : at + old] = new
    return bytes(found)


@cache
def _pdus() -> tuple[bytes, ...]:
    request = acse.AssociateRequest(
        "CALLED",
        "CALLER",
        tuple(acse.ProposedContext(2 * n + 1, messages.CT, (ExplicitVRLittleEndian, "1.2")) for n in range(3)),
        16_384,
    )
    results = {1: (acse.ACCEPTED, ExplicitVRLittleEndian), 3: (acse.NO_REASON, ""), 5: (acse.ACCEPTED, "1.2")}
    accepted = acse.AssociateAccept(results, 16_384, {messages.CT: (True, True)}, (3, 3))
    return acse.encode_request(request), acse.encode_accept(accepted, request)


def check_pdu(chance: Random) -> None:
    """An association is decided, or its PDU is malformed."""
    for pdu in _pdus():
        content = memoryview(mutation.mutated(chance, [pdu])[6:])
        with suppress(ValueError):
            accept(acse.decode_request(content))
        with suppress(ValueError):
            acse.decode_accept(content)


@cache
def _command_sets() -> tuple[bytes, ...]:
    return (
        messages.store_request("1.2.3"),
        messages.response(command.C_FIND_RQ, 0xFF00, data_set=True),
        messages.response(command.C_MOVE_RQ, 0xB000, COMPLETED=2, FAILED=2, ERROR_COMMENT="none"),
    )


def check_command(chance: Random) -> None:
    """A command set is read, or malformed."""
    content = disturbed(chance, chance.choice(_command_sets()))
    with suppress(ValueError):
        found = command.decode(content)
        _ = (found.field, found.has_data_set, found.text(command.ERROR_COMMENT), found.number(command.STATUS))


@cache
def _identifiers() -> tuple[tuple[bytes, str], ...]:
    found = []
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        for charset in ("GB18030", "ISO_IR 192"):
            ds = dicom_files.instance(rows=1, charset=charset, transfer_syntax_uid=syntax)
            ds.ReferencedStudySequence = [dicom_files.instance(2, rows=1)]
            del ds.PixelData
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == ImplicitVRLittleEndian
            write_dataset(buffer, ds)
            found.append((buffer.getvalue(), syntax))
    return tuple(found)


def check_identifier(chance: Random) -> None:
    """A match is shown as far as it can be read."""
    content, syntax = chance.choice(_identifiers())
    assert isinstance(decode_match(disturbed(chance, content), syntax, chance.choice(("", "GB18030", "none"))), dict)


@cache
def _files() -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in dicom_files.shipped() if path.stat().st_size <= _LARGEST)


#: In memory where the system has such a place.
_PLACE: Final = Path("/dev/shm" if Path("/dev/shm").is_dir() else gettempdir()) / f"pacs-tasks-fuzz-{os.getpid()}.dcm"


def check_file(chance: Random) -> None:
    """A file is read, judged and converted as it is sent, or named as one that cannot be."""
    _PLACE.write_bytes(disturbed(chance, chance.choice(_files())))
    try:
        with suppress(UnreadableInputError):
            _check(read_instance(str(_PLACE)), chance)
    finally:
        _PLACE.unlink()


def _check(instance: StoredInstance, chance: Random) -> None:
    whole_instance(instance.path, instance.sop_instance_uid)
    with suppress(DamagedFileError, UnreadableInputError):
        judged(instance, repair=chance.random() < 0.5)
    if instance.transfer_syntax_uid in UNCOMPRESSED:
        with suppress(UnreadableInputError), ConvertedFile(instance, chance.choice(UNCOMPRESSED)) as file:
            assert len(file[: len(file)]) == len(file)
