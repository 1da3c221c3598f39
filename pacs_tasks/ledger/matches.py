"""The matches of a batch query, row by row: patient data, which is kept here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.ledger.manifest import RowLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.ledger.scripts import Scripts
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.request import FindBatchRequest

#: DICOM JSON objects (PS3.18 annex F).
MatchList = tuple[dict[str, Any], ...]
#: Rows whose matches are read together; each may have many.
_CHUNK = 50


class RowAnswer(NamedTuple):
    """The answer to a row, by its number in the request.

    ``matches`` are DICOM JSON objects. A row without an outcome has not been queried.
    """

    row: int
    outcome: InstanceOutcome | None
    matches: MatchList


def record_matches(ledger: Ledger, job_id: str, index: int, matches: MatchList) -> None:
    """Keep the matches of a row, before its outcome is recorded; later ones replace them."""
    text = json.dumps(matches, separators=(",", ":"), ensure_ascii=False)
    keys = [job_key(job_id), job_key(job_id, "matches")]
    Scripts(ledger.client).run("record_matches", keys, [index, text, ledger.keep])


def read_matches(ledger: Ledger, job_id: str, indices: Sequence[int]) -> list[MatchList]:
    """Read the matches of some rows; none for a row without an answer."""
    if not indices:
        return []
    fields = [str(index) for index in indices]
    texts = cast("list[str | None]", ledger.client.hmget(job_key(job_id, "matches"), fields))
    return [tuple(json.loads(text)) if text else () for text in texts]


def rows_of(ledger: Ledger, job_id: str) -> Iterator[RowAnswer]:
    """Read every row of a job, in the order of its request.

    Raises
    ------
    JobNotFoundError
        If there is no such job.
    InvalidRequestError
        If it is not a batch query.
    """
    if ledger.progress(job_id).task != FindBatchRequest.task:
        raise InvalidRequestError(f"Job {job_id} is not a batch query. Name a job of query --batch.")
    return _rows(ledger, job_id)


def _rows(ledger: Ledger, job_id: str) -> Iterator[RowAnswer]:
    lines = Instances(ledger, job_id).in_order()
    while chunk := list(islice(lines, _CHUNK)):
        answered = [each.number for each in chunk if each.outcome is not None]
        found = dict(zip(answered, read_matches(ledger, job_id, answered), strict=True))
        for each in chunk:
            yield RowAnswer(cast(RowLine, each.line).number, each.outcome, found.get(each.number, ()))
