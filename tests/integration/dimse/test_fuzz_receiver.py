"""Thousands of misbehaving callers for our receiver.

Each association ends in time and without a fault, only complete instances are stored, and the process keeps
no memory, threads, descriptors or partial files. See :mod:`tests.support.fuzzing` for longer runs.
"""

from __future__ import annotations

import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.dimse.upper_layer.association import Timeouts
from tests.support import dicom_files, fuzzing, messages, mutation, peculiar, scripted
from tests.support.messages import COMMAND, CT, DATA, EXPLICIT, IMPLICIT, LAST
from tests.support.processes import ROOT, Process, environment, started
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")


def _calls() -> list[list[bytes]]:
    """Give the PDUs of valid callers."""
    small = [each for some in dicom_files.rounds() for each in some if each.size < 8_000]
    by_syntax = {each.transfer_syntax_uid: each for each in small if dicom_files.names_itself(each)}
    pairs = [(each.sop_class_uid, each.transfer_syntax_uid) for each in by_syntax.values()]
    of_every_syntax = [messages.association_request(16_384, *pairs)]
    for number, each in enumerate(by_syntax.values()):
        request = messages.store_request(each.sop_instance_uid, number + 1, each.sop_class_uid)
        of_every_syntax += fuzzing.fragmented(request, dicom_files.as_sent(each) or b"", 2 * number + 1, 3_000)
    data_set = peculiar.data_set(b"1.2.3\0", peculiar.element(0x7FE0_0010, b"OW", bytes(300)))
    store = fuzzing.fragmented(messages.store_request("1.2.3"), data_set, 1, 100)
    in_one = messages.p_data(
        messages.pdv(COMMAND | LAST, messages.store_request("1.2.3")), messages.pdv(DATA | LAST, data_set)
    )
    elements: dict[int, int | str] = {command.COMMAND_FIELD: command.C_ECHO_RQ, command.MESSAGE_ID: 3}
    find_request = {**elements, command.COMMAND_FIELD: command.C_FIND_RQ}
    cancel: dict[int, int | str] = {command.COMMAND_FIELD: command.C_CANCEL_RQ, command.MESSAGE_ID_RESPONDED_TO: 3}
    others = [
        messages.message(command.encode(elements, data_set=False)),
        messages.message(command.encode(find_request, data_set=True), b"\x08\0\x52\0\x06\0\0\0STUDY "),
        messages.message(command.encode(cancel, data_set=False)),
    ]
    return [
        [messages.association_request(), *store, *store, messages.RELEASE],
        [messages.association_request(), in_one, in_one, messages.RELEASE],
        [*of_every_syntax, messages.RELEASE],
        [_request_with_roles(), *others, *others, messages.RELEASE],
        [
            messages.association_request(16_384, (StorageCommitmentPushModel, IMPLICIT)),
            fuzzing.report(1),
            fuzzing.report(2),
            messages.RELEASE,
        ],
    ]


def _request_with_roles() -> bytes:
    proposed = tuple(acse.ProposedContext(2 * n + 1, CT, (EXPLICIT, IMPLICIT)) for n in range(5))
    roles = {CT: (True, True), StorageCommitmentPushModel: (False, True)}
    return acse.encode_request(acse.AssociateRequest("RECEIVER", "CALLER", proposed, 4_096, roles, (5, 5)))


@dataclass
class _Silent:
    """A caller that falls silent without hanging up, so that the receiver must."""

    sock: socket.socket
    whole: list[bytes]


