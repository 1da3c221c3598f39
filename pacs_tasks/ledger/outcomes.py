"""What became of the instances of a job, read a piece at a time: 100,000 take no more memory than 1,000."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, cast

from pacs_tasks.ledger import encoding as receipts
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import key
from pacs_tasks.ledger.manifest import CountedLine, Line
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome

_CHUNK = 1_000
#: Receipts that are read for nothing rather than asked for one by one.
_GAP = 8


class LineOutcome(NamedTuple):
    """Line ``number`` of the manifest, from 0. ``place``: where its receipt stands among those of the job, if any."""

    number: int
    line: Line
    outcome: InstanceOutcome | None
    place: int | None


class Instances:
    """The instances of one job.

    Successes have a *receipt*, and receipts stand in the order in which they were written: a place among them never
    changes. What is anything else is found by its index in the manifest.
    """

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger = ledger
        self._redis = ledger.client
        self._job_id = job_id
        self._series = ledger.series(job_id)

    def receipts(self) -> int:
        """How many receipts there are."""
        return self._redis.llen(key(self._job_id, "receipts"))

    def at(self, start: int, stop: int) -> list[tuple[int, InstanceOutcome]]:
        """Index and outcome of the receipts from ``start`` up to, not including, ``stop``; without their subject."""
        texts = cast("list[str]", self._redis.lrange(key(self._job_id, "receipts"), start, stop - 1))
        return [receipts.read(text, self._series) for text in texts]

    def others(self, indices: Sequence[int]) -> dict[int, InstanceOutcome]:
        """What has an outcome of another kind, by index."""
        if not indices:
            return {}
        texts = cast("list[str | None]", self._redis.hmget(key(self._job_id, "problems"), [str(i) for i in indices]))
        found = zip(indices, texts, strict=True)
        return {index: receipts.read_whole(text, self._series) for index, text in found if text is not None}

    def sent(self) -> Iterator[tuple[int, InstanceOutcome]]:
        """Index and outcome of all that was sent or received, warnings included, in no order."""
        for start in range(0, self.receipts(), _CHUNK):
            yield from self.at(start, start + _CHUNK)
        for index, outcome in self._ledger.problems(self._job_id):
            if outcome.category is InstanceCategory.WARNING:
                yield index, outcome

    def subjects(self, indices: Iterable[int]) -> dict[int, str]:
        """What the manifest calls these."""
        found: dict[int, str] = {}
        for chunk, members in groupby(sorted(indices), lambda index: index // _CHUNK):
            lines = self._ledger.manifest.lines(self._job_id, chunk * _CHUNK, (chunk + 1) * _CHUNK)
            found.update((index, lines[index % _CHUNK].subject) for index in members)
        return found

    def in_order(self) -> Iterator[LineOutcome]:
        """Every line of the manifest."""
        places, start = self._places(), 0
        while lines := self._ledger.manifest.lines(self._job_id, start, start + _CHUNK):
            indices = range(start, start + len(lines))
            found = self._among_receipts(places[index] for index in indices if places[index] >= 0)
            others = self.others([index for index in indices if places[index] < 0])
            for index, line in zip(indices, lines, strict=True):
                outcome = found.get(index, others.get(index))
                if outcome is not None and not outcome.subject:
                    subject = outcome.sop_instance_uid if isinstance(line, CountedLine) else line.subject
                    outcome = outcome.model_copy(update={"subject": subject})
                yield LineOutcome(index, line, outcome, places[index] if index in found else None)
            start += len(lines)

    def _places(self) -> array[int]:
        """Index to place, -1 where there is no receipt: four bytes for each instance."""
        total = self._redis.llen(key(self._job_id, "manifest"))
        places: array[int] = array("l", [-1]) * total
        start = 0
        while texts := cast("list[str]", self._redis.lrange(key(self._job_id, "receipts"), start, start + _CHUNK - 1)):
            for place, text in enumerate(texts, start):
                places[receipts.index_of(text)] = place
            start += len(texts)
        return places

    def _among_receipts(self, places: Iterable[int]) -> dict[int, InstanceOutcome]:
        """Index to outcome of the receipts at these places. Neighbours are read together."""
        found: dict[int, InstanceOutcome] = {}
        run: list[int] = []
        for place in sorted(places):
            if run and place > run[-1] + _GAP:
                found.update(self.at(run[0], run[-1] + 1))
                run = []
            run.append(place)
        if run:
            found.update(self.at(run[0], run[-1] + 1))
        return found
