"""When a part calls helpers, by what this process has seen of a remote, and how they share its files."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.request import StoreDirectoryRequest
from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.file_queue import Answers, FileQueue

CT, MAMMOGRAM = 500_000, 50_000_000
FILES = 5_000


def seen(*seconds: float, size: int = CT) -> Answers:
    answers = Answers()
    for each in seconds:
        answers.note(each, size)
    return answers


def test_a_far_remote_is_worth_others_at_once() -> None:
    assert Answers().allow_another(0.1)
    assert not Answers().allow_another(0.001)


def test_a_near_one_is_once_it_has_been_slow_a_few_times() -> None:
    """One slow answer may be the first file, or a moment at which this machine was busy."""
    assert not seen(0.05, 0.05).allow_another(0.001)
    assert seen(*[0.05] * 5).allow_another(0.001)
    assert not seen(0.05, 0.05, 0.002, 0.05, 0.05, 0.05).allow_another(0.001)


def test_nobody_helps_while_answers_take_longer_than_they_might() -> None:
    far = 0.05
    busy = seen(*[far] * 10, *[1.5 * far] * 10)
    assert not busy.allow_another(far)
    for _ in range(20):
        busy.note(far, CT)
    assert busy.allow_another(far)


def test_a_line_that_has_become_longer_is_not_busy_for_ever() -> None:
    answers = seen(*[0.05] * 10, *[0.1] * 10)
    assert not answers.allow_another(0.1)
    for _ in range(300):
        answers.note(0.1, CT)
    assert answers.allow_another(0.1)


def test_large_files_may_take_longer() -> None:
    answers = seen(*[0.1] * 5)
    for _ in range(5):
        answers.note(2.0, MAMMOGRAM)
        answers.note(0.1, CT)
    assert answers.allow_another(0.1)


def test_a_file_that_is_refused_at_once_says_nothing_of_the_speed() -> None:
    answers = seen(*[0.06] * 10)
    answers.note(0.001, None)
    answers.note(-5.0, CT)
    assert answers.allow_another(0.001)


def test_each_file_is_taken_once() -> None:
    """By the queue's own thread, which puts some aside, or by a helper, however their steps interleave."""
    part: Any = SimpleNamespace(job_id="job")
    request = StoreDirectoryRequest(remote=RemoteAE(host="127.0.0.1", port=104, ae_title="PACS"), directory="/files")
    instance: Any = object()
    queue = FileQueue(part, request, [], dict.fromkeys(range(FILES), instance))
    queue.offer_all()

    def help_out() -> list[int]:
        return [found[0] for found in iter(queue.give, None)]

    before, own = sys.getswitchinterval(), []
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            helpers = [pool.submit(help_out) for _ in range(3)]
            while (found := queue.next_file()) is not None:
                own.append(queue.pop(found[0]))
    finally:
        sys.setswitchinterval(before)
    given = [index for each in helpers for index in each.result()]
    assert sorted(own + given) == list(range(FILES))
    assert not queue.queue


@pytest.mark.parametrize("most", [1, 4])
def test_a_process_has_so_many_threads_at_work(most: int) -> None:
    """The part itself is one of them."""
    begun = [background.begin_help(most) for _ in range(most)]
    assert begun == [True] * (most - 1) + [False]
    for _ in range(most - 1):
        background.end_help()
