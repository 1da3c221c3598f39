"""Thousands of misbehaving remotes for each of our callers.

Each call ends in time with an outcome that matches the bytes of the remote, or with one of our errors, and leaves no
memory, threads or partial files. See :mod:`tests.support.fuzzing` for longer runs.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.commitment import PUSH_MODEL_CONTEXT, await_report, request_commitment
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.retrieve.c_get import get
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.outcome import EchoOutcome, FindOutcome, GetOutcome, InstanceOutcome, MoveOutcome
from pacs_tasks.request import FindRequest, GetRequest, Level, MoveRequest
from tests.support import dicom_files, fuzzing, messages, mutation, peculiar, scripted
from tests.support.messages import CT, IMPLICIT
from tests.support.queries import find

LOCAL = LocalAE(ae_title="CALLER")
TIMEOUTS = Timeouts(connect=5, acse=5, dimse=1, operation=10)


class _Answerer:
    """A remote that sends prepared bytes to each caller and waits until it hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.pieces: Sequence[bytes] = ()
        self.remote = RemoteAE(ae_title="SCRIPTED", port=self._listener.getsockname()[1])

    def __enter__(self) -> _Answerer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(fuzzing.IN_TIME)
        self._listener.close()

    def _serve(self) -> None:
        while not self._ending.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            with sock, suppress(OSError):
                sock.settimeout(fuzzing.IN_TIME)
                for piece in self.pieces:
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
                scripted.wait_for_end(sock)


Run = Callable[[RemoteAE], object]
Check = Callable[[object, list[messages.Message]], None]


@dataclass
class _Call:
    """One of our callers, the bytes of a valid remote, and a check of the outcome."""

    run: Run
    answers: list[bytes]
    check: Check
    acceptance: bytes = b""


def _statuses(said: list[messages.Message], request: int) -> list[int | None]:
    wanted = request | command.RESPONSE
    return [each.number(command.STATUS) for each in said if each.number(command.COMMAND_FIELD) == wanted]


def _echo_call() -> _Call:
    def check(outcome: object, said: list[messages.Message]) -> None:
        assert isinstance(outcome, EchoOutcome)
        assert outcome.status.code in _statuses(said, command.C_ECHO_RQ)

    answer = messages.message(messages.response(command.C_ECHO_RQ, 0))
    return _Call(lambda remote: echo(LOCAL, remote, TIMEOUTS), [answer], check)


def _store_call(instances: list[StoredInstance]) -> _Call:
    [(proposed, _)] = contexts.contexts_for(instances)

    def run(remote: RemoteAE) -> list[InstanceOutcome]:
        with Association.open(LOCAL, remote, proposed, TIMEOUTS, window=2) as assoc:
            return [outcome for _, outcome in store_all(assoc, instances)]

    def check(outcome: object, said: list[messages.Message]) -> None:
        assert isinstance(outcome, list)
        left = _statuses(said, command.C_STORE_RQ)
        for each in outcome:
            assert (each.status is None) == (each.error != "")
            if each.status is not None:
                # Each outcome has a response of its own.
                left.remove(each.status.code)

    answers = [
        messages.message(
            messages.response(command.C_STORE_RQ, code, number, AFFECTED_SOP_INSTANCE_UID=each.sop_instance_uid)
        )
        for number, (each, code) in enumerate(zip(instances, (0, 0xB000, 0), strict=True), 1)
    ]
    return _Call(run, answers, check)


def _find_call() -> _Call:
    def check(outcome: object, said: list[messages.Message]) -> None:
        assert isinstance(outcome, FindOutcome)
        assert outcome.limit_hit or outcome.status.code in _statuses(said, command.C_FIND_RQ)
        assert len(outcome.matches) <= len(_statuses(said, command.C_FIND_RQ))
        assert FindOutcome.model_validate_json(outcome.model_dump_json())

    match = peculiar.element(0x0008_0005, b"CS", b"GB18030 ") + peculiar.element(0x0010_0010, b"PN", b"A^B ")
    pending = messages.message(messages.response(command.C_FIND_RQ, 0xFF00, data_set=True), match)
    final = messages.message(messages.response(command.C_FIND_RQ, 0))
    return _Call(
        lambda remote: find(FindRequest(remote=remote, level=Level.STUDY, limit=5), LOCAL, TIMEOUTS),
        [pending, pending, pending, final],
        check,
    )


def _move_call() -> _Call:
    def check(outcome: object, said: list[messages.Message]) -> None:
        assert isinstance(outcome, MoveOutcome)
        assert outcome.status.code in _statuses(said, command.C_MOVE_RQ)

    pending = messages.message(messages.response(command.C_MOVE_RQ, 0xFF00, REMAINING=1, COMPLETED=1))
    failed = peculiar.element(0x0008_0058, b"UI", b"1.2\\1.3 ", IMPLICIT)
    final = messages.message(messages.response(command.C_MOVE_RQ, 0xB000, data_set=True, FAILED=2), failed)
    return _Call(
        lambda remote: move(MoveRequest(remote=remote, study_uid="1.2", move_aet="X"), LOCAL, TIMEOUTS),
        [pending, pending, final],
        check,
    )


