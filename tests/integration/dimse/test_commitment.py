"""Storage commitment with TestPACS and Orthanc, with reports on either association."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.commitment import PUSH_MODEL_CONTEXT, await_report, encode_request, request_commitment
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.scp.limits import Limits
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import BrokerUnavailableError, ContextRejectedError, PeerUnavailableError
from pacs_tasks.outcome import StatusCategory
from pacs_tasks.outcome.verification import CommitmentReport
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Report, TestPACS
from tests.support import dicom_files, peers, scripted
from tests.support.callers import series
from tests.support.certificates import Authority
from tests.support.sending import store
from tests.support.waiting import wait_until

RECEIVER = LocalAE(ae_title="RECEIVER")
PATIENT = Timeouts.of(20)
TRANSACTION = "2.25.1234567890"


class Taken:
    """Collects reports about known transactions."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.reports: list[CommitmentReport] = []

    def __call__(self, report: CommitmentReport) -> bool:
        self.reports.append(report)
        return report.transaction_uid in self.known


def _references(count: int) -> list[tuple[str, str]]:
    return [(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in series(count)]


@pytest.fixture
def taken() -> Taken:
    """Reports about the transaction of these tests."""
    return Taken(TRANSACTION)


@pytest.fixture
def receiver(tmp_path: Path, taken: Taken) -> Iterator[StorageSCP]:
    """A receiver that accepts reports."""
    known = taken.known.__contains__
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", on_report=taken, knows_transaction=known) as running:
        yield running


def _open(remote: RemoteAE) -> Association:
    return Association.open(RECEIVER, remote, [PUSH_MODEL_CONTEXT], PATIENT)


def _listen(assoc: Association, taken: Taken, count: int = 1) -> None:
    wait_until(lambda: not await_report(assoc, 0.1, taken) or len(taken.reports) >= count, 10, "a report")


def test_a_report_on_the_same_association_is_taken(taken: Taken) -> None:
    """Held instances are committed, others fail, and our response is success."""
    with TestPACS(instances=series(2), faults=Faults(report=Report.SAME_ASSOCIATION)) as pacs:
        with _open(pacs.remote) as assoc:
            said = request_commitment(assoc, TRANSACTION, _references(3), taken)
            assert said.category is StatusCategory.SUCCESS
            _listen(assoc, taken)
            wait_until(lambda: pacs.report_statuses, 5, "our answer")
        uids = [uid for _, uid in _references(3)]
        assert taken.reports == [CommitmentReport(TRANSACTION, frozenset(uids[:2]), {uids[2]: 0x0112})]
        assert pacs.report_statuses == [0x0000]
        assert pacs.transactions == [tuple(uids)]


def test_reports_between_our_requests_are_taken() -> None:
    """Reports that arrive between requests are answered, and every request gets its response."""
    transactions = [f"{TRANSACTION}.{number}" for number in range(5)]
    taken = Taken(*transactions)
    with (
        TestPACS(instances=series(3), faults=Faults(report=Report.SAME_ASSOCIATION)) as pacs,
        _open(pacs.remote) as assoc,
    ):
        for transaction in transactions:
            assert request_commitment(assoc, transaction, _references(3), taken).category is StatusCategory.SUCCESS
        _listen(assoc, taken, 5)
        assert [each.transaction_uid for each in taken.reports] == transactions
        wait_until(lambda: pacs.report_statuses == [0x0000] * 5, 5, "our answers")


def test_a_report_on_another_association_comes_to_the_receiver(receiver: StorageSCP, taken: Taken) -> None:
    """The PACS opens an association in the SCP role, and the receiver accepts its report."""
    destinations = {"RECEIVER": ("127.0.0.1", receiver.port)}
    with TestPACS(instances=series(2), destinations=destinations) as pacs:
        with _open(pacs.remote) as assoc:
            request_commitment(assoc, TRANSACTION, _references(2), taken)
        wait_until(lambda: pacs.report_statuses, 10, "our answer")
        assert pacs.report_statuses == [0x0000]
    assert taken.reports == [CommitmentReport(TRANSACTION, frozenset(uid for _, uid in _references(2)), {})]


def test_a_report_about_a_foreign_transaction_is_refused(receiver: StorageSCP, taken: Taken) -> None:
    """It responds 0115, invalid argument value, so that the remote learns that the transaction is unknown."""
    faults = Faults(report_transaction_uid="1.2.3")
    with TestPACS(destinations={"RECEIVER": ("127.0.0.1", receiver.port)}, faults=faults) as pacs:
        with _open(pacs.remote) as assoc:
            request_commitment(assoc, TRANSACTION, _references(1), taken)
        wait_until(lambda: pacs.report_statuses, 10, "our answer")
        assert pacs.report_statuses == [0x0115]


def test_a_report_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """It responds 0110, processing failure: the remote should report again."""

    def without_a_broker(_: CommitmentReport) -> bool:
        raise BrokerUnavailableError("the Redis does not answer")

    with (
        StorageSCP("127.0.0.1", 0, tmp_path, on_report=without_a_broker) as receiver,
        TestPACS(destinations={"RECEIVER": ("127.0.0.1", receiver.port)}) as pacs,
    ):
        with _open(pacs.remote) as assoc:
            request_commitment(assoc, TRANSACTION, _references(1), Taken())
        wait_until(lambda: pacs.report_statuses, 10, "our answer")
        assert pacs.report_statuses == [0x0110]


def test_a_receiver_without_reports_refuses_their_context(tmp_path: Path) -> None:
    """The PACS gets no presentation context for reports."""
    with StorageSCP("127.0.0.1", 0, tmp_path) as receiver:
        remote = RemoteAE(ae_title="RECEIVER", port=receiver.port)
        with Association.open(RECEIVER, remote, [PUSH_MODEL_CONTEXT], PATIENT) as assoc:
            assert not assoc.accepted_contexts


def test_a_request_to_the_receiver_is_refused(receiver: StorageSCP) -> None:
    """It is not an SCP of storage commitment and does not recognise N-ACTION."""
    with _open(RemoteAE(ae_title="RECEIVER", port=receiver.port)) as assoc:
        assert request_commitment(assoc, TRANSACTION, _references(1), Taken()).code == 0x0211


def test_a_refused_request_is_a_status(taken: Taken) -> None:
    """A PACS that refuses the request reports nothing."""
    with TestPACS(faults=Faults(action_status=0x0213)) as pacs, _open(pacs.remote) as assoc:
        said = request_commitment(assoc, TRANSACTION, _references(1), taken)
        assert (said.code, said.category) == (0x0213, StatusCategory.TRANSIENT)
        assert await_report(assoc, 0.3, taken)
    assert taken.reports == []


def test_reasons_of_failure_come_as_the_peer_gives_them(taken: Taken) -> None:
    """Each instance keeps its own reason."""
    uids = [uid for _, uid in _references(3)]
    faults = Faults(report=Report.SAME_ASSOCIATION, uncommitted={uids[0]: 0x0213, EVERY_INSTANCE: 0x0110})
    with TestPACS(instances=series(3), faults=faults) as pacs, _open(pacs.remote) as assoc:
        request_commitment(assoc, TRANSACTION, _references(3), taken)
        _listen(assoc, taken)
    [report] = taken.reports
    assert report.committed == frozenset()
    assert report.failed == {uids[0]: 0x0213, uids[1]: 0x0110, uids[2]: 0x0110}


def test_a_peer_without_the_service_is_told_apart(storescp: peers.Directory) -> None:
    """The message names the alternative."""
    with _open(storescp.remote) as assoc, pytest.raises(ContextRejectedError, match="storage commitment"):
        request_commitment(assoc, TRANSACTION, _references(1), Taken())


def test_an_association_that_ends_while_we_listen_is_no_failure(taken: Taken) -> None:
    """The remote may still report on another association."""
    ended = threading.Event()

    def script(sock: socket.socket) -> None:
        request = scripted.accept_all(sock)
        context_id, asked = scripted.read_message(sock)
        message = command.decode(asked)
        answer = command.encode(
            {
                command.COMMAND_FIELD: command.N_ACTION_RQ | command.RESPONSE,
                command.MESSAGE_ID_RESPONDED_TO: message.number(command.MESSAGE_ID) or 0,
                command.STATUS: 0,
            },
            data_set=False,
        )
        sock.sendall(scripted.p_data(context_id, 3, answer))
        assert request.calling_aet == "RECEIVER"
        ended.wait(10)

    with scripted.peer(script) as remote:
        assoc = _open(remote)
        assert request_commitment(assoc, TRANSACTION, [(CTImageStorage, "1.2")], taken).code == 0
        assert await_report(assoc, 0.1, taken)
        ended.set()
        wait_until(lambda: not await_report(assoc, 0.1, taken), 10, "the end")
        assert assoc.wire.closed


def test_silence_instead_of_an_answer_is_an_error(taken: Taken) -> None:
    """The request ends in time, with an unknown result."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        limits = Timeouts(connect=5, acse=5, dimse=0.5)
        assoc = Association.open(RECEIVER, remote, [PUSH_MODEL_CONTEXT], limits)
        with pytest.raises(PeerUnavailableError, match="N-ACTION response"):
            request_commitment(assoc, TRANSACTION, [(CTImageStorage, "1.2")], taken)


@pytest.mark.orthanc
def test_orthanc_commits_what_it_holds(tmp_path: Path, receiver: StorageSCP, taken: Taken) -> None:
    """Orthanc reports to the receiver in its DicomModalities; instances that it never received have failed."""
    files = dicom_files.write_series(tmp_path / "files", 5)
    instances = [part10.read_instance(str(path)) for path in files]
    references = [(each.sop_class_uid, each.sop_instance_uid) for each in instances]
    with peers.orthanc(tmp_path, destinations={"RECEIVER": ("127.0.0.1", receiver.port)}) as orthanc:
        for proposed, batch in contexts.contexts_for(instances[:4]):
            with Association.open(RECEIVER, orthanc.remote, proposed, PATIENT) as assoc:
                assert {str(store(assoc, each).category) for each in batch} == {"success"}
        with _open(orthanc.remote) as assoc:
            assert request_commitment(assoc, TRANSACTION, references, taken).category is StatusCategory.SUCCESS
        wait_until(lambda: taken.reports, 20, "the report of Orthanc")
    uids = [uid for _, uid in references]
    assert taken.reports == [CommitmentReport(TRANSACTION, frozenset(uids[:4]), {uids[4]: 0x0112})]


def test_a_report_comes_over_tls_as_well(tmp_path: Path, taken: Taken) -> None:
    """Bytes of TLS itself are not mistaken for a message."""
    identity = Authority(tmp_path).identity()
    faults = Faults(report=Report.SAME_ASSOCIATION, delay=0.3)
    with TestPACS(instances=series(2), faults=faults, tls=identity.shown) as pacs, _open(pacs.remote) as assoc:
        assert await_report(assoc, 0.2, taken)
        assert request_commitment(assoc, TRANSACTION, _references(2), taken).category is StatusCategory.SUCCESS
        _listen(assoc, taken)
        wait_until(lambda: pacs.report_statuses == [0x0000], 5, "our answer")
    assert len(taken.reports[0].committed) == 2


def _reported(
    receiver: StorageSCP,
    fields: dict[int, int | str],
    content: bytes | None,
    answers: int = 1,
    sop_class_uid: str = StorageCommitmentPushModel,
) -> list[int]:
    """Send a report several times over one association, and return the statuses of the responses."""
    remote = RemoteAE(ae_title="RECEIVER", port=receiver.port)
    is_scp = sop_class_uid == StorageCommitmentPushModel
    context = Context(sop_class_uid, PUSH_MODEL_CONTEXT.transfer_syntaxes, scp_role=is_scp)
    statuses = []
    with Association.open(LocalAE(ae_title="ARCHIVE"), remote, [context], PATIENT) as assoc:
        assert is_scp == (StorageCommitmentPushModel in assoc.roles)
        for _ in range(answers):
            with assoc.exchange(command.N_EVENT_REPORT_RQ) as message_id:
                known = {command.COMMAND_FIELD: command.N_EVENT_REPORT_RQ, command.MESSAGE_ID: message_id, **fields}
                assoc.send(1, command.encode(known, data_set=content is not None), content)
                _, answer = assoc.receive_command("the answer")
            assert answer.field == command.N_EVENT_REPORT_RQ | command.RESPONSE
            assert answer.number(command.MESSAGE_ID_RESPONDED_TO) == message_id
            statuses.append(answer.number(command.STATUS) or 0)
    return statuses


REPORT: dict[int, int | str] = {
    command.AFFECTED_SOP_CLASS_UID: StorageCommitmentPushModel,
    command.AFFECTED_SOP_INSTANCE_UID: StorageCommitmentPushModelInstance,
    command.EVENT_TYPE_ID: 1,
}


@pytest.mark.parametrize(
    ("fields", "content", "status"),
    [
        (REPORT, encode_request(TRANSACTION, [(CTImageStorage, "1.2")]), 0x0000),
        (REPORT, b"\xff" * 64, 0x0110),
        (REPORT, encode_request(TRANSACTION, [(CTImageStorage, "1.2")])[:-3], 0x0110),
        (REPORT, None, 0x0110),
        ({**REPORT, command.EVENT_TYPE_ID: 7}, encode_request(TRANSACTION, []), 0x0113),
        ({command.AFFECTED_SOP_CLASS_UID: StorageCommitmentPushModel}, None, 0x0113),
    ],
    ids=["whole", "garbage", "cut off", "empty", "another event", "no event"],
)
def test_a_malformed_report_is_refused_and_the_association_continues(
    receiver: StorageSCP, taken: Taken, fields: dict[int, int | str], content: bytes | None, status: int
) -> None:
    """Each gets the status for its fault, as often as it arrives, and none is accepted."""
    assert _reported(receiver, fields, content, answers=3) == [status] * 3
    assert len(taken.reports) == (3 if status == 0x0000 else 0)


def _long_report(transaction_uid: str) -> bytes:
    """A report that names as many instances as fit into 16 MiB."""
    empty = encode_request(transaction_uid, [])
    item = encode_request(transaction_uid, _references(1))[len(empty) :]
    items = item * (((1 << 24) - len(empty)) // len(item))
    return empty[:-4] + struct.pack("<L", len(items)) + items


@pytest.mark.parametrize(
    ("transaction_uid", "sop_class_uid", "status"),
    [(TRANSACTION, CTImageStorage, 0x0122), ("2.25.99", StorageCommitmentPushModel, 0x0115)],
    ids=["another service", "unknown transaction"],
)
def test_a_long_report_that_nobody_awaits_costs_little(
    receiver: StorageSCP, taken: Taken, transaction_uid: str, sop_class_uid: str, status: int
) -> None:
    """It is answered as a short one, and neither kept nor decoded, which would take seconds."""
    report = _long_report(transaction_uid)
    begun = time.process_time()
    assert _reported(receiver, REPORT, report, sop_class_uid=sop_class_uid) == [status]
    assert time.process_time() - begun < 0.5
    assert taken.reports == []


def test_few_reports_are_read_at_once(tmp_path: Path) -> None:
    """The others wait for their turn, and each gets its response."""
    lock, now, most = threading.Lock(), 0, 0

    def slowly(_: CommitmentReport) -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.1)
        with lock:
            now -= 1
        return True

    content = encode_request(TRANSACTION, _references(1))
    with StorageSCP("127.0.0.1", 0, tmp_path, on_report=slowly) as receiver, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: _reported(receiver, REPORT, content), range(8))
        assert list(answers) == [[0x0000]] * 8
    assert 1 < most <= 4


@pytest.mark.parametrize("sop_class_uid", [StorageCommitmentPushModel, CTImageStorage])
def test_reports_count_towards_the_limit_of_an_association(tmp_path: Path, sop_class_uid: str) -> None:
    """One that goes on to send after it is aborted."""
    limits = Limits(association=1000)
    with (
        StorageSCP("127.0.0.1", 0, tmp_path, on_report=Taken(TRANSACTION), limits=limits) as receiver,
        pytest.raises(PeerUnavailableError),
    ):
        _reported(receiver, REPORT, encode_request(TRANSACTION, _references(20)), 2, sop_class_uid)
