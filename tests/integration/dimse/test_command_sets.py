"""Messages with additional, missing or empty parts, as far as remotes may vary them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import PeerUnavailableError
from pacs_tasks.outcome import Category, InstanceCategory
from pacs_tasks.request import FindRequest, Level
from tests.support import dicom_files, messages, peculiar, scripted
from tests.support.queries import find
from tests.support.sending import LOCAL, send

PATIENT = Timeouts.of(20)
UID = "1.2.3"
DATA_SET = peculiar.data_set(b"1.2.3\0", peculiar.element(0x7FE0_0010, b"OW", bytes(3000)))


def _answering(answer: bytes) -> scripted.Script:
    """Accept, read the first message and send this response."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.read_message(sock)
        sock.sendall(answer)
        scripted.let_go(sock)

    return script


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a small file."""
    return dicom_files.write(dicom_files.instance(rows=8), tmp_path / "a.dcm")


PRIVATE = messages.element(0x0009, 0x0010, b"ACME") + messages.element(0x0009, 0x1001, b"odd")
OTHERS = {
    "error comment": messages.element(0, 0x0902, b"a word about it "),
    "offending element": messages.element(0, 0x0901, b"\x08\0\x18\0\x10\0\x10\0"),
    "error id": messages.element(0, 0x0903, b"\1\0"),
    "attribute list": messages.element(0, 0x1005, b"\x08\0\x18\0"),
    "retired": messages.element(0, 0x0001, b"\0\1\0\0") + messages.element(0, 0x0010, b"ACR-NEMA 2.0"),
    "private": PRIVATE,
    "another group": messages.element(0x0008, 0x0018, b"9.9.9\0"),
    "odd lengths": messages.element(0, 0x0902, b"odd"),
    "empty values": messages.element(0, 0x0902, b"") + messages.element(0, 0x1000, b""),
}


def _changed(whole: bytes, more: bytes, length: int | None) -> bytes:
    """Add elements to a command set and set its group length; ``None`` removes that."""
    body = whole[12:] + more
    return body if length is None else messages.element(0, 0, length.to_bytes(4, "little")) + body


LENGTHS = (0, 1, 56, 0xFFFF_FFFF, None)


@pytest.mark.parametrize(
    ("more", "length"),
    [*((more, 56) for more in OTHERS.values()), *((b"", length) for length in LENGTHS)],
    ids=[*OTHERS.keys(), *(f"group length {length}" for length in LENGTHS)],
)
def test_command_sets_may_hold_more(more: bytes, length: int | None, path: Path, tmp_path: Path) -> None:
    """Unneeded and private elements, and a wrong group length, do not change the response."""
    answer = _changed(messages.response(command.C_STORE_RQ, 0), more, length)
    with scripted.peer(_answering(messages.message(answer))) as remote:
        assert send(remote, path, PATIENT).category is InstanceCategory.SUCCESS
    uid, content = UID, DATA_SET
    request = _changed(messages.store_request(uid), more if more != OTHERS["empty values"] else b"", length)
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock,
    ):
        sock.sendall(messages.association_request() + messages.message(request, content) + messages.RELEASE)
        [answered] = messages.messages(scripted.wait_for_end(sock))
        assert answered.number(command.STATUS) == 0
        assert answered.uid(command.AFFECTED_SOP_INSTANCE_UID) == uid
        [kept] = scp.directory.rglob("*.dcm")
    assert dicom_files.data_set(kept) == content


@pytest.mark.parametrize("uid", [b"1.2.3\0", b"1.2.3 ", b"1.2.3", b"1.2.3\0\0\0", b"1.2.33", b"1.2.33\0 "])
def test_a_uid_may_be_padded_in_every_way(uid: bytes, tmp_path: Path) -> None:
    """A UID padded with a null byte, with a space or not at all is the same in command set and data set."""
    text = uid.rstrip(b"\0 ").decode()
    elements = messages.store_request("9")[12:].replace(messages.element(0, 0x1000, b"9\0"), b"")
    whole = peculiar.data_set(uid)
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock,
    ):
        request = elements + messages.element(0, 0x1000, uid)
        sock.sendall(messages.association_request() + messages.message(request, whole) + messages.RELEASE)
        [answered] = messages.messages(scripted.wait_for_end(sock))
        assert answered.number(command.STATUS) == 0
        [kept] = scp.directory.rglob("*.dcm")
    assert kept.stem == text
    assert dicom_files.data_set(kept) == whole


@pytest.mark.parametrize(
    ("request_set", "data_set"),
    [(messages.store_request(UID), b""), (messages.store_request(UID, data_set=False), None)],
    ids=["empty", "none"],
)
def test_an_instance_without_a_data_set_is_refused(request_set: bytes, data_set: bytes | None, tmp_path: Path) -> None:
    """A C-STORE request with an empty or missing data set gets C000, and the association continues."""
    following = messages.message(messages.store_request(UID, 2), DATA_SET)
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock,
    ):
        empty = messages.message(request_set, data_set)
        sock.sendall(messages.association_request() + empty + following + messages.RELEASE)
        answers = messages.messages(scripted.wait_for_end(sock))
        assert [each.number(command.STATUS) for each in answers] == [0xC000, 0x0000]
        [kept] = scp.directory.rglob("*.dcm")
        assert not list(scp.directory.rglob("*.part"))
    assert dicom_files.data_set(kept) == DATA_SET


def test_an_empty_match_is_a_match() -> None:
    """Pending responses with an empty or missing identifier are empty matches."""
    answer = (
        messages.message(messages.response(command.C_FIND_RQ, 0xFF00, data_set=True), b"")
        + messages.message(messages.response(command.C_FIND_RQ, 0xFF00))
        + messages.message(messages.response(command.C_FIND_RQ, 0x0000))
    )
    with scripted.peer(_answering(answer)) as remote:
        outcome = find(FindRequest(remote=remote, level=Level.STUDY), LOCAL, PATIENT)
    assert (outcome.category, outcome.matches) == (Category.SUCCESS, ({}, {}))


@pytest.mark.parametrize("content", [b"", bytes(100_000)])
def test_a_match_without_end_is_no_match(content: bytes) -> None:
    """PDUs without content are an error, and an endless match cuts the list off, instead of exhausting the memory."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        sock.sendall(scripted.p_data(1, 3, messages.response(command.C_FIND_RQ, 0xFF00, data_set=True)))
        while True:
            sock.sendall(scripted.p_data(1, 0, content) if content else b"\4\0\0\0\0\0")

    with scripted.peer(script) as remote:
        request = FindRequest(remote=remote, level=Level.STUDY)
        if content:
            outcome = find(request, LOCAL, PATIENT)
            assert (outcome.category, outcome.matches) == (Category.PARTIAL, ())
        else:
            with pytest.raises(PeerUnavailableError, match="empty"):
                find(request, LOCAL, PATIENT)
