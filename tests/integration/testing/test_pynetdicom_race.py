"""A race in pynetdicom 3.0.4, which nothing here is exposed to.

Each association of pynetdicom has a thread that takes messages. A caller of ``send_c_store`` and its like pauses that
thread at a checkpoint first, by a flag that may be out of date; then the thread takes the answer, and the caller gets
none. What we build on pynetdicom, TestPACS and the callers of these tests, keeps the thread away.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.retrieve.c_move import move
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.outcome import Category
from pacs_tasks.request import MoveRequest
from pacs_tasks.testing import TestPACS
from pacs_tasks.testing.association import Caller
from tests.support import callers, dicom_files

RECEIVER = LocalAE(ae_title="RECEIVER")
NUMBER = 1_000


def test_no_answer_to_testpacs_is_lost(tmp_path: Path) -> None:
    """TestPACS reads each response itself: none of a thousand is lost, although the receiver responds at once."""
    files = dicom_files.write_series(tmp_path / "files", NUMBER, rows=2)
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as scp,
        TestPACS(instances=files, destinations={"RECEIVER": ("127.0.0.1", scp.port)}) as pacs,
    ):
        request = MoveRequest(remote=pacs.remote, move_aet="RECEIVER", study_uid=dicom_files.study_uid())
        outcome = move(request, LocalAE(ae_title="CALLER"), Timeouts.of(10))
        assert len(list(scp.directory.rglob("*.dcm"))) == NUMBER
    assert outcome.category is Category.SUCCESS
    assert (outcome.suboperations.completed, outcome.suboperations.failed) == (NUMBER, 0)


class _Late:
    """Makes the reactor thread pass its checkpoint just before the caller closes it, and read first."""

    def __init__(self) -> None:
        self._passed, self._answered, self._read = threading.Event(), threading.Event(), threading.Event()

    def install(self, event: Event) -> None:
        assoc = event.assoc
        wait, get_msg = assoc._reactor_checkpoint.wait, assoc.dimse.get_msg

        def late_wait() -> None:
            wait()
            self._passed.set()
            assert self._answered.wait(10)

        def late_get(block: bool = False) -> object:
            if block:
                # The caller is slow: the response has arrived already.
                assert self._read.wait(10)
            found = get_msg(block=block)
            self._read.set()
            return found

        vars(assoc._reactor_checkpoint)["wait"] = late_wait
        vars(assoc.dimse)["get_msg"] = late_get

    def answered(self, event: Event) -> None:
        # The thread that reads the socket calls this before the response is in the queue.
        queue = event.assoc.dimse.msg_queue
        put = queue.put

        def put_and_tell(item: Any) -> None:
            put(item)
            self._answered.set()

        vars(queue)["put"] = put_and_tell

    def wait(self) -> None:
        assert self._passed.wait(10)


@pytest.mark.parametrize("guarded", [True, False])
def test_callers_of_these_tests_read_their_answers(pacs: TestPACS, guarded: bool) -> None:
    """With the guard each response reaches its caller; without it, pynetdicom loses this one."""
    late = _Late()
    handlers: list[EventHandlerType] = [
        *(callers.GUARDED if guarded else []),
        (evt.EVT_ESTABLISHED, late.install),
        (evt.EVT_DIMSE_RECV, late.answered),
    ]
    ae = Caller("CALLER")
    ae.dimse_timeout = 1
    ae.add_requested_context(callers.VERIFICATION)
    assoc = ae.associate(pacs.host, pacs.port, evt_handlers=handlers)
    late.wait()
    answer = assoc.send_c_echo()
    assert answer.get("Status") == (0x0000 if guarded else None)
    if guarded:
        assoc.release()
    assert not assoc.is_established
    assoc.join(10)
