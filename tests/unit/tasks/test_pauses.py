"""The pause of a task before its next try."""

from __future__ import annotations

import pytest

from pacs_tasks.tasks.engine.base import pause, pause_without_key


@pytest.mark.parametrize(("tries", "longest"), [(0, 1), (1, 2), (3, 8), (5, 30), (10_000, 30)])
def test_pauses_grow_to_half_a_minute_and_differ(tries: int, longest: float) -> None:
    """Tasks that failed together must not all come back together."""
    pauses = {pause(tries) for _ in range(200)}
    assert len(pauses) > 100
    assert longest / 2 <= min(pauses) < max(pauses) <= longest


@pytest.mark.parametrize(("tries", "longest"), [(0, 5), (5, 5), (20, 20), (10_000, 60)])
def test_a_task_whose_key_nobody_has_comes_ever_more_seldom(tries: int, longest: float) -> None:
    """A worker with the key may start at any moment."""
    pauses = {pause_without_key(tries) for _ in range(200)}
    assert longest / 2 <= min(pauses) < max(pauses) <= longest
