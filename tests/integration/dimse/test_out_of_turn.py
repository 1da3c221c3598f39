"""Callers that send too much, or unexpected or meaningless messages, lose their own association only."""

from __future__ import annotations

import logging
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.scp.admission import Sparing
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.outcome import Category
from tests.support import dicom_files, messages, scripted
from tests.support.messages import CT, EXPLICIT, IMPLICIT
from tests.support.out_of_turn import DATA_SET, OUT_OF_TURN, REQUEST, STORE, UID, long_lists, long_uid
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(60)


@pytest.fixture(scope="module")
def shared_scp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageSCP]:
    """Run one Storage SCP for all tests; callers do not affect each other."""
    received = tmp_path_factory.mktemp("received")
    with StorageSCP("127.0.0.1", 0, received, PATIENT) as running:
        yield running


@pytest.fixture
def scp(shared_scp: StorageSCP) -> Iterator[StorageSCP]:
    """Give the shared Storage SCP with an empty directory, and warnings that nobody has used up."""
    shared_scp.sparing = Sparing()
    yield shared_scp
    for each in shared_scp.directory.iterdir():
        shutil.rmtree(each)


@contextmanager
def _calling(scp: StorageSCP, request: bytes = REQUEST) -> Iterator[tuple[socket.socket, acse.AssociateAccept]]:
    """Open an accepted association as a caller."""
    with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
        sock.sendall(request)
        kind, content = scripted.receive_pdu(sock)
        assert kind == 2
        yield sock, acse.decode_accept(memoryview(content))


def _ends(sock: socket.socket) -> bytes:
    """Receive until the receiver hangs up, which must happen at once and not after its time-out."""
    sock.settimeout(20)
    try:
        return scripted.wait_for_end(sock)
    except ConnectionResetError:
        # It hung up before it had read everything.
        return b""


def _status(sock: socket.socket) -> int | None:
    return command.decode(scripted.receive_pdu(sock)[1][6:]).number(command.STATUS)


