"""A target, and what it must not do: raise what is not allowed, take long, or leave anything behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.fuzzing import resident

#: Seconds for one case, on a busy machine too.
LONGEST: Final = 10.0
#: Bytes that the process may grow by after the first tenth of the cases, whatever their number.
GROWTH: Final = 32 << 20
#: Cases of which Hypothesis keeps a record, so as not to repeat one; then it begins anew.
_REMEMBERED: Final = 500

#: Plays so many cases of a seed.
Play = Callable[[str, int], None]


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes
    ----------
    weight
        Its share of all cases: what is quick gets more.
    """

    name: str
    weight: int
    play: Play


def made(strategy: st.SearchStrategy[object], check: Callable[[object], None]) -> Play:
    """Let Hypothesis make each case."""

    def play(chosen: str, cases: int) -> None:
        for begin in range(0, cases, _REMEMBERED):

            @seed(f"{chosen}/{begin}")
            @settings(
                max_examples=min(_REMEMBERED, cases - begin),
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def attempt(case: object) -> None:
                _in_time(lambda: check(case))

            attempt()

    return play


def changed(name: str, check: Callable[[Random], None]) -> Play:
    """Let a random generator, made of the seed and the number of the case, make each case."""

    def play(chosen: str, cases: int) -> None:
        for number in range(cases):
            chance = Random(f"{chosen}/{name}/{number}")
            try:
                _in_time(lambda: check(chance))  # noqa: B023 - it is called at once
            except Exception as error:
                error.add_note(f"case {number} of {name}, seed {chosen}")
                raise

    return play


def _in_time(check: Callable[[], None]) -> None:
    begun = time.monotonic()
    check()
    assert time.monotonic() - begun < LONGEST, "it took too long"


def run(target: Target, chosen: str, cases: int) -> None:
    """Play a target, and check that neither memory nor descriptors nor threads have grown.

    Raises
    ------
    Exception
        Whatever the target raised that it must not raise. It names the case.
    AssertionError
        If something was left behind.
    """
    warm = max(cases // 10, min(cases, _REMEMBERED))
    target.play(f"{chosen}/warm", warm)
    gc.collect()
    memory, descriptors, threads = resident(os.getpid()), _descriptors(), threading.active_count()
    target.play(chosen, cases - warm)
    gc.collect()
    grown = resident(os.getpid()) - memory
    assert grown < GROWTH, f"{target.name}: {grown >> 20} MiB more after {cases} cases, seed {chosen}"
    left = _descriptors() - descriptors
    assert left <= 0, f"{target.name}: {left} descriptors more after {cases} cases, seed {chosen}"
    assert threading.active_count() <= threads, f"{target.name}: {threading.enumerate()}, seed {chosen}"


def _descriptors() -> int:
    """The open descriptors of this process; 0 where the system does not say."""
    with suppress(OSError):
        return len(list(Path("/proc/self/fd").iterdir()))
    return 0
