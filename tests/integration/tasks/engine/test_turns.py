"""Jobs take turns in a queue."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pacs_tasks.ledger.claims import let_others
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import RUNNING
from pacs_tasks.operations import FIND_QUEUE, MESSAGE_PRIORITIES, STORE_QUEUE, queue_key
from pacs_tasks.request import EchoRequest


@pytest.mark.parametrize("order", ["AAAABBBBCCCC", "ABABABABCCCC", "CABACBACBABC"])
def test_each_job_has_its_turn_in_each_round(ledger: Ledger, order: str) -> None:
    """However their messages came; the order within a job stays."""
    client, count = ledger.client, Counter[str]()
    for job in order:
        client.lpush(STORE_QUEUE, json.dumps({"headers": {"root_id": job, "number": count[job]}}))
        client.zadd(RUNNING, {job: 1})
        count[job] += 1
    taken = []
    for _ in order:
        headers = json.loads(str(client.rpop(STORE_QUEUE)))["headers"]
        taken.append((headers["root_id"], headers["number"]))
        assert let_others(client, STORE_QUEUE, headers["root_id"])
    for number in range(4):
        assert {job for job, _ in taken[3 * number : 3 * number + 3]} == {"A", "B", "C"}
    for job in "ABC":
        assert [number for each, number in taken if each == job] == [0, 1, 2, 3]


def test_a_job_alone_is_left_as_it_is(ledger: Ledger) -> None:
    """It runs from its start to its end, however it ends."""
    for job, task in (("one", "pacs_tasks.echo"), ("two", "pacs_tasks.echo")):
        assert not let_others(ledger.client, STORE_QUEUE, job)
        ledger.open(job, task, EchoRequest())
        ledger.start(job, "worker")
    assert let_others(ledger.client, STORE_QUEUE, "one")
    ledger.cancel("one")
    assert not let_others(ledger.client, STORE_QUEUE, "two")
    ledger.client.zadd(RUNNING, {"expired": 1})
    assert ledger.standstills.unfinished_jobs() == ["two"]
    assert not let_others(ledger.client, STORE_QUEUE, "two")


@pytest.mark.parametrize("mine", MESSAGE_PRIORITIES)
@pytest.mark.parametrize("theirs", MESSAGE_PRIORITIES)
def test_a_part_ends_its_turn_for_whoever_comes_before_it(ledger: Ledger, mine: int, theirs: int) -> None:
    """A message of a higher priority does, and any other while another job runs; a message without one has 0."""
    assert not ledger.standstills.others_wait(mine)
    ledger.client.lpush(queue_key(FIND_QUEUE, theirs), "message")
    assert ledger.standstills.others_wait(mine) == (theirs < mine)
    ledger.client.zadd(RUNNING, {"one": 1, "two": 1})
    assert ledger.standstills.others_wait(mine)
