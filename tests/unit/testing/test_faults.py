"""Faults that are numbers: what a TestPACS makes of them."""

from __future__ import annotations

import pytest

from pacs_tasks.testing import Faults


@pytest.mark.parametrize(("open_now", "seconds"), [(0, 0.1), (4, 0.2), (8, 0.5), (16, 1.7)])
def test_that_an_overloaded_pacs_takes_longer_with_each_association(open_now: int, seconds: float) -> None:
    assert Faults(delay=0.1, overload=4).delay_with(open_now) == pytest.approx(seconds)


def test_that_the_delay_is_the_same_for_all_where_nothing_is_overloaded() -> None:
    assert Faults(delay=0.1).delay_with(16) == 0.1


def test_that_an_overloaded_pacs_is_fastest_with_so_many_associations() -> None:
    """Responses a second: as many as there are associations, over the delay of each."""
    faults = Faults(delay=0.1, overload=6)
    assert max(range(1, 33), key=lambda number: number / faults.delay_with(number)) == 6