def _get_call(directory: Path) -> _Call:
    def run(remote: RemoteAE) -> GetOutcome:
        request = GetRequest(remote=remote, study_uid="1.2", output_dir=str(directory))
        return get(request, LOCAL, TIMEOUTS, sop_class_uids=[CT])

    def check(outcome: object, said: list[messages.Message]) -> None:
        assert isinstance(outcome, GetOutcome)
        assert outcome.status.code in _statuses(said, command.C_GET_RQ)
        assert all(Path(each.path).exists() for each in outcome.instances)

    data_set = peculiar.data_set(b"1.2.3\0", peculiar.element(0x7FE0_0010, b"OW", bytes(300)))
    sent = fuzzing.fragmented(messages.store_request("1.2.3", 9), data_set, 3, 200)
    pending = messages.message(messages.response(command.C_GET_RQ, 0xFF00, REMAINING=1))
    return _Call(run, [*sent, pending, *sent, messages.message(messages.response(command.C_GET_RQ, 0))], check)


def _commitment_call() -> _Call:
    def run(remote: RemoteAE) -> int:
        with Association.open(LOCAL, remote, [PUSH_MODEL_CONTEXT], TIMEOUTS) as assoc:
            said = request_commitment(assoc, "1.2.3", [("1.2", "1.3")], lambda _: True)
            while await_report(assoc, 0.5, lambda _: True):
                continue
        return said.code

    def check(outcome: object, said: list[messages.Message]) -> None:
        assert outcome in _statuses(said, command.N_ACTION_RQ)

    answer = messages.message(messages.response(command.N_ACTION_RQ, 0))
    return _Call(run, [fuzzing.report(1), answer, fuzzing.report(2)], check)


def _acceptance(run: Run) -> bytes:
    """Capture the request of a caller, to accept all that it proposes."""
    requests: list[acse.AssociateRequest] = []

    def script(sock: socket.socket) -> None:
        requests.append(acse.decode_request(memoryview(scripted.receive_pdu(sock)[1])))

    with scripted.peer(script) as remote, suppress(PacsTasksError):
        run(remote)
    [request] = requests
    results = {cx.context_id: (acse.ACCEPTED, cx.transfer_syntaxes[0]) for cx in request.contexts}
    accept = acse.AssociateAccept(results, 16_384, request.roles, request.operations)
    return acse.encode_accept(accept, request)


def _all_calls(directory: Path) -> list[_Call]:
    files = [dicom_files.write(dicom_files.instance(n, rows=8), directory / "files" / f"{n}.dcm") for n in (1, 2, 3)]
    instances = [part10.read_instance(str(path)) for path in files]
    calls = [
        *(_echo_call(), _store_call(instances), _find_call()),
        *(_move_call(), _get_call(directory / "got"), _commitment_call()),
    ]
    for each in calls:
        each.acceptance = _acceptance(each.run)
    return calls


@pytest.mark.timeout(fuzzing.LIMIT)
def test_our_callers_outlive_every_peer(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Any bytes of a remote give a matching outcome or one of our errors."""
    calls, got = _all_calls(tmp_path), tmp_path / "got"
    before, begun, outcomes = 0, time.monotonic(), 0
    threads = threading.active_count()
    with _Answerer() as answerer:
        for number in fuzzing.NUMBERS:
            chance = fuzzing.chance("caller", number)
            call = chance.choice(calls)
            pdus = [call.acceptance, *call.answers, messages.RELEASED]
            # Most damage comes after the acceptance: few callers read on after a damaged one.
            keep = 1 if chance.random() < 0.7 else 0
            stream = b"".join(pdus[:keep]) + mutation.mutated(chance, pdus[keep:])
            said = messages.messages(stream, halves=True)
            answerer.pieces = mutation.pieces(chance, stream)
            with fuzzing.case("caller", number, stream, tmp_path):
                try:
                    outcome = call.run(answerer.remote)
                except PacsTasksError as error:
                    assert str(answerer.remote) in error.message  # noqa: PT017 - it is one of two ends
                else:
                    call.check(outcome, said)
                    outcomes += 1
                kept = {dicom_files.data_set(path) for path in got.rglob("*.dcm")}
                assert kept <= {each.data_set for each in said}, "it kept what did not come"
                assert not list(got.glob(".*")), "a partial file stayed"
                if kept:
                    shutil.rmtree(got)
            before = fuzzing.resident("self") if number == fuzzing.WARM else before
    growth = fuzzing.resident("self") - before
    assert threading.active_count() == threads
    assert growth < fuzzing.GROWTH
    # Some conversations are intact, and some damage does not matter.
    assert outcomes > fuzzing.CASES // 20
    record_property("cases per second", round(fuzzing.CASES / (time.monotonic() - begun)))
    record_property("growth", f"{growth / (1 << 20):.1f} MiB; seed {fuzzing.SEED!r}; {outcomes} outcomes")
