"""Messages are the same however they are split into PDVs, PDUs and segments (PS3.8 annex E)."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.retrieve.c_get import get
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.outcome import Category, InstanceCategory
from pacs_tasks.request import FindRequest, GetRequest, Level, MoveRequest
from tests.support import dicom_files, messages, peculiar, scripted
from tests.support.messages import COMMAND, CT, DATA, LAST
from tests.support.queries import find
from tests.support.sending import LOCAL, send

PATIENT = Timeouts.of(20)

Half = tuple[int, bytes, int]
#: Kind, content and context id of command set and data set, in order.
Answer = list[Half]


def _halves(command_set: bytes, data_set: bytes | None = None, context_id: int = 1) -> Answer:
    found = [(COMMAND, command_set, context_id)]
    return found if data_set is None else [*found, (DATA, data_set, context_id)]


def _one_pdu_each(answer: Answer) -> Iterator[bytes]:
    for kind, content, context_id in answer:
        yield messages.p_data(messages.pdv(kind | LAST, content, context_id))


def _fragments(size: int, together: int) -> Callable[[Answer], Iterator[bytes]]:
    """Make PDVs of ``size`` bytes and PDUs of ``together`` PDVs, across messages."""

    def shape(answer: Answer) -> Iterator[bytes]:
        pdvs = [each for kind, content, cx in answer for each in messages.fragments(content, size, kind, cx)]
        for at in range(0, len(pdvs), together):
            yield messages.p_data(*pdvs[at : at + together])

    return shape


def _with_empty_fragments(answer: Answer) -> Iterator[bytes]:
    """Insert empty fragments before, between and after those of command sets and data sets."""
    for kind, content, cx in answer:
        middle = len(content) // 2
        parts = (b"", content[:middle], b"", b"", content[middle:])
        yield messages.p_data(*(messages.pdv(kind, part, cx) for part in parts))
        yield messages.p_data(messages.pdv(kind | LAST, b"", cx))


def _whole(pdus: Iterator[bytes]) -> Iterator[bytes]:
    yield b"".join(pdus)


def _segments(*sizes: int) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    return lambda pdus: messages.in_pieces(b"".join(pdus), sizes)


#: How command sets and data sets become PDUs, and PDUs become segments.
SHAPES = {
    "a PDU each": (_one_pdu_each, _whole),
    "byte by byte": (_one_pdu_each, _segments(1)),
    "header by header": (_one_pdu_each, _segments(6, 6, 4)),
    "across PDUs": (_fragments(50, 1), _segments(89, 7, 500)),
    "fragments of a byte": (_fragments(1, 1), _whole),
    "all in one PDU": (_fragments(100_000, 1_000), _whole),
    "fragments in one PDU": (_fragments(33, 100_000), _whole),
    "across messages": (_fragments(64, 5), _segments(1_000)),
    "odd fragments": (_fragments(7, 3), _segments(5)),
    "empty fragments": (_with_empty_fragments, _whole),
}
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
Shape = tuple[Callable[[Answer], Iterator[bytes]], Callable[[Iterator[bytes]], Iterator[bytes]]]


def _answering(answer: Answer, shape: Shape) -> scripted.Script:
    """Accept, read the first message and send the response in this form."""

    def script(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        scripted.accept_all(sock)
        scripted.read_message(sock)
        pack, cut = shape
        for segment in cut(pack(answer)):
            sock.sendall(segment)
        scripted.let_go(sock)

    return script


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a small file."""
    return dicom_files.write(dicom_files.instance(rows=8), tmp_path / "a.dcm")


@EVERY_SHAPE
def test_responses_of_every_shape(shape: Shape, path: Path) -> None:
    """C-ECHO and C-STORE responses are decoded with their comments."""
    answer = _halves(messages.response(command.C_ECHO_RQ, 0x0000))
    with scripted.peer(_answering(answer, shape)) as remote:
        assert echo(LOCAL, remote, PATIENT).category is Category.SUCCESS
    answer = _halves(messages.response(command.C_STORE_RQ, 0xA700, ERROR_COMMENT="full"))
    with scripted.peer(_answering(answer, shape)) as remote:
        outcome = send(remote, path, PATIENT)
    assert outcome.status is not None
    assert (outcome.status.code, outcome.status.comment) == (0xA700, "full")


@EVERY_SHAPE
def test_matches_of_every_shape(shape: Shape) -> None:
    """Matches and the final response are received one by one, even if a PDU carries parts of several."""
    answer = [
        half
        for number in range(5)
        for half in _halves(
            messages.response(command.C_FIND_RQ, 0xFF00, data_set=True),
            peculiar.element(0x0010_0010, b"PN", b"A^%d " % number * (1 + 400 * number)),
        )
    ]
    answer += _halves(messages.response(command.C_FIND_RQ, 0x0000))
    with scripted.peer(_answering(answer, shape)) as remote:
        outcome = find(FindRequest(remote=remote, level=Level.STUDY), LOCAL, PATIENT)
    names = [match["00100010"]["Value"][0]["Alphabetic"] for match in outcome.matches]
    assert [name[:3] for name in names] == ["A^0", "A^1", "A^2", "A^3", "A^4"]
    assert len(names[4]) > 6_000