class _Receiver:
    """The process of the receiver, its files and its resources."""

    def __init__(self, process: Process, directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.silent: list[_Silent] = []
        found = re.search(r"^port (\d+)$", process.said(), re.MULTILINE)
        assert found is not None
        self.port = int(found[1])

    def __enter__(self) -> _Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.silent:
            each.sock.close()

    def call(self, stream: Sequence[bytes], silent: bool) -> None:
        """Play one case and check the result."""
        whole = [each for each in messages.messages(b"".join(stream)) if each.data_set is not None]
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=fuzzing.IN_TIME)
        with suppress(ConnectionError):
            # The receiver may hang up before it has read everything.
            for piece in stream:
                sock.sendall(piece)
        if silent:
            self.silent.append(_Silent(sock, [each.data_set or b"" for each in whole]))
            return
        answered = b""
        with sock, suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65_536):
                answered += part
        self.check_files([each.data_set or b"" for each in whole], answered)

    def check_files(self, whole: list[bytes], answered: bytes) -> None:
        """Check that only complete instances are stored, and all that were acknowledged."""
        allowed = {each for some in (whole, *(silent.whole for silent in self.silent)) for each in some}
        kept = {path.stem: dicom_files.data_set(path) for path in self.directory.rglob("*.dcm")}
        assert allowed.issuperset(kept.values()), f"it stored what did not come: {kept.keys()}"
        told = {
            each.uid(command.AFFECTED_SOP_INSTANCE_UID)
            for each in messages.messages(answered)
            if each.number(command.COMMAND_FIELD) == command.C_STORE_RQ | command.RESPONSE
            and each.number(command.STATUS) == 0
        }
        assert told <= kept.keys(), f"it called stored what it does not hold: {told - kept.keys()}"
        if kept:
            for path in self.directory.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    def hang_up(self) -> None:
        """Wait until the receiver ends all silent associations."""
        for each in self.silent:
            with each.sock, suppress(ConnectionError):
                scripted.wait_for_end(each.sock)
        self.check_files([], b"")
        self.silent.clear()

    def count(self, name: str) -> int:
        """Count the ``task`` or ``fd`` entries of its process."""
        return len(list(Path(f"/proc/{self.process.pid}/{name}").iterdir()))


@pytest.mark.timeout(fuzzing.LIMIT)
def test_the_receiver_outlives_every_caller(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Each association ends, only complete instances are stored, and the process does not grow."""
    calls = _calls()
    directory = tmp_path / "received"
    program = [sys.executable, "-W", "error", "-m", "tests.support.receiver_process", str(directory), "1"]
    log = tmp_path / "receiver.log"
    begun = time.monotonic()
    with (
        started(program, log, lambda process: "port" in process.said(), env=environment(), cwd=ROOT) as process,
        _Receiver(process, directory) as receiver,
    ):
        counted = Path("/proc/self/fd").exists()
        threads, descriptors = (receiver.count("task"), receiver.count("fd")) if counted else (0, 0)
        before = 0
        for number in fuzzing.NUMBERS:
            chance = fuzzing.chance("receiver", number)
            stream = mutation.mutated(chance, chance.choice(calls))
            with fuzzing.case("receiver", number, stream, tmp_path):
                receiver.call(mutation.pieces(chance, stream), silent=number % 40 == 0)
                if len(receiver.silent) == 20:
                    receiver.hang_up()
                assert process.running(), "it has ended"
            before = fuzzing.resident(process.pid) if number == fuzzing.WARM else before
        receiver.hang_up()
        assert echo(LOCAL, RemoteAE(port=receiver.port), Timeouts.of(5)).seconds < 5
        if counted:
            # The associations that were to end.
            wait_until(lambda: receiver.count("task") == threads, fuzzing.IN_TIME, "its threads to end")
            wait_until(lambda: receiver.count("fd") == descriptors, fuzzing.IN_TIME, "its descriptors to be closed")
        growth = fuzzing.resident(process.pid) - before
        assert not list(directory.glob(".*")), "a partial file stayed"
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["received"]
    assert process.popen.returncode == 0
    said = log.read_text()
    assert not re.search(r"Traceback|fault of the receiver|Warning: |Exception", said), said[-3000:]
    assert growth < fuzzing.GROWTH
    record_property("cases per second", round(fuzzing.CASES / (time.monotonic() - begun)))
    record_property("growth", f"{growth / (1 << 20):.1f} MiB; seed {fuzzing.SEED!r}")
