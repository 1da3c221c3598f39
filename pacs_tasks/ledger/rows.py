"""What became of the rows of a query of many, read a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, cast

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import RowLine
from pacs_tasks.ledger.matches import MatchList
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.request import FindBatchRequest

#: Rows whose matches are read at once; each may have many.
_CHUNK = 50


class RowAnswer(NamedTuple):
    """A row, by its number in the request; without an outcome, it was not asked. ``matches`` are DICOM JSON objects."""

    row: int
    outcome: InstanceOutcome | None
    matches: MatchList


def rows_of(ledger: Ledger, job_id: str) -> Iterator[RowAnswer]:
    """Every row of a job, in the order of its request.

    Raises
    ------
    JobNotFoundError
        If there is no such job.
    InvalidRequestError
        If it asks no rows.
    """
    if ledger.progress(job_id).task != FindBatchRequest.task:
        raise InvalidRequestError(f"job {job_id} is no query of many rows; name a job of query --batch")
    return _rows(ledger, job_id)


def _rows(ledger: Ledger, job_id: str) -> Iterator[RowAnswer]:
    lines = Instances(ledger, job_id).in_order()
    while chunk := list(islice(lines, _CHUNK)):
        answered = [line.number for line in chunk if line.outcome is not None]
        found = dict(zip(answered, ledger.matches.of(job_id, answered), strict=True))
        for line in chunk:
            yield RowAnswer(cast(RowLine, line.line).number, line.outcome, found.get(line.number, ()))
