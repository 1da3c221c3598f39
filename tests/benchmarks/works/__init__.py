"""The rows of the table, in its order."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.measuring import Work
from tests.benchmarks.works import (
    growth,
    http_api,
    interactive,
    pace,
    priorities,
    receiving,
    retrieving,
    scaling,
    sending,
    shares,
    slow_line,
    start,
    tuning,
)

WORKS: Final[tuple[Work, ...]] = (
    *sending.WORKS,
    *receiving.WORKS,
    *retrieving.WORKS,
    *slow_line.WORKS,
    scaling.WORK,
    tuning.WORK,
    interactive.WORK,
    priorities.WORK,
    shares.WORK,
    pace.WORK,
    http_api.WORK,
    *growth.WORKS,
    start.WORK,
)
