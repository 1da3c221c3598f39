"""The cases, in the order of the table."""

from __future__ import annotations

from typing import Final

from tests.chaos.cases.broker import CASES as BROKER
from tests.chaos.cases.case import Case
from tests.chaos.cases.workers import CASES as WORKERS

CASES: Final[tuple[Case, ...]] = (*WORKERS, *BROKER)