@pytest.mark.parametrize("said", OUT_OF_TURN.values(), ids=OUT_OF_TURN.keys())
def test_a_caller_out_of_turn_is_hung_up_on(scp: StorageSCP, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The receiver aborts at once, stores nothing and serves the next caller."""
    with _calling(scp) as (sock, _), caplog.at_level(logging.WARNING):
        sock.sendall(said)
        assert _ends(sock)[:1] in {b"", b"\7"}
        # It logs after it has hung up.
        wait_until(lambda: "association ended" in caplog.text, 10, "the receiver to tell")
    assert echo(LOCAL, RemoteAE(port=scp.port), PATIENT).category is Category.SUCCESS
    assert "fault" not in caplog.text
    assert not list(scp.directory.rglob("*"))


@pytest.mark.parametrize(
    "first",
    [STORE, messages.RELEASE, messages.RELEASED, messages.ABORT, messages.pdu(9, b""), acse.encode_reject(1, 1, 1)],
    ids=["P-DATA", "release", "released", "abort", "unknown", "rejection"],
)
def test_nothing_goes_before_the_association(scp: StorageSCP, first: bytes) -> None:
    """The receiver hangs up on a caller that begins with anything but an association request."""
    with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
        sock.sendall(first + REQUEST + STORE)
        assert _ends(sock)[:1] in {b"", b"\7"}
    assert not list(scp.directory.rglob("*"))


def test_a_cancel_that_nobody_awaits_is_no_matter(scp: StorageSCP) -> None:
    """A C-CANCEL for no outstanding message gets no response, and the association continues."""
    cancel = command.encode(
        {command.COMMAND_FIELD: command.C_CANCEL_RQ, command.MESSAGE_ID_RESPONDED_TO: 9}, data_set=False
    )
    with _calling(scp) as (sock, _):
        sock.sendall(messages.message(cancel) * 3 + STORE + messages.message(cancel))
        assert _status(sock) == 0
        sock.sendall(messages.RELEASE)
        assert _ends(sock) == messages.RELEASED
    assert [path.stem for path in scp.directory.rglob("*.dcm")] == [UID]


@pytest.mark.parametrize(
    ("field", "data_set", "code"),
    [(command.C_FIND_RQ, b"x" * 100, 0x0211), (0x0140, None, 0x0211), (0x0150, b"", 0x0211), (0x0FFE, None, 0x0211)],
)
def test_what_is_not_served_is_answered(scp: StorageSCP, field: int, data_set: bytes | None, code: int) -> None:
    """Other requests get "unrecognised operation", their data sets are skipped, and the association continues."""
    asked = command.encode({command.COMMAND_FIELD: field, command.MESSAGE_ID: 5}, data_set=data_set is not None)
    with _calling(scp) as (sock, _):
        sock.sendall(messages.message(asked, data_set) + STORE)
        assert (_status(sock), _status(sock)) == (code, 0)


def test_128_contexts_of_long_lists(scp: StorageSCP, tmp_path: Path) -> None:
    """A request with 128 contexts of forty transfer syntaxes of 64 characters is answered for each context."""
    proposed = long_lists()
    request = acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", proposed))
    assert len(request) > 300_000
    with _calling(scp, request) as (sock, accept):
        assert accept.results == {cx.context_id: (acse.ACCEPTED, cx.transfer_syntaxes[0]) for cx in proposed}
        sock.sendall(messages.message(messages.store_request(UID, sop_class_uid=long_uid(127)), DATA_SET, 255))
        assert _status(sock) == 0
    [kept] = scp.directory.rglob("*.dcm")
    assert dicom_files.data_set(kept) == DATA_SET


def test_a_request_beyond_all_measure_is_hung_up_on(scp: StorageSCP) -> None:
    """A request longer than a mebibyte is not read."""
    with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as sock:
        sock.sendall(struct.pack(">BxL", 1, (1 << 20) + 1) + bytes(1000))
        assert _ends(sock)[:1] in {b"", b"\7"}


def test_uids_that_are_too_long_are_refused(scp: StorageSCP) -> None:
    """A class of 65 characters is rejected, and the first transfer syntax of valid length is accepted."""
    proposed = (
        acse.ProposedContext(1, long_uid(1) + "7", (EXPLICIT,)),
        acse.ProposedContext(3, long_uid(1), (long_uid(2) + "7", long_uid(3))),
        acse.ProposedContext(5, CT, ("1" * 60_000,)),
    )
    request = acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", proposed))
    with _calling(scp, request) as (sock, accept):
        assert accept.results == {
            1: (acse.ABSTRACT_SYNTAX_NOT_SUPPORTED, ""),
            3: (acse.ACCEPTED, long_uid(3)),
            5: (acse.TRANSFER_SYNTAXES_NOT_SUPPORTED, ""),
        }
        sock.sendall(messages.RELEASE)
        assert _ends(sock) == messages.RELEASED


def test_contexts_of_one_id_or_none(scp: StorageSCP) -> None:
    """The last of two contexts with one id counts, and a context without a transfer syntax is rejected."""
    proposed = (
        acse.ProposedContext(1, CT, (EXPLICIT,)),
        acse.ProposedContext(1, "1.2.840.10008.5.1.4.1.1.4", (IMPLICIT,)),
        acse.ProposedContext(3, CT, ()),
    )
    request = acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", proposed))
    with _calling(scp, request) as (sock, accept):
        assert accept.results[1] == (acse.ACCEPTED, IMPLICIT)
        assert accept.results[3][0] == acse.TRANSFER_SYNTAXES_NOT_SUPPORTED
        sock.sendall(STORE)
        # The context has another class and another syntax. What came whole is kept, labelled as what it is.
        assert _status(sock) == 0x0000
    with _calling(scp, acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", ()))) as (sock, accept):
        assert accept.results == {}
        sock.sendall(messages.RELEASE)
        assert _ends(sock) == messages.RELEASED
