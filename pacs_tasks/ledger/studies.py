"""The studies of a retrieve: which lines of the manifest are theirs, by which proof, and which way they came.

What became of a study is read from the bitmaps of its lines and from what did not simply succeed, not from its
receipts: 100,000 instances take no longer than 100.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import redis

from pacs_tasks.ledger.keys import key
from pacs_tasks.ledger.scripts import Scripts
from pacs_tasks.outcome import Category, InstanceCategory, Proof, StudyOutcome
from pacs_tasks.outcome.progress import JobState
from pacs_tasks.outcome.status import Value

_CHUNK = 1_000
#: Ranges that one command counts: each costs a few steps inside Redis, however long it is.
_RANGES = 200
#: Stands beside the ways of a study.
_MORE = "more"
_LOST = (InstanceCategory.FAILED, InstanceCategory.MISSING, InstanceCategory.SKIPPED)

#: Start and end of consecutive lines of the manifest, as a Python slice.
Lines = tuple[int, int]


class Study(Value):
    """What a retrieve has planned of one study.

    ``lines`` are those of what the peer promised, ``tail`` those of what was asked for and not found: of a selection
    without any study, or of instances that the peer does not list. ``name`` is what such a selection is called.
    """

    study_uid: str = ""
    name: str = ""
    lines: tuple[Lines, ...] = ()
    tail: tuple[Lines, ...] = ()
    proof: Proof = Proof.NONE
    #: Instances were asked for by name, so its series need not be whole.
    picked: bool = False
    #: Places, in the request, of the selections that asked for it, and their rows of the batch file.
    selections: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    #: What is to be said about the promise.
    reason: str = ""
    #: There may be more than the peer has listed.
    doubted: bool = False

    @property
    def field(self) -> str:
        """What it is found by in its hash."""
        return self.study_uid or f"{self.name} #{min(self.selections, default=0)}"


class _Owned(NamedTuple):
    """Lines, and the place of the study that they belong to."""

    start: int
    stop: int
    study: int
    tail: bool


class _Tally:
    """How many lines of a study did not simply succeed, and why the first of them failed."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(InstanceCategory, 0)
        #: Of what the peer promised; what was not found is promised by nobody.
        self.lost = 0
        self.reason = ""

    def add(self, category: InstanceCategory, reason: str, *, tail: bool) -> None:
        self.counts[category] += 1
        if category in _LOST:
            self.lost += not tail
            self.reason = self.reason or reason


