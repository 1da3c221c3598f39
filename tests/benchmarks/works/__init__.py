"""The rows of the table, in its order."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.measuring import Work
from tests.benchmarks.works import growth, receiving, retrieving, sending, slow_line, start

WORKS: Final[tuple[Work, ...]] = (
    *sending.WORKS,
    *receiving.WORKS,
    *retrieving.WORKS,
    slow_line.WORK,
    *growth.WORKS,
    start.WORK,
)
