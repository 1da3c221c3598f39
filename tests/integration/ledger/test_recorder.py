"""The recorder on a real Redis: each outcome arrives once, whatever happens to the connection."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pacs_tasks.connection import connect
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.ledger.recorder import Recorder
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import StoreDirectoryRequest
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

TOTAL = 100
REQUEST = StoreDirectoryRequest(directory="/data")


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    with ExitStack() as stack:
        yield opened(stack, redis_url, patience=5)


def opened(stack: ExitStack, redis_url: str, patience: int) -> Ledger:
    """A ledger with a running job."""
    client = connect(redis_url, 5, patience)
    stack.callback(client.close)
    found = Ledger(client, keep_jobs=60)
    found.open("job", REQUEST.task, REQUEST)
    found.start("job", "worker")
    found.manifest.plan("job", (FileLine(f"/data/{index}", 10) for index in range(TOTAL)), "worker")
    return found


def sent(index: int) -> InstanceOutcome:
    return InstanceOutcome(subject=f"/data/{index}", category=InstanceCategory.SUCCESS, size=1)


def kill_connections(ledger: Ledger) -> None:
    """Close every connection to this Redis but our own."""
    ledger.client.client_kill_filter(_type="normal", skipme=True)


def test_a_redis_that_has_just_started_receives_each_outcome_at_once(ledger: Ledger) -> None:
    """It does not know the script yet; a worker that is killed then must not lose the outcome."""
    ledger.client.script_flush()
    with Recorder(ledger, "job") as recorder:
        recorder.record(0, sent(0))
        wait_until(lambda: ledger.recorded("job", 0, TOTAL) == {0}, 5, "the outcome")
        recorder.flush()


def test_the_last_outcome_ends_the_job(ledger: Ledger) -> None:
    """The replies report that, once they are read."""
    with Recorder(ledger, "job") as recorder:
        told = [recorder.record(index, sent(index)) for index in range(TOTAL)]
        told.append(recorder.flush())
    assert [each.ended for each in told].count(True) == 1
    assert ledger.progress("job").counters.success == TOTAL


@pytest.mark.parametrize("moment", [0, 1, 50, TOTAL - 1])
def test_a_connection_that_is_lost_loses_no_outcome(ledger: Ledger, moment: int) -> None:
    """An outcome without a reply is recorded again, and counts once."""
    with Recorder(ledger, "job") as recorder:
        for index in range(TOTAL):
            recorder.record(index, sent(index))
            if index == moment:
                kill_connections(ledger)
        recorder.flush()
    progress = ledger.progress("job")
    assert (progress.counters.success, progress.counters.bytes) == (TOTAL, TOTAL)
    assert Instances(ledger, "job").receipt_count() == TOTAL


def test_a_redis_that_forgot_its_scripts_receives_them_again(ledger: Ledger) -> None:
    """As after a restart."""
    ledger.client.script_flush()
    with Recorder(ledger, "job") as recorder:
        for index in range(TOTAL):
            recorder.record(index, sent(index))
        recorder.flush()
    assert ledger.progress("job").counters.success == TOTAL


def test_a_cancel_is_reported_while_outcomes_are_recorded(ledger: Ledger) -> None:
    """A few outcomes later at the latest."""
    ledger.claims.claim("job", "0-100", "worker")
    ledger.cancel("job")
    with Recorder(ledger, "job") as recorder:
        told = [recorder.record(index, sent(index)) for index in range(50)]
        assert any(each.cancelled for each in told)


def test_unread_replies_reach_nobody_else(ledger: Ledger) -> None:
    """A part that ends early returns its connection to the pool."""
    with Recorder(ledger, "job") as recorder:
        for index in range(20):
            recorder.record(index, sent(index))
    with Recorder(ledger, "job") as recorder:
        assert recorder.record(20, sent(20)).new is False, "its reply is not read yet"
        assert recorder.flush() == (True, False, False)


class _TerminatedError(BaseException):
    """Raised in a worker process that receives the signal to end."""


def test_a_process_that_ends_while_redis_is_unavailable_still_records(tmp_path: Path) -> None:
    """The signal interrupts it as it records again; its last outcome arrives once Redis is back."""

    def end(*_: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGUSR1, end)
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGUSR1, before)
        server = stack.enter_context(redis_server(tmp_path, free_port(), durable=True))
        ledger = opened(stack, server.url(), patience=100)
        recorder = stack.enter_context(Recorder(ledger, "job"))
        for index in range(TOTAL - 1):
            recorder.record(index, sent(index))
        recorder.flush()
        os.kill(server.process.pid, signal.SIGSTOP)
        recorder.record(TOTAL - 1, sent(TOTAL - 1))
        server.process.kill()
        interrupter = threading.Thread(target=_interrupt, args=(recorder,))
        interrupter.start()
        with pytest.raises(_TerminatedError):
            recorder.flush()
        interrupter.join(10)
        stack.enter_context(redis_server(tmp_path, server.port, durable=True))
        assert recorder.flush().ended
        assert ledger.progress("job").counters.success == Instances(ledger, "job").receipt_count() == TOTAL


def _interrupt(recorder: Recorder) -> None:
    wait_until(lambda: recorder._lost, 10, "the recorder to record again")
    os.kill(os.getpid(), signal.SIGUSR1)
