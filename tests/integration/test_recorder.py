"""Outcomes on their way to the ledger, on a real Redis: each gets there once, whatever happens to the connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pacs_tasks.broker import connect
from pacs_tasks.ledger import Ledger
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.recorder import Recorder
from pacs_tasks.request import StoreDirectoryRequest

TOTAL = 100
REQUEST = StoreDirectoryRequest(directory="/data")


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    client = connect(redis_url, 5, patience=5)
    found = Ledger(client, keep_jobs=60)
    found.open("job", REQUEST.task, REQUEST)
    found.start("job", "worker")
    found.plan("job", ([f"/data/{index}", 10] for index in range(TOTAL)), "worker")
    yield found
    client.close()


def sent(index: int) -> InstanceOutcome:
    return InstanceOutcome(subject=f"/data/{index}", category=InstanceCategory.SUCCESS, size=1)


def kill_connections(ledger: Ledger) -> None:
    """End every connection to this Redis but the one that says so."""
    ledger.client.client_kill_filter(_type="normal", skipme=True)


def test_the_last_outcome_ends_the_job(ledger: Ledger) -> None:
    """Whoever recorded it is told, once the replies are read."""
    with Recorder(ledger, "job") as recorder:
        told = [recorder.record(index, sent(index)) for index in range(TOTAL)]
        told.append(recorder.flush())
    assert [each.ended for each in told].count(True) == 1
    assert ledger.progress("job").counters.success == TOTAL


@pytest.mark.parametrize("moment", [0, 1, 50, TOTAL - 1])
def test_a_connection_that_is_lost_loses_no_outcome(ledger: Ledger, moment: int) -> None:
    """What had no reply is recorded again, and counts once."""
    with Recorder(ledger, "job") as recorder:
        for index in range(TOTAL):
            recorder.record(index, sent(index))
            if index == moment:
                kill_connections(ledger)
        recorder.flush()
    progress = ledger.progress("job")
    assert (progress.counters.success, progress.counters.bytes) == (TOTAL, TOTAL)
    assert len(list(ledger.outcomes("job"))) == TOTAL


def test_a_redis_that_forgot_its_scripts_is_told_them_again(ledger: Ledger) -> None:
    """As after a restart."""
    ledger.client.script_flush()
    with Recorder(ledger, "job") as recorder:
        for index in range(TOTAL):
            recorder.record(index, sent(index))
        recorder.flush()
    assert ledger.progress("job").counters.success == TOTAL


def test_a_cancel_is_told_while_others_are_recorded(ledger: Ledger) -> None:
    """A few outcomes later at the latest."""
    ledger.claims.take("job", "0-100", "worker")
    ledger.cancel("job")
    with Recorder(ledger, "job") as recorder:
        told = [recorder.record(index, sent(index)) for index in range(50)]
        assert any(each.cancelled for each in told)


def test_replies_that_nobody_read_are_nobody_elses(ledger: Ledger) -> None:
    """A part that ends early leaves a connection that the next one may have."""
    with Recorder(ledger, "job") as recorder:
        for index in range(20):
            recorder.record(index, sent(index))
    with Recorder(ledger, "job") as recorder:
        assert recorder.record(20, sent(20)).new is False, "its reply is not read yet"
        assert recorder.flush() == (True, False, False)
