"""Ten thousand inputs gone wrong, the same in each run; ``make fuzz`` plays a million others."""

from __future__ import annotations

import pytest

from tests.fuzz.target import Target, run
from tests.fuzz.targets import TARGETS, share

_CASES = 10_000


@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_that_no_input_breaks_its_reader(target: Target) -> None:
    """It raises what it documents, in time, and leaves neither memory nor a descriptor nor a thread."""
    run(target, "20000", share(target, _CASES))
