"""When a part calls helpers: by what this process has seen of a remote."""

from __future__ import annotations

import pytest

from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.file_queue import Answers

CT, MAMMOGRAM = 500_000, 50_000_000


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
    for _ in range(800):
        answers.note(0.1, CT)
    assert answers.allow_another(0.1)


def test_large_files_may_take_longer() -> None:
    answers = seen(*[0.1] * 5)
    for _ in range(5):
        answers.note(2.0, MAMMOGRAM)
        answers.note(0.1, CT)
    assert answers.allow_another(0.1)


@pytest.mark.parametrize("most", [1, 4])
def test_a_process_has_so_many_threads_at_work(most: int) -> None:
    """The part itself is one of them."""
    begun = [background.begin_help(most) for _ in range(most)]
    assert begun == [True] * (most - 1) + [False]
    for _ in range(most - 1):
        background.end_help()
