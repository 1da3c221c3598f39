"""The outcomes of a job, read piece by piece, and the matches of each row of a batch query.

100,000 outcomes need no more memory than 1,000. Matches are patient data, which is kept here and nowhere else.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import Scripts, decode_short, decode_whole, index_of, job_key
from pacs_tasks.outcome import FindOutcome, InstanceCategory, InstanceOutcome, Outcome
from pacs_tasks.request import FindBatchRequest

if TYPE_CHECKING:
    from pacs_tasks.ledger.manifest import Line, RowLine

_CHUNK = 1_000
#: The categories of instances at their destination. A success with a comment has no receipt.
TRANSFERRED = (InstanceCategory.SUCCESS, InstanceCategory.WARNING, InstanceCategory.PRESENT)
#: Receipts between two wanted ones that are read along rather than skipped.
_GAP = 8


class LineOutcome(NamedTuple):
    """Line ``number`` of the manifest, from 0, and its outcome. ``place`` is that of its receipt, if it has one."""

    number: int
    line: Line
    outcome: InstanceOutcome | None
    place: int | None


class Instances:
    """The instances of one job.

    A success has a *receipt*. Receipts stand in the order in which they were written, so the place of a receipt never
    changes. Any other outcome is found by its index in the manifest.
    """

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger, self._redis, self._job_id = ledger, ledger.client, job_id
        self._series = ledger.series(job_id)
        self._sealer = ledger.seals.of(job_id)

    def receipt_count(self) -> int:
        return self._redis.llen(job_key(self._job_id, "receipts"))

    def receipts(self, start: int, stop: int) -> list[tuple[int, InstanceOutcome]]:
        """Read index and outcome of the receipts from ``start`` up to, not including, ``stop``; without subjects."""
        texts = self._texts(start, stop)
        return [decode_short(text, self._series, self._sealer) for text in texts]

    def problems(self, indices: Sequence[int]) -> dict[int, InstanceOutcome]:
        """Read the outcomes without a receipt among these, by index."""
        if not indices:
            return {}
        fields = [str(index) for index in indices]
        texts = cast("list[str | None]", self._redis.hmget(job_key(self._job_id, "problems"), fields))
        found = zip(indices, texts, strict=True)
        return {
            index: decode_whole(text, index, self._series, self._sealer) for index, text in found if text is not None
        }

    def transferred(self) -> Iterator[tuple[int, InstanceOutcome]]:
        """Read index and outcome of each instance that was sent, received or already there, in no order."""
        for start in range(0, self.receipt_count(), _CHUNK):
            yield from self.receipts(start, start + _CHUNK)
        for index, outcome in self._ledger.problems(self._job_id):
            if outcome.category in TRANSFERRED:
                yield index, outcome

    def subjects(self, indices: Iterable[int]) -> dict[int, str]:
        """Read the subjects of these lines."""
        found: dict[int, str] = {}
        for chunk, members in groupby(sorted(indices), lambda index: index // _CHUNK):
            lines = self._ledger.manifest.lines(self._job_id, chunk * _CHUNK, (chunk + 1) * _CHUNK)
            found.update((index, lines[index % _CHUNK].subject) for index in members)
        return found

    def in_order(self, start: int = 0) -> Iterator[LineOutcome]:
        """Read every line of the manifest from the line ``start`` on."""
        from pacs_tasks.ledger.manifest import CountedLine

        places = self._places()
        while lines := self._ledger.manifest.lines(self._job_id, start, start + _CHUNK):
            indices = range(start, start + len(lines))
            found = self._receipts_at(places[index] for index in indices if places[index] >= 0)
            problems = self.problems([index for index in indices if places[index] < 0])
            for index, line in zip(indices, lines, strict=True):
                outcome = found.get(index, problems.get(index))
                if outcome is not None and not outcome.subject:
                    subject = outcome.sop_instance_uid if isinstance(line, CountedLine) else line.subject
                    outcome = outcome.model_copy(update={"subject": subject})
                yield LineOutcome(index, line, outcome, places[index] if index in found else None)
            start += len(lines)

    def _places(self) -> array[int]:
        """Map index to place, -1 without a receipt, in four bytes for each instance."""
        total = self._redis.llen(job_key(self._job_id, "manifest"))
        places: array[int] = array("l", [-1]) * total
        start = 0
        while texts := self._texts(start, start + _CHUNK):
            for place, text in enumerate(texts, start):
                places[index_of(text)] = place
            start += len(texts)
        return places

    def _receipts_at(self, places: Iterable[int]) -> dict[int, InstanceOutcome]:
        """Read the receipts at these places, by index; neighbours together."""
        found: dict[int, InstanceOutcome] = {}
        run: list[int] = []
        for place in sorted(places):
            if run and place > run[-1] + _GAP:
                found.update(self.receipts(run[0], run[-1] + 1))
                run = []
            run.append(place)
        if run:
            found.update(self.receipts(run[0], run[-1] + 1))
        return found

    def _texts(self, start: int, stop: int) -> list[str]:
        return cast("list[str]", self._redis.lrange(job_key(self._job_id, "receipts"), start, stop - 1))


#: DICOM JSON objects (PS3.18 annex F).
MatchList = tuple[dict[str, Any], ...]
#: Characters of a full piece of matches, at least.
_PIECE = 1 << 20
#: Rows whose matches are read together; each may have many.
_ROWS = 50


class RowAnswer(NamedTuple):
    """The answer to a row, by its number in the request.

    ``matches`` are DICOM JSON objects. A row without an outcome has not been queried.
    """

    row: int
    outcome: InstanceOutcome | None
    matches: MatchList


class MatchRecorder:
    """Writes the matches of a row to the ledger, a piece at a time, before the outcome of the row is recorded.

    A query without rows is row 0 of its job. Matches of an earlier try are replaced.
    """

    def __init__(self, ledger: Ledger, job_id: str, index: int) -> None:
        self._ledger, self._job_id, self._index = ledger, job_id, index
        self._texts: list[str] = []
        self._length = self._pieces = 0

    def append(self, match: Mapping[str, Any]) -> None:
        """Record one more match."""
        text = json.dumps(match, separators=(",", ":"), ensure_ascii=False)
        self._texts.append(text)
        # With its comma or bracket.
        self._length += len(text) + 1
        if self._length + 1 >= _PIECE:
            self._write()

    def clear(self) -> None:
        """Begin anew: what has been recorded is replaced."""
        self._texts, self._length, self._pieces = [], 0, 0

    def close(self) -> None:
        """Write the rest. A piece that is not full shows that it is the last one."""
        self._write()

    def _write(self) -> None:
        piece = _piece(self._index, self._pieces)
        text = self._ledger.seals.of(self._job_id).seal(f"[{','.join(self._texts)}]", f"matches {piece}")
        keys = [job_key(self._job_id), job_key(self._job_id, "matches")]
        Scripts(self._ledger.client).run("record_matches", keys, [piece, text, self._ledger.keep])
        self._texts, self._length, self._pieces = [], 0, self._pieces + 1


def _piece(index: int, number: int) -> str:
    """Name the field of a piece of a row's matches."""
    return f"{index}+{number}" if number else str(index)


