"""The faults of TestPACS, as pynetdicom sees them."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import build_context

from pacs_tasks.testing import EVERY_INSTANCE, Faults, Silence, TestPACS
from pacs_tasks.testing.association import Caller
from pacs_tasks.testing.faults import NO_REASON
from tests.support import dicom_files
from tests.support.callers import (
    CT,
    CT_CONTEXT,
    EXPLICIT,
    STUDY_MOVE,
    VERIFICATION,
    associated,
    find,
    retrieve_keys,
    series,
)
from tests.support.waiting import wait_until


def test_that_it_loses_instances_when_told_to(pacs: TestPACS) -> None:
    """Lost instances count as completed, unsent ones as failed; neither arrives."""
    instances = series(4)
    uids = [each.SOPInstanceUID for each in instances]
    faults = Faults(lost=[uids[0]], unsent=[uids[1]])
    with TestPACS("SOURCE", instances=instances, destinations={"TESTPACS": (pacs.host, pacs.port)}) as source:
        source.faults = faults
        with associated(source, (STUDY_MOVE, None)) as assoc:
            *_, (last, identifier) = assoc.send_c_move(retrieve_keys(), "TESTPACS", STUDY_MOVE)
    assert (last.Status, last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (0xB000, 3, 1)
    assert identifier is not None
    assert identifier.FailedSOPInstanceUIDList == uids[1]
    assert sorted(pacs.stores) == sorted(uids[2:])


def test_that_it_notices_a_destination_that_hangs_up(pacs: TestPACS) -> None:
    """The remaining instances fail at once."""
    pacs.faults = Faults(abort_at_store=2)
    with TestPACS("SOURCE", instances=series(4), destinations={"TESTPACS": (pacs.host, pacs.port)}) as source:
        began = time.monotonic()
        with associated(source, (STUDY_MOVE, None)) as assoc:
            *_, (last, _) = assoc.send_c_move(retrieve_keys(), "TESTPACS", STUDY_MOVE)
    assert (last.Status, last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (0xB000, 1, 3)
    # Waiting for a response would take 30 s for each of them.
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("faults", "called_aet", "accepted"),
    [
        (Faults(rejection=NO_REASON), "", False),
        (Faults(calling_aets=["OTHER"]), "", False),
        (Faults(calling_aets=["CALLER"]), "", True),
        (Faults(require_called_aet=True), "WRONG", False),
        (Faults(require_called_aet=True), "", True),
        (Faults(), "WRONG", True),
    ],
    ids=str,
)
def test_that_associations_are_refused(pacs: TestPACS, faults: Faults, called_aet: str, accepted: bool) -> None:
    """The faults decide which callers are rejected."""
    pacs.faults = faults
    with associated(pacs, called_aet=called_aet) as assoc:
        assert assoc.is_established is accepted
        assert assoc.is_rejected is not accepted


def test_that_the_answer_about_an_instance_is_held_back(pacs: TestPACS) -> None:
    """The instance is kept; the response waits until the faults are replaced."""
    pacs.faults = Faults(hold_instances_after=1)
    answers: list[int] = []

    def send() -> None:
        answers.extend(assoc.send_c_store(instance).Status for instance in series(3))

    with associated(pacs, CT_CONTEXT) as assoc:
        sending = threading.Thread(target=send)
        sending.start()
        wait_until(lambda: len(pacs.instances) == 2, 10, "the second one")
        sending.join(0.2)
        assert (answers, len(pacs.stores)) == ([0x0000], 2)
        pacs.faults = Faults()
        sending.join(10)
    assert (answers, len(pacs.stores)) == ([0x0000] * 3, 3)


def test_that_requests_are_held_until_other_faults_are_there(pacs: TestPACS) -> None:
    """Earlier requests are served; the next one waits, and the new faults apply to it."""
    pacs.faults = Faults(hold_requests_after=2)
    answers: list[int] = []
    with associated(pacs, CT_CONTEXT) as assoc:
        answers += [assoc.send_c_store(dicom_files.instance(number)).Status for number in (1, 2)]
        third = threading.Thread(target=lambda: answers.append(assoc.send_c_store(dicom_files.instance(3)).Status))
        third.start()
        third.join(0.3)
        assert (answers, len(pacs.stores)) == ([0, 0], 2)
        pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA700})
        third.join(10)
    assert answers == [0, 0, 0xA700]


def test_that_a_busy_pacs_accepts_later(pacs: TestPACS) -> None:
    """It rejects the first two callers for now, and accepts the third."""
    pacs.faults = Faults(busy_associations=2)
    results = []
    for _ in range(3):
        with associated(pacs) as assoc:
            results.append(assoc.is_established)
    assert results == [False, False, True]


def test_that_a_pacs_takes_so_many_associations_at_once(pacs: TestPACS) -> None:
    """It rejects the third caller for now, and accepts it once another has released or is gone."""
    pacs.faults = Faults(association_limit=2)
    with associated(pacs) as first, associated(pacs) as second:
        with associated(pacs) as third:
            assert third.is_rejected
        first.release()
        with associated(pacs) as fourth:
            assert fourth.is_established
        second.abort()
        wait_until(lambda: pacs.open_associations == 0, 10, "the abort is seen")
        with associated(pacs) as fifth:
            assert fifth.is_established
    assert (pacs.associations, pacs.most_associations) == (4, 2)


def test_that_contexts_are_refused(pacs: TestPACS) -> None:
    """It refuses the contexts of these SOP classes and transfer syntaxes, and accepts the others."""
    implicit = "1.2.840.10008.1.2"
    pacs.faults = Faults(refused_sop_classes=["1.2.840.10008.5.1.4.1.1.4"], refused_transfer_syntaxes=[implicit])
    wanted: list[tuple[str, list[str] | str | None]] = [
        CT_CONTEXT,
        (CT, [implicit]),
        ("1.2.840.10008.5.1.4.1.1.4", None),
    ]
    with associated(pacs, *wanted) as assoc:
        accepted = [(cx.abstract_syntax, cx.transfer_syntax) for cx in assoc.accepted_contexts]
    assert accepted == [(CT, [EXPLICIT])]


@pytest.mark.parametrize("silence", list(Silence))
def test_that_silence_ends_with_the_caller(pacs: TestPACS, silence: Silence) -> None:
    """A silent PACS keeps the connection open, notices that the caller leaves, and stops at once."""
    pacs.faults = Faults(silence=silence)
    ae = Caller("CALLER")
    # The answers that do come have enough time.
    ae.acse_timeout = 0.5 if silence is Silence.CONNECTED else 10
    ae.dimse_timeout = 0.5
    began = time.monotonic()
    assoc = ae.associate(pacs.host, pacs.port, [build_context(*CT_CONTEXT)], pacs.ae_title)
    assert assoc.is_established is (silence is not Silence.CONNECTED)
    if assoc.is_established:
        assert assoc.send_c_store(dicom_files.instance()) == Dataset()
    assert time.monotonic() - began >= 0.5
    wait_until(lambda: pacs.open_associations == 0, 5, "the PACS to notice")
    assert pacs.instances == {}


def test_that_a_silent_pacs_stops_while_callers_wait() -> None:
    """Waiting callers do not prevent it from stopping: one has sent no request, one waits for a response."""
    pacs = TestPACS(faults=Faults(silence=Silence.ASSOCIATED))
    with pacs, socket.create_connection((pacs.host, pacs.port), timeout=5) as idle:
        ae = Caller("CALLER")
        ae.dimse_timeout = 20
        asked = threading.Event()
        handlers: list[EventHandlerType] = [(evt.EVT_DIMSE_SENT, lambda _: asked.set())]
        contexts = [build_context(VERIFICATION)]
        assoc = ae.associate(pacs.host, pacs.port, contexts, pacs.ae_title, evt_handlers=handlers)
        answer: list[Dataset] = []
        waiting = threading.Thread(target=lambda: answer.append(assoc.send_c_echo()))
        waiting.start()
        assert asked.wait(10)
        began = time.monotonic()
        pacs.stop()
        assert time.monotonic() - began < 5
        assert idle.recv(1) == b""
        waiting.join(5)
    assert answer == [Dataset()]


def test_that_it_aborts_at_the_nth_store(pacs: TestPACS) -> None:
    """It aborts at the second C-STORE, and does not keep the second instance."""
    pacs.faults = Faults(abort_at_store=2)
    with associated(pacs, CT_CONTEXT) as assoc:
        assert assoc.send_c_store(dicom_files.instance(1)).Status == 0x0000
        assert assoc.send_c_store(dicom_files.instance(2)) == Dataset()
        wait_until(lambda: not assoc.is_established, 5, "the abort")
    assert len(pacs.stores) == 2
    assert len(pacs.instances) == 1


def test_that_statuses_are_answered_as_told(pacs: TestPACS) -> None:
    """A status can apply to one instance or to all, always or only at first; refused instances are not kept."""
    first, second = dicom_files.instance(1), dicom_files.instance(2)
    pacs.faults = Faults(store_status={first.SOPInstanceUID: 0xB000, EVERY_INSTANCE: 0xA700}, store_status_times=1)
    with associated(pacs, CT_CONTEXT) as assoc:
        statuses = [assoc.send_c_store(each).Status for each in (first, second)]
        kept = set(pacs.instances)
        statuses += [assoc.send_c_store(each).Status for each in (first, second)]
    assert statuses == [0xB000, 0xA700, 0x0000, 0x0000]
    assert kept == {first.SOPInstanceUID}
    assert len(pacs.instances) == 2


def test_that_the_charset_can_be_left_out() -> None:
    """A match without (0008,0005) keeps the bytes of its instance."""
    with TestPACS(instances=series(1), faults=Faults(omit_charset=True)) as pacs:
        (match,) = find(pacs, {"PatientName": ""})
    assert "SpecificCharacterSet" not in match
    assert match.PatientName.original_string.rstrip() == dicom_files.CHINESE_NAME.encode("gb18030")


@pytest.mark.parametrize("size", [0, 4096, 131_072])
def test_that_the_largest_pdu_is_announced(pacs: TestPACS, size: int) -> None:
    """The PACS announces the PDU size of the faults; 0 is unlimited."""
    pacs.faults = Faults(max_pdu_size=size)
    with associated(pacs, CT_CONTEXT) as assoc:
        assert assoc.acceptor.maximum_length == size
        assert assoc.send_c_store(dicom_files.instance(rows=256)).Status == 0x0000


def test_that_it_aborts_within_a_data_set(pacs: TestPACS) -> None:
    """It aborts at the first fragment of the second instance, and receives it completely the next time."""
    pacs.faults = Faults(abort_within_store=2, max_pdu_size=4096)
    first, second = series(2)
    with associated(pacs, CT_CONTEXT) as assoc:
        assert assoc.send_c_store(first).Status == 0x0000
        assert assoc.send_c_store(second) == Dataset()
        wait_until(lambda: assoc.is_aborted, 5, "the abort")
    assert list(pacs.instances) == [first.SOPInstanceUID]
    with associated(pacs, CT_CONTEXT) as assoc:
        assert assoc.send_c_store(second).Status == 0x0000
    assert pacs.stores == [first.SOPInstanceUID, second.SOPInstanceUID]
    wait_until(lambda: pacs.open_associations == 0, 5, "the end")


def test_that_who_has_an_association_finds_it_counted(pacs: TestPACS) -> None:
    """An association is counted before the caller learns of it."""
    accept = threading.Event()
    counted: list[int] = []

    def heard(_: Event) -> None:
        counted.append(pacs.associations)
        accept.set()

    with associated(pacs, evt_handlers=[(evt.EVT_ACCEPTED, heard)]):
        assert accept.wait(5)
    assert counted == [1]


def test_that_a_reset_connection_leaves_no_socket_open() -> None:
    """pynetdicom's own AE leaves it open, and the ResourceWarning fails the test that runs when it is collected."""
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        resetting = threading.Thread(target=_reset_one, args=(server,))
        resetting.start()
        handlers: list[EventHandlerType] = [
            (evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket))
        ]
        port = int(server.getsockname()[1])
        assoc = Caller("CALLER").associate("127.0.0.1", port, [build_context(VERIFICATION)], evt_handlers=handlers)
        resetting.join(10)
    assoc.dul.join(10)
    assert [each.fileno() for each in opened] == [-1]
    assert not assoc.is_established


def _reset_one(server: socket.socket) -> None:
    """Accept one connection, and reset it once the association request arrives."""
    connection, _ = server.accept()
    with connection:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