@EVERY_SHAPE
def test_retrieves_of_every_shape(shape: Shape, tmp_path: Path) -> None:
    """Instances of a C-GET are identical, and the failed instances of a C-MOVE are reported."""
    pending = _halves(messages.response(command.C_MOVE_RQ, 0xFF00, COMPLETED=1))
    failed = peculiar.element(0x0008_0058, b"UI", b"1.2\\1.3 ", messages.IMPLICIT)
    final = _halves(messages.response(command.C_MOVE_RQ, 0xB000, data_set=True, COMPLETED=2, FAILED=2), failed)
    with scripted.peer(_answering([*pending, *pending, *final], shape)) as remote:
        moved = move(MoveRequest(remote=remote, study_uid="1.2", move_aet="X"), LOCAL, PATIENT)
    assert moved.failed_sop_instance_uids == ("1.2", "1.3")
    sent = [
        half
        for number in range(1, 4)
        for half in _halves(messages.store_request(f"1.2.{number}", 9), _numbered(number), 3)
    ]
    answer = [*sent, *_halves(messages.response(command.C_GET_RQ, 0x0000, COMPLETED=3))]
    with scripted.peer(_answering(answer, shape)) as remote:
        request = GetRequest(remote=remote, study_uid=peculiar.STUDY_UID, output_dir=str(tmp_path))
        outcome = get(request, LOCAL, PATIENT, sop_class_uids=[CT])
    assert outcome.category is Category.SUCCESS
    kept = {path.stem: dicom_files.data_set(path) for path in tmp_path.rglob("*.dcm")}
    assert kept == {f"1.2.{number}": _numbered(number) for number in range(1, 4)}


def _numbered(number: int) -> bytes:
    return peculiar.data_set(b"1.2.%d\0" % number, peculiar.element(0x7FE0_0010, b"OW", b"%d" % number * 3_000))


@EVERY_SHAPE
def test_requests_of_every_shape(shape: Shape, tmp_path: Path) -> None:
    """The receiver decodes requests of every form, several at once, and responds on a half-closed connection."""
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(messages.association_request())
        assert scripted.receive_pdu(sock)[0] == 2
        pack, cut = shape
        requests = [
            half
            for number in range(1, 4)
            for half in _halves(messages.store_request(f"1.2.{number}", number), _numbered(number))
        ]
        for segment in cut(pack(requests)):
            sock.sendall(segment)
        sock.shutdown(socket.SHUT_WR)
        answers = messages.messages(scripted.wait_for_end(sock))
        kept = {path.stem: dicom_files.data_set(path) for path in scp.directory.rglob("*.dcm")}
    assert kept == {f"1.2.{number}": _numbered(number) for number in range(1, 4)}
    told = [(each.number(command.MESSAGE_ID_RESPONDED_TO), each.number(command.STATUS)) for each in answers]
    assert told == [(1, 0), (2, 0), (3, 0)]


# Maximum length


@pytest.mark.parametrize("longest", [1, 6, 7, 127, 128, 130, 512, 4_096, 16_384, 131_072, 1 << 20, 1 << 31, 0])
def test_what_we_send_keeps_to_the_peers_maximum(longest: int, path: Path) -> None:
    """Requests and data sets respect the maximum of the remote; below 128 bytes it is ignored, and 0 means no limit."""
    said = bytearray()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock, longest)
        while not messages.messages(bytes(said)):
            kind, content = scripted.receive_pdu(sock)
            said.extend(messages.pdu(kind, content))
        sock.sendall(messages.message(messages.response(command.C_STORE_RQ, 0)))
        scripted.let_go(sock)

    with scripted.peer(script) as remote:
        assert send(remote, path, PATIENT).category is InstanceCategory.SUCCESS
    assert messages.longest(bytes(said)) <= max(longest or 1 << 32, 128)
    assert all(len(content) % 2 == 0 for _, content in messages.pdus(bytes(said)))
    [request] = messages.messages(bytes(said))
    assert request.data_set == dicom_files.data_set(path)


@pytest.mark.parametrize("longest", [1, 127, 128, 512, 4_096, 0])
def test_what_we_answer_keeps_to_the_callers_maximum(longest: int, tmp_path: Path) -> None:
    """Responses respect the maximum of the caller."""
    uid = f"2.25.{'3' * 59}"
    content = peculiar.data_set(uid.encode())
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock,
    ):
        sock.sendall(messages.association_request(longest) + messages.message(messages.store_request(uid), content))
        sock.shutdown(socket.SHUT_WR)
        answered = scripted.wait_for_end(sock)
    assert messages.max_length(answered) == 131_072
    assert messages.longest(answered) <= max(longest or 1 << 32, 128)
    [answer] = messages.messages(answered)
    assert answer.number(command.STATUS) == 0


def test_a_long_instance_of_short_fragments(tmp_path: Path) -> None:
    """Two megabytes in fragments and segments of any length are stored unchanged."""
    chance = random.Random("short fragments")
    content = peculiar.data_set(b"1.2.3\0", peculiar.element(0x7FE0_0010, b"OW", chance.randbytes(2 << 20)))
    pdvs, at = [], 0
    while at < len(content):
        size = chance.choice((1, 7, 100, 5_000, 70_000))
        pdvs.append(messages.pdv(LAST if at + size >= len(content) else 0, content[at : at + size]))
        at += size
    stream = messages.message(messages.store_request("1.2.3"))
    while pdvs:
        some = chance.choice((1, 2, 5))
        stream += messages.p_data(*pdvs[:some])
        del pdvs[:some]
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock,
    ):
        sock.sendall(messages.association_request())
        for piece in messages.in_pieces(stream, [chance.choice((100, 3_000, 200_000)) for _ in range(50)]):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        [answered] = messages.messages(scripted.wait_for_end(sock))
        assert answered.number(command.STATUS) == 0
        [kept] = scp.directory.rglob("*.dcm")
    assert dicom_files.data_set(kept) == content
