"""Untrusted bytes raise only our own errors, in bounded time and memory."""

from __future__ import annotations

import logging
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from pacs_tasks.dimse import status
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.elements import (
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.files.storage import IncomingFile, OtherInstanceError
from pacs_tasks.dimse.find.match import decode_match
from pacs_tasks.dimse.retrieve import delivery
from pacs_tasks.dimse.scp.storage_scp import accept
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.errors import InvalidRequestError, UnreadableInputError
from pacs_tasks.outcome import FindOutcome
from tests.support import dicom_files

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
)
WANTED = (SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
UIDS = b"\x08\0\x18\0UI\x06\x001.2.3\0", b"\x20\0\x0d\0UI\x04\x001.2\0\x20\0\x0e\0UI\x04\x001.3\0"
UNDEFINED = b"\xff\xff\xff\xff"
ITEM, ITEM_END = b"\xfe\xff\x00\xe0" + UNDEFINED, b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
ROUNDS = 300


def _mutated(chance: random.Random, content: bytes) -> bytes:
    """Change, remove or insert some bytes, or replace them by significant lengths."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 10))):
        at = chance.randrange(min(len(changed), chance.choice((400, len(changed) or 1))) or 1)
        word = struct.pack("<L", chance.choice((0, 1, 65_535, 65_536, 1 << 31, 0xFFFF_FFFE, 0xFFFF_FFFF)))
        new, old = chance.choice(
            [
                (chance.randbytes(1), 1),
                (b"", chance.choice((1, 2, 4))),
                (chance.randbytes(chance.choice((1, 2, 4, 8))), 0),
                (word, 4),
                (word[::-1], 4),
                (chance.choice((b"SQ", b"UN", b"UI", b"\xff\xff")), 2),
                (bytes(changed[at : at + chance.randrange(64)]), 0),
                (b"", len(changed) - at if chance.random() < 0.3 else 0),
            ]
        )
        changed[at : at + old] = new
    return bytes(changed)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Give the same random bytes in every run, but others for each test."""
    return random.Random(request.node.name)


def _decode_request(content: bytes) -> None:
    request = acse.decode_request(memoryview(content))
    acse.encode_accept(accept(request), request)


def _decode_accept(content: bytes) -> None:
    acse.decode_accept(memoryview(content))


def _decode_command(content: bytes) -> None:
    found = command.decode(content)
    said = status.store_status(found.number(command.STATUS) or 0, found.text(command.ERROR_COMMENT))
    assert said.model_dump_json()
    assert command.encode({command.AFFECTED_SOP_INSTANCE_UID: found.text(command.AFFECTED_SOP_INSTANCE_UID)}, False)
    delivery.suboperations(found)


_REQUEST = acse.AssociateRequest(
    "A_TITLE_OF_16_CH",
    "CALLING",
    tuple(
        acse.ProposedContext(2 * number + 1, f"1.2.840.10008.5.1.4.1.1.{number}", SYNTAXES[:2]) for number in range(5)
    ),
    roles={"1.2.840.10008.5.1.4.1.1.2": (False, True)},
)
_ACCEPT = acse.AssociateAccept({1: (0, ImplicitVRLittleEndian), 3: (4, "")}, roles=_REQUEST.roles)
_COMMAND: dict[int, int | str] = {
    command.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.5.1.4.1.1.2",
    command.COMMAND_FIELD: command.C_STORE_RQ,
    command.STATUS: 0xA700,
    command.ERROR_COMMENT: "full",
    command.AFFECTED_SOP_INSTANCE_UID: "1.2.3",
}


@pytest.mark.parametrize(
    ("read", "whole"),
    [
        (_decode_request, acse.encode_request(_REQUEST)[6:]),
        (_decode_accept, acse.encode_accept(_ACCEPT, _REQUEST)[6:]),
        (_decode_command, command.encode(_COMMAND, data_set=True)),
    ],
)
def test_what_comes_over_the_wire_reads_or_raises_one_error(
    read: Callable[[bytes], None], whole: bytes, chance: random.Random
) -> None:
    """Damaged association requests, answers and command sets are decoded or raise ValueError."""
    for _ in range(10 * ROUNDS):
        try:
            read(_mutated(chance, whole))
        except ValueError:
            continue


def test_a_transfer_syntax_that_is_no_text_is_answered() -> None:
    """An answer with 30,000 bytes that are not ASCII stays within the maximum length of an item."""
    request = acse.AssociateRequest("A", "B", (acse.ProposedContext(1, "1.2.3", ("x" * 30_000,)),))
    _decode_request(acse.encode_request(request)[6:].replace(b"x", b"\xff"))


def test_a_strangers_text_cannot_write_to_a_terminal() -> None:
    """Control characters in AE titles and error comments become question marks, as both reach logs and terminals."""
    hostile = acse.encode_request(_REQUEST)[6:].replace(b"CALLING         ", b"A\nB\x1b[2J".ljust(16))
    assert acse.decode_request(memoryview(hostile)).calling_aet == "A?B?[2J"
    content = command.encode({**_COMMAND, command.ERROR_COMMENT: "a\r\x1b]0;x\7"}, data_set=False)
    assert command.decode(content).text(command.ERROR_COMMENT) == "a??]0;x?"


def test_files_read_or_raise_one_error(tmp_path: Path, chance: random.Random) -> None:
    """Each damaged shipped file is an instance that can be proposed, or is reported as unreadable."""
    path = tmp_path / "a.dcm"
    for _ in range(3 * ROUNDS):
        path.write_bytes(_mutated(chance, chance.choice(dicom_files.shipped()).read_bytes()[:100_000]))
        try:
            found = part10.read_instance(str(path))
        except UnreadableInputError:
            continue
        assert max(map(len, (found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid))) <= 64


def test_incoming_files_are_placed_or_leave_nothing(tmp_path: Path, chance: random.Random) -> None:
    """Damaged data sets in any encoding get their final path or raise one of our errors, and leave no partial file."""
    for _ in range(3 * ROUNDS):
        path = chance.choice(dicom_files.sendable())
        file = IncomingFile(
            tmp_path,
            sop_class_uid="1.2",
            sop_instance_uid=part10.read_instance(str(path)).sop_instance_uid,
            transfer_syntax_uid=chance.choice(SYNTAXES),
            calling_aet="A",
        )
        try:
            file.write(memoryview(_mutated(chance, dicom_files.data_set(path)[:100_000])))
            file.finish()
        except (MalformedError, OtherInstanceError, InvalidRequestError):
            file.discard()
    assert not list(tmp_path.glob(".*"))


def test_matches_are_shown_whatever_they_are(chance: random.Random) -> None:
    """Damaged matches never raise, and their results survive the ledger."""
    samples = [path for path in dicom_files.sendable() if path.stat().st_size < 30_000]
    for _ in range(ROUNDS):
        content = _mutated(chance, dicom_files.data_set(chance.choice(samples)))
        match = decode_match(content, chance.choice(SYNTAXES[:2]), chance.choice(("GBK", "ISO_IR 192")))
        outcome = FindOutcome(status=status.find_status(0), matches=(match,))
        assert FindOutcome.model_validate_json(outcome.model_dump_json())


def test_a_malformed_value_in_a_sequence_leaves_its_neighbours() -> None:
    """A malformed value in an item is kept as text, and all other elements are read."""
    item = b"\x08\0\x50\x11UI\x04\x001.2\0" + b"\x28\0\x10\0US\x03\x00abc" + b"\x40\0\x01\xa0FD\x04\0wxyz"
    sequence = b"\x08\0\x10\x11SQ\0\0" + UNDEFINED + ITEM + item + ITEM_END + SEQUENCE_END
    match = decode_match(sequence + b"\x10\0\x20\0LO\x02\0P1", ExplicitVRLittleEndian, "ISO_IR 192")
    [shown] = match["00081110"]["Value"]
    assert match["00100020"]["Value"] == ["P1"]
    assert shown["00081150"]["Value"] == ["1.2"]
    assert shown["00280010"]["Value"] == ["abc"]


def test_a_vr_that_is_none_leaves_the_other_elements() -> None:
    """An empty element with an invalid VR is shown without a value."""
    content = UIDS[0] + b"\x08\0\x60\0C\0\0\0" + b"\x10\0\x20\0LO\x02\0P1"
    match = decode_match(content, ExplicitVRLittleEndian, "ISO_IR 192")
    assert match["00100020"]["Value"] == ["P1"]


def test_what_pydicom_says_of_a_match_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Values of matches never reach logs, although pydicom logs values that violate their VR."""
    content = b"\x08\0\x18\0UI\x0a\0SECRET.UID" + b"\x10\0\x30\0DA\x0a\0SECRETDATE"
    with caplog.at_level(logging.DEBUG):
        assert "00100030" in decode_match(content, ExplicitVRLittleEndian, "GBK")
    assert "SECRET" not in caplog.text


def test_escape_sequences_of_chinese_are_not_shown() -> None:
    """The example of PS3.5 annex K.2 is decoded as printed there, also within a sequence."""
    name = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab= "
    patient = b"\x10\0\x10\0PN" + struct.pack("<H", len(name)) + name
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(patient)) + patient
    content = (
        b"\x08\0\x05\0CS\x10\0\\ISO 2022 IR 58 "
        + b"\x08\0\x10\x11SQ\0\0" + struct.pack("<L", len(item)) + item
        + patient
    )  # fmt: skip
    match = decode_match(content, ExplicitVRLittleEndian, "ISO_IR 192")
    shown = [{"Alphabetic": "Zhang^XiaoDong", "Ideographic": "张^小东"}]
    assert match["00100010"]["Value"] == shown
    assert match["00081110"]["Value"][0]["00100010"]["Value"] == shown


def _peak(read: Callable[[], object]) -> int:
    """Give the peak memory of reading a malformed data set, in bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_uid_of_a_hundred_megabytes_is_not_copied() -> None:
    """A UID of a hundred megabytes is malformed, and is not read into memory."""
    size = 100 << 20
    content = b"\x08\0\x18\0" + struct.pack("<L", size) + bytes(size)
    assert _peak(lambda: read_uids(content, ImplicitVRLittleEndian, WANTED)) < 1 << 20


def test_a_large_deflated_data_set_is_not_inflated_whole() -> None:
    """Only the beginning of a deflated data set is inflated, whatever its ratio."""
    head = b"\x08\0\x05\0OB\0\0" + struct.pack("<L", 64 << 20)
    for level in (0, 9):
        deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
        content = deflate.compress(head + bytes(64 << 20)) + deflate.flush()
        assert _peak(partial(read_uids, memoryview(content), DeflatedExplicitVRLittleEndian, WANTED)) < 8 << 20


@pytest.mark.thorough
def test_a_sequence_of_empty_items_ends_in_time() -> None:
    """Sixteen million empty items take seconds, not minutes."""
    content = UIDS[0] + b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + ITEM[:4].ljust(8, b"\0") * (16 << 20)
    with pytest.raises(MalformedError, match="too many"):
        read_uids(content, ExplicitVRLittleEndian, WANTED)


def test_a_private_sequence_of_unknown_vr_is_implicit() -> None:
    """A UN value of undefined length is in Implicit VR (PS3.5 section 6.2.2), even if a length looks like a VR."""
    inner = struct.pack("<HHL", 0x0029, 0x1010, int.from_bytes(b"UI", "little")) + bytes(
        int.from_bytes(b"UI", "little")
    )
    private = b"\x09\0\x10\x10UN\0\0" + UNDEFINED + ITEM + inner + ITEM_END + SEQUENCE_END
    found = read_uids(UIDS[0] + private + UIDS[1], ExplicitVRLittleEndian, WANTED)
    assert found == {SOP_INSTANCE_UID: "1.2.3", STUDY_INSTANCE_UID: "1.2", SERIES_INSTANCE_UID: "1.3"}


def test_a_uid_that_would_end_the_association_is_refused_here(tmp_path: Path) -> None:
    """A UID longer than 64 characters is refused here, because DCMTK and Orthanc abort at it."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    assert part10.read_instance(str(path)).sop_instance_uid == dicom_files.instance().SOPInstanceUID
    body = struct.pack("<HH2sH", 2, 2, b"UI", 66) + b"1." + b"2" * 64 + struct.pack("<HH2sH", 2, 3, b"UI", 4) + b"1.2\0"
    syntax = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + ImplicitVRLittleEndian.encode().ljust(20, b"\0")
    path.write_bytes(path.read_bytes()[:132] + body + syntax + b"\x20\0\x0d\0\x04\0\0\x001.2\0")
    with pytest.raises(UnreadableInputError, match="64 characters"):
        part10.read_instance(str(path))


@pytest.mark.parametrize("syntax", [SYNTAXES[0], SYNTAXES[1], SYNTAXES[3]])
def test_an_instance_is_what_its_data_set_says(tmp_path: Path, syntax: str) -> None:
    """The data set decides, because anonymisers often leave old UIDs in the file meta information."""
    ds = dicom_files.instance(transfer_syntax_uid=syntax)
    path = dicom_files.write(ds, tmp_path / "a.dcm")
    encoded = path.read_bytes()
    size = len(encoded) - len(dicom_files.split(encoded))
    old = encoded[:size].replace(str(ds.SOPInstanceUID).encode(), b"9" * len(str(ds.SOPInstanceUID)))
    assert old != encoded[:size]
    path.write_bytes(old + encoded[size:])
    assert part10.read_instance(str(path)).sop_instance_uid == str(ds.SOPInstanceUID)