def read_matches(ledger: Ledger, job_id: str, indices: Sequence[int]) -> list[MatchList]:
    """Read the matches of some rows; none for a row without an answer."""
    if not indices:
        return []
    found: list[MatchList] = []
    for index, first in zip(indices, _read_pieces(ledger, job_id, [str(index) for index in indices]), strict=True):
        matches, text, number = list(json.loads(first or "[]")), first, 1
        while text is not None and len(text) >= _PIECE:
            (text,) = _read_pieces(ledger, job_id, [_piece(index, number)])
            matches += json.loads(text or "[]")
            number += 1
        found.append(tuple(matches))
    return found


def _read_pieces(ledger: Ledger, job_id: str, pieces: list[str]) -> list[str | None]:
    texts = cast("list[str | None]", ledger.client.hmget(job_key(job_id, "matches"), pieces))
    sealer = ledger.seals.of(job_id)
    return [text and sealer.unseal(text, f"matches {piece}") for piece, text in zip(pieces, texts, strict=True)]


def whole_outcome(ledger: Ledger, job_id: str) -> Outcome:
    """Read the outcome of a job with its matches, if it is a query; errors as of :meth:`.Ledger.outcome`."""
    outcome = ledger.outcome(job_id)
    if not isinstance(outcome, FindOutcome) or not outcome.kept:
        return outcome
    (matches,) = read_matches(ledger, job_id, [0])
    return outcome.model_copy(update={"matches": (*outcome.matches, *matches), "kept": 0})


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
    while chunk := list(islice(lines, _ROWS)):
        answered = [each.number for each in chunk if each.outcome is not None]
        found = dict(zip(answered, read_matches(ledger, job_id, answered), strict=True))
        for each in chunk:
            yield RowAnswer(cast("RowLine", each.line).number, each.outcome, found.get(each.number, ()))
