"""Final responses that announce a data set (PS3.7 section 9.3), which comes or not: the answer counts at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.commitment import PUSH_MODEL_CONTEXT, request_commitment
from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.dimse.retrieve.c_get import get
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.outcome import Category
from pacs_tasks.request import FindRequest, GetRequest, MoveRequest, QueryModel
from tests.support import messages, scripted
from tests.support.dicom_files import instance, write
from tests.support.queries import find

LOCAL = LocalAE(ae_title="CALLER")
#: Longer than this test may take.
PATIENT = Timeouts.of(30)
MATCH = b"\x08\0\x20\0DA\x08\x0020240115" + b"\x10\0\x20\0LO\x02\0P1"
LIST = messages.element(0x0008, 0x0058, b"1.2.3\0")
#: What follows a final response that announces a data set.
NOTHING, EMPTY, DATA = None, b"", LIST
Ask = Callable[[RemoteAE, Path], Category]


def _answering(request: int, pending: Sequence[bytes | None], after: bytes | None, requests: int) -> scripted.Script:
    """Answer each request with these pending data sets, and a final status that announces a data set."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        for message_id in range(1, requests + 1):
            context_id, _ = scripted.read_message(sock)
            for each in pending:
                answer = messages.response(request, 0xFF00, message_id, True, FAILED=0)
                sock.sendall(messages.message(answer, each, context_id))
            final = messages.response(request, 0x0000, message_id, True, COMPLETED=1, FAILED=0)
            sock.sendall(messages.message(final, after, context_id))
        scripted.let_go(sock)

    return script


def _find(remote: RemoteAE, _: Path) -> Category:
    outcome = find(FindRequest(remote=remote), LOCAL, PATIENT)
    assert [match["00100020"]["Value"] for match in outcome.matches] == [["P1"]]
    return outcome.category


def _worklist(remote: RemoteAE, _: Path) -> Category:
    outcome = find(FindRequest(remote=remote, query_model=QueryModel.WORKLIST), LOCAL, PATIENT)
    assert len(outcome.matches) == 1
    return outcome.category


def _move(remote: RemoteAE, _: Path) -> Category:
    return move(MoveRequest(remote=remote, study_uid="1.2.3", move_aet="HERE"), LOCAL, PATIENT).category


def _get(remote: RemoteAE, directory: Path) -> Category:
    return get(GetRequest(remote=remote, study_uid="1.2.3", output_dir=str(directory)), LOCAL, PATIENT).category


def _echo(remote: RemoteAE, _: Path) -> Category:
    return echo(LOCAL, remote, PATIENT).category


def _store(remote: RemoteAE, directory: Path) -> Category:
    """Two instances, so that a response follows the data set that does not belong there."""
    paths = [write(instance(number), directory / f"{number}.dcm") for number in (1, 2)]
    [(proposed, batch)] = contexts_for([read_instance(str(path)) for path in paths])
    with Association.open(LOCAL, remote, proposed, PATIENT) as assoc:
        return Category(*{outcome.category.value for _, outcome in store_all(assoc, batch)})


def _commit(remote: RemoteAE, _: Path) -> Category:
    with Association.open(LOCAL, remote, [PUSH_MODEL_CONTEXT], PATIENT) as assoc:
        for uid in ("1.2.3", "1.2.4"):
            status = request_commitment(assoc, uid, [("1.2", "1.2.3")], lambda _: True)
    return Category(status.category.value)


@pytest.mark.parametrize("after", [NOTHING, EMPTY, DATA], ids=["nothing", "empty", "data"])
@pytest.mark.parametrize(
    ("request_field", "pending", "ask", "requests"),
    [
        (command.C_FIND_RQ, [MATCH], _find, 1),
        (command.C_FIND_RQ, [MATCH], _worklist, 1),
        (command.C_MOVE_RQ, [b"", None], _move, 1),
        (command.C_GET_RQ, [b"", None], _get, 1),
        (command.C_ECHO_RQ, [], _echo, 1),
        (command.C_STORE_RQ, [], _store, 2),
        (command.N_ACTION_RQ, [], _commit, 2),
    ],
    ids=["find", "worklist", "move", "get", "echo", "store", "commit"],
)
def test_a_final_status_is_the_answer(
    request_field: int,
    pending: list[bytes | None],
    ask: Ask,
    requests: int,
    after: bytes | None,
    tmp_path: Path,
) -> None:
    """No data set is awaited on which nothing depends, and one that comes harms no later message."""
    with scripted.peer(_answering(request_field, pending, after, requests)) as remote:
        begun = time.monotonic()
        assert ask(remote, tmp_path) is Category.SUCCESS
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(("after", "listed"), [(NOTHING, ()), (DATA, ("1.2.3",))], ids=["nothing", "data"])
def test_a_list_of_failed_instances_is_awaited_for_a_moment(after: bytes | None, listed: tuple[str, ...]) -> None:
    """If instances have failed, their list may follow; without it the counts remain."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        final = messages.response(command.C_MOVE_RQ, 0xB000, 1, True, COMPLETED=1, FAILED=1)
        sock.sendall(messages.message(final, None, context_id))
        if after is not None:
            sock.sendall(messages.p_data(messages.pdv(messages.DATA | messages.LAST, after, context_id)))
        scripted.wait_for_end(sock)

    with scripted.peer(script) as remote:
        outcome = move(MoveRequest(remote=remote, study_uid="1.2.3", move_aet="HERE"), LOCAL, PATIENT)
    assert (outcome.status.code, outcome.suboperations.failed) == (0xB000, 1)
    assert outcome.failed_sop_instance_uids == listed
