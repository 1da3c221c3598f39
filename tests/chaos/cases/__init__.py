"""The cases, in the order of the table."""

from __future__ import annotations

from typing import Final

from tests.chaos.cases.broken_line import CASES as BROKEN_LINE
from tests.chaos.cases.broker import CASES as BROKER
from tests.chaos.cases.case import Case
from tests.chaos.cases.jobs import CASES as JOBS
from tests.chaos.cases.peer import CASES as PEER
from tests.chaos.cases.receiving import CASES as RECEIVING
from tests.chaos.cases.scheduling import CASES as SCHEDULING
from tests.chaos.cases.workers import CASES as WORKERS

CASES: Final[tuple[Case, ...]] = (*WORKERS, *BROKER, *PEER, *BROKEN_LINE, *JOBS, *RECEIVING, *SCHEDULING)
