"""C-MOVE and C-GET that the remote never finishes: a stall ends them, and so does complete arrival."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.retrieve.c_get import Reception, get
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.retrieve.delivery import FINAL_RESPONSE_LIMIT, Arrived
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import StopCheck, Timeouts
from pacs_tasks.errors import JobCancelledError, PeerStalledError
from pacs_tasks.outcome import InstanceOutcome, MoveOutcome, StatusCategory
from pacs_tasks.request import GetRequest, MoveRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import scripted
from tests.support.dicom_files import study_uid, write_series

LOCAL = LocalAE(ae_title="ME")
CT = "1.2.840.10008.5.1.4.1.1.2"
NUMBER = 3
#: No remote here is silent for so long; progress stops for a second.
LIMITS = Timeouts(connect=5, acse=5, dimse=5, operation=60, progress=1)


Ask = Callable[[RemoteAE, Path, StopCheck | None], MoveOutcome]


def by_get(remote: RemoteAE, directory: Path, stop: StopCheck | None) -> MoveOutcome:
    request = GetRequest(remote=remote, output_dir=str(directory), study_uid=study_uid())
    return get(request, LOCAL, LIMITS, stop, [CT])


def by_move(remote: RemoteAE, _: Path, stop: StopCheck | None) -> MoveOutcome:
    return move(MoveRequest(remote=remote, move_aet="ME", study_uid=study_uid()), LOCAL, LIMITS, stop)


def move_response(context_id: int, status: int, completed: int, remaining: int = 0) -> bytes:
    """A response to message 1 (PS3.7 section 9.3.4.2)."""
    elements: dict[int, int | str] = {
        command.COMMAND_FIELD: command.C_MOVE_RQ | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: 1,
        command.STATUS: status,
        command.REMAINING: remaining,
        command.COMPLETED: completed,
    }
    return scripted.p_data(context_id, 3, command.encode(elements, data_set=False))


@pytest.mark.parametrize("ask", [by_get, by_move])
@pytest.mark.parametrize("changing", [False, True])
def test_pending_for_ever_ends(ask: Ask, tmp_path: Path, changing: bool) -> None:
    """The remote is never silent, but nothing arrives: the error names the limit. Counts that go up and down are no
    progress.
    """
    faults = Faults(pending_for_ever=True, changing_counts=changing)
    with (
        TestPACS(destinations={"ME": ("127.0.0.1", 1)}, faults=faults) as pacs,
        pytest.raises(PeerStalledError, match="PACS_TASKS_PROGRESS_TIMEOUT"),
    ):
        ask(pacs.remote, tmp_path, None)


@pytest.mark.parametrize("delay", [0.05, 0.0])
def test_repeats_are_no_progress(tmp_path: Path, delay: float) -> None:
    """A remote that sends one instance again and again stalls, also if there is nearly always one on its way."""
    held = write_series(tmp_path / "held", NUMBER)
    faults = Faults(repeats_for_ever=True, delay=delay)
    with TestPACS(instances=held, faults=faults) as pacs, pytest.raises(PeerStalledError):
        by_get(pacs.remote, tmp_path / "got", None)
    assert len(list((tmp_path / "got").rglob("*.dcm"))) == NUMBER


def test_instances_are_progress(tmp_path: Path) -> None:
    """Instances may arrive slowly."""
    held = write_series(tmp_path / "held", 3 * NUMBER)
    begun = time.monotonic()
    with TestPACS(instances=held, faults=Faults(delay=0.3)) as pacs:
        request = GetRequest(remote=pacs.remote, output_dir=str(tmp_path / "got"), study_uid=study_uid())
        outcome = get(request, LOCAL, replace(LIMITS, progress=2), None, [CT])
    assert outcome.suboperations.completed == 3 * NUMBER
    assert time.monotonic() - begun > 2


def test_a_complete_delivery_needs_no_final_response(tmp_path: Path) -> None:
    """The remote has a few seconds to send it, then we abort: the instances on disk decide."""
    held, came = write_series(tmp_path / "held", NUMBER), list[InstanceOutcome]()
    with TestPACS(instances=held, faults=Faults(never_finish=True)) as pacs:
        begun = time.monotonic()
        outcome = get(
            GetRequest(remote=pacs.remote, output_dir=str(tmp_path / "got"), study_uid=study_uid()),
            LOCAL,
            Timeouts.of(30),
            sop_class_uids=[CT],
            reception=Reception(came.append, lambda: Arrived(len(came), len(came) == NUMBER)),
        )
        assert FINAL_RESPONSE_LIMIT <= time.monotonic() - begun < FINAL_RESPONSE_LIMIT + 5
    assert len(outcome.instances) == NUMBER
    assert outcome.status.category is StatusCategory.PENDING
    assert "did not send its final response" in outcome.status.meaning


def test_arrivals_elsewhere_are_progress() -> None:
    """A remote without pending responses (PS3.4 section C.4.2.1.6 allows this) is not silent while it delivers."""
    begun: list[float] = []

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        begun.append(time.monotonic())
        sock.settimeout(2.0)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.sendall(move_response(context_id, 0x0000, completed=9))
        scripted.let_go(sock)

    def look() -> Arrived:
        return Arrived(int((time.monotonic() - begun[0]) * 10) if begun else 0, complete=False)

    with scripted.peer(script) as remote:
        request = MoveRequest(remote=remote, move_aet="ME", study_uid=study_uid())
        limits = Timeouts(connect=20, acse=20, dimse=0.9)
        assert move(request, LOCAL, limits, check_arrived=look).suboperations.completed == 9


def test_instances_beyond_the_promise_are_awaited() -> None:
    """The remote may have truncated its list, and its last instance may be large."""
    begun: list[float] = []

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        begun.append(time.monotonic())
        sock.sendall(move_response(context_id, 0xFF00, completed=NUMBER, remaining=1))
        sock.settimeout(FINAL_RESPONSE_LIMIT + 1.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.sendall(move_response(context_id, 0x0000, completed=NUMBER + 1))
        scripted.let_go(sock)

    def look() -> Arrived:
        return Arrived(NUMBER if begun else 0, complete=bool(begun))

    with scripted.peer(script) as remote:
        outcome = move(
            MoveRequest(remote=remote, move_aet="ME", study_uid=study_uid()), LOCAL, Timeouts.of(30), check_arrived=look
        )
    assert (outcome.status.category, outcome.suboperations.completed) == (StatusCategory.SUCCESS, NUMBER + 1)


@pytest.mark.parametrize("ask", [by_get, by_move])
def test_a_peer_that_ignores_a_cancel_is_left(ask: Ask, tmp_path: Path) -> None:
    """The association ends after the grace period, whatever the remote still sends."""
    faults = Faults(pending_for_ever=True, ignore_cancel=True)
    with TestPACS(destinations={"ME": ("127.0.0.1", 1)}, faults=faults) as pacs, pytest.raises(JobCancelledError):
        ask(pacs.remote, tmp_path, lambda: bool(pacs.identifiers))
