"""Several outstanding C-STORE requests on one association, if the remote agrees (PS3.7 section D.3.3.3)."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import PacsClient, PeerUnavailableError, StoreDirectoryRequest, TransferOutcome
from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse import c_store
from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.outcome import InstanceCategory
from pacs_tasks.testing import Faults, TestPACS
from tests.support import scripted
from tests.support.dicom_files import data_set, write_series

LOCAL = LocalAE(ae_title="CALLER")
LIMITS = Timeouts.of(10)
COUNT = 12


@pytest.fixture
def instances(tmp_path: Path) -> list[StoredInstance]:
    return [read_instance(str(path)) for path in write_series(tmp_path / "files", COUNT)]


def opened(remote: RemoteAE, instances: list[StoredInstance], window: int) -> Association:
    ((contexts, _),) = contexts_for(instances)
    return Association.open(LOCAL, remote, contexts, LIMITS, window=window)


def answer(context_id: int, request: bytes, status: int = 0) -> bytes:
    """Make a C-STORE response in one PDU."""
    asked = command.decode(request)
    return scripted.p_data(
        context_id,
        3,
        command.encode(
            {
                command.AFFECTED_SOP_CLASS_UID: asked.text(command.AFFECTED_SOP_CLASS_UID),
                command.COMMAND_FIELD: command.C_STORE_RQ | command.RESPONSE,
                command.MESSAGE_ID_RESPONDED_TO: asked.number(command.MESSAGE_ID) or 0,
                command.STATUS: status,
                command.AFFECTED_SOP_INSTANCE_UID: asked.text(command.AFFECTED_SOP_INSTANCE_UID),
            },
            data_set=False,
        ),
    )


def agreed_release(sock: socket.socket) -> None:
    scripted.receive_pdu(sock)
    sock.sendall(b"\6\0\0\0\0\4\0\0\0\0")


def test_answers_count_for_their_own_requests_in_any_order(instances: list[StoredInstance]) -> None:
    """Responses count for their own requests, even in reverse order and with one failure."""
    refused: list[str] = []

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock, operations=(4, 1))
        for _ in range(COUNT // 4):
            requests = [scripted.read_message(sock) for _ in range(4)]
            refused.append(command.decode(requests[1][1]).text(command.AFFECTED_SOP_INSTANCE_UID))
            for number, (context_id, request) in reversed(list(enumerate(requests))):
                sock.sendall(answer(context_id, request, 0xC000 if number == 1 else 0))
        agreed_release(sock)

    with scripted.peer(script) as remote, opened(remote, instances, 16) as assoc:
        assert assoc.window == 4
        told = list(c_store.store_all(assoc, instances))
    assert {instance for instance, _ in told} == set(instances)
    assert all(outcome.sop_instance_uid == instance.sop_instance_uid for instance, outcome in told)
    failed = {o.sop_instance_uid for _, o in told if o.category is InstanceCategory.FAILED}
    assert failed == set(refused)
    assert len(failed) == COUNT // 4


def test_what_was_answered_before_a_loss_counts(instances: list[StoredInstance]) -> None:
    """Only the third request was answered before the end: it counts, and the others are unknown."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock, operations=(0, 1))
        requests = [scripted.read_message(sock) for _ in range(5)]
        sock.sendall(answer(*requests[2]))

    with scripted.peer(script) as remote:
        assoc = opened(remote, instances, 5)
        assert assoc.window == 5, "0 is no limit, so ours counts"
        told = c_store.store_all(assoc, instances)
        instance, outcome = next(told)
        assert (instance, outcome.category) == (instances[2], InstanceCategory.SUCCESS)
        with pytest.raises(PeerUnavailableError):
            next(told)


def test_an_answer_to_no_request_of_ours_ends_the_association(instances: list[StoredInstance]) -> None:
    """A response to no outstanding request ends the association."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock, operations=(2, 1))
        (context_id, request), _ = (scripted.read_message(sock) for _ in range(2))
        sock.sendall(answer(context_id, request) * 2)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        assoc = opened(remote, instances[:2], 2)
        told = c_store.store_all(assoc, instances[:2])
        assert next(told)[1].category is InstanceCategory.SUCCESS
        with pytest.raises(PeerUnavailableError, match="another message"):
            next(told)


def test_a_peer_that_says_nothing_about_it_gets_one_at_a_time(instances: list[StoredInstance]) -> None:
    """Without an agreed window only one request is outstanding."""
    early = threading.Event()

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        for _ in instances:
            context_id, request = scripted.read_message(sock)
            sock.settimeout(0.02)
            try:
                if sock.recv(1, socket.MSG_PEEK):
                    early.set()
            except TimeoutError:
                pass
            sock.settimeout(10)
            sock.sendall(answer(context_id, request))
        agreed_release(sock)

    with scripted.peer(script) as remote, opened(remote, instances, 16) as assoc:
        assert assoc.window == 1
        assert len(list(c_store.store_all(assoc, instances))) == COUNT
    assert not early.is_set()


def test_who_gives_the_instances_may_stop_at_any_time(instances: list[StoredInstance], pacs: TestPACS) -> None:
    """Requests already sent are answered, and no further one is sent."""
    pacs.faults = Faults(operations=4)

    def some() -> Iterator[StoredInstance]:
        yield from instances[:5]

    with opened(pacs.remote, instances, 16) as assoc:
        assert len(list(c_store.store_all(assoc, some()))) == 5
        assert assoc.reusable()
    assert len(pacs.stores) == 5


def test_our_receiver_agrees(instances: list[StoredInstance], tmp_path: Path) -> None:
    """Our receiver agrees to a window and stores each acknowledged instance."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", LIMITS) as scp:
        remote = RemoteAE(ae_title="RECEIVER", host="127.0.0.1", port=scp.port)
        with opened(remote, instances, 1000) as assoc:
            assert 1 < assoc.window < 1000
            told = list(c_store.store_all(assoc, instances))
    assert all(outcome.category is InstanceCategory.SUCCESS for _, outcome in told)
    received = {path.stem: data_set(path) for path in (tmp_path / "received").rglob("*.dcm")}
    assert received == {each.sop_instance_uid: data_set(Path(each.path)) for each in instances}


def test_a_job_survives_an_abort_with_requests_under_way(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Each file has one outcome, and a receipt for the bytes that the PACS stored."""
    paths = write_series(tmp_path, COUNT)
    pacs.faults = Faults(operations=4, abort_at_store=6)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), files_per_task=COUNT)
    job = client.enqueue(request)
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert outcome.counters.success == COUNT == len(pacs.instances)
    receipts = {each.sop_instance_uid: each for each in job.instances()}
    assert {receipt.subject for receipt in receipts.values()} == set(map(str, paths))
    for uid, held in pacs.instances.items():
        assert receipts[uid].sha256 == hashlib.sha256(held.data_set).hexdigest()
        assert 0 < receipts[uid].begun <= receipts[uid].ended
        assert receipts[uid].worker
    # Instances that were outstanding at the abort were sent twice.
    assert COUNT < sum(receipt.attempts for receipt in receipts.values()) <= COUNT + 4