class Studies:
    """The studies of all jobs in one Redis.

    Parameters
    ----------
    client
        As :func:`pacs_tasks.connection.connect` gives it.
    keep
        Seconds that the way of a study is remembered.
    """

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
        self._run = Scripts(client).run

    def planned(self, job_id: str) -> list[Study]:
        """The studies of a job, in the order of the manifest."""
        texts = cast("dict[str, str]", self._redis.hgetall(key(job_id, "studies")))
        found = [Study.model_validate_json(text) for text in texts.values()]
        return sorted(found, key=lambda each: min((*each.lines, *each.tail), default=(0, 0)))

    def picked(self, job_id: str, study_uid: str) -> bool:
        """Whether instances of this study were asked for by name."""
        text = cast("str | None", self._redis.hget(key(job_id, "studies"), study_uid))
        return text is not None and Study.model_validate_json(text).picked

    def note_way(self, job_id: str, study_uid: str, way: str, why: str = "") -> None:
        """Note by which DIMSE service a study, or some of it, came; ``why`` not by another. The first word stands."""
        ways = key(job_id, "ways")
        self._redis.hsetnx(ways, f"{study_uid} {way}", why)
        self._redis.expire(ways, self._keep)

    def note_more(self, job_id: str, study_uid: str, number: int) -> None:
        """Note that so many more instances of a study came than the peer had listed or counted."""
        if number:
            self._redis.hincrby(key(job_id, "ways"), f"{study_uid} {_MORE}", number)

    def outcomes(self, job_id: str) -> tuple[StudyOutcome, ...]:
        """What became of each study, in the order of the manifest; nothing for a job that has none."""
        planned = self.planned(job_id)
        if not planned:
            return ()
        tallies = self._tallies(job_id, planned)
        recorded = self._counted(job_id, "recorded", [each.lines for each in planned])
        present = self._counted(job_id, "present", [each.lines for each in planned])
        ways: dict[str, dict[str, str]] = {}
        for field, why in sorted(cast("dict[str, str]", self._redis.hgetall(key(job_id, "ways"))).items()):
            study_uid, _, way = field.partition(" ")
            told = f"more instances came than the peer had listed or counted ({why})" if way == _MORE else why
            ways.setdefault(study_uid, {})[way] = told
        cancelled = self._redis.hget(key(job_id), "state") == JobState.CANCELLED
        return tuple(
            _outcome(study, tally, here, there, ways.get(study.study_uid, {}), cancelled=cancelled)
            for study, tally, here, there in zip(planned, tallies, recorded, present, strict=True)
        )

    def _tallies(self, job_id: str, planned: Sequence[Study]) -> list[_Tally]:
        """What did not simply succeed, by study."""
        tallies = [_Tally() for _ in planned]
        owned = sorted(
            _Owned(start, stop, number, tail)
            for number, each in enumerate(planned)
            for tail, group in ((False, each.lines), (True, each.tail))
            for start, stop in group
        )
        starts = [each.start for each in owned]
        for index, category, reason in sorted(self._problems(job_id)):
            place = bisect_right(starts, index) - 1
            if place >= 0 and index < owned[place].stop:
                tallies[owned[place].study].add(category, reason, tail=owned[place].tail)
        return tallies

    def _problems(self, job_id: str) -> Iterator[tuple[int, InstanceCategory, str]]:
        found = dict(self._redis.hscan_iter(key(job_id, "problems"), count=_CHUNK))
        for index, text in found.items():
            outcome = json.loads(text)
            yield int(index), InstanceCategory(outcome["category"]), outcome.get("reason", "")

    def _counted(self, job_id: str, bitmap: str, wanted: Sequence[tuple[Lines, ...]]) -> list[int]:
        """How many bits are set within each of these groups of lines."""
        ranges = [lines for group in wanted for lines in group]
        counts: list[int] = []
        for first in range(0, len(ranges), _RANGES):
            ends = [end for lines in ranges[first : first + _RANGES] for end in lines]
            counts += self._run(_COUNT, [key(job_id, bitmap)], ends)
        found = iter(counts)
        return [sum(next(found) for _ in group) for group in wanted]


def _outcome(
    study: Study, tally: _Tally, recorded: int, present: int, ways: dict[str, str], *, cancelled: bool
) -> StudyOutcome:
    promised = sum(stop - start for start, stop in study.lines)
    unfound = sum(stop - start for start, stop in study.tail)
    failed = tally.counts[InstanceCategory.FAILED] + tally.counts[InstanceCategory.SKIPPED]
    received = recorded - present - tally.lost
    reasons = dict.fromkeys(reason for reason in (study.reason, tally.reason, *ways.values()) if reason)
    if promised and received + present == promised and not unfound:
        remarked = study.doubted or tally.counts[InstanceCategory.WARNING]
        category = Category.WARNING if remarked else Category.SUCCESS
    elif cancelled:
        category = Category.CANCELLED
    else:
        category = Category.PARTIAL if received + present else Category.FAILED
    return StudyOutcome(
        study_uid=study.study_uid,
        category=category,
        promised=promised,
        received=received,
        present=present,
        missing=tally.counts[InstanceCategory.MISSING],
        failed=failed,
        proof=study.proof,
        ways=tuple(way for way in ways if way != _MORE),
        reason="; ".join(reasons),
        rows=study.rows,
    )


#: bitmap; start and stop of several ranges. How many bits are set in each: whole bytes at once, the others singly.
_COUNT = """
local function singly(start, stop)
  local count = 0
  for index = start, stop - 1 do
    count = count + redis.call('GETBIT', KEYS[1], index)
  end
  return count
end

local counts = {}
for i = 1, #ARGV, 2 do
  local start, stop = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local first, last = math.ceil(start / 8), math.floor(stop / 8)
  if first >= last then
    counts[#counts + 1] = singly(start, stop)
  else
    counts[#counts + 1] = singly(start, first * 8) + redis.call('BITCOUNT', KEYS[1], first, last - 1)
                          + singly(last * 8, stop)
  end
end
return counts
"""
