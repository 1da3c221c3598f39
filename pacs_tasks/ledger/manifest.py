"""The manifest of a job: its files or instances in order, one line each, and of which studies they are."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, cast

import redis

from pacs_tasks.ledger.keys import key
from pacs_tasks.ledger.scripts import COMMON, Scripts
from pacs_tasks.ledger.studies import Study

_CHUNK = 1_000
#: How a line of a retrieve is named where the remote did not list the instance.
_COUNTED = re.compile(r"(\d+) of (\d+)")
_SELECTION = re.compile(r"(?:selection|row) \d+")


@dataclass(frozen=True, slots=True)
class FileLine:
    """A file to send, and its size in bytes."""

    path: str
    size: int

    @property
    def subject(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class RowLine:
    """A row of a batch query, and its keys."""

    number: int
    keys: Mapping[str, str]

    @property
    def subject(self) -> str:
        return f"row {self.number}"


@dataclass(frozen=True, slots=True)
class InstanceLine:
    """An instance to retrieve that the remote listed. Not every remote gives its SOP class."""

    sop_instance_uid: str
    series_uid: str
    sop_class_uid: str
    study_uid: str

    @property
    def subject(self) -> str:
        return self.sop_instance_uid


@dataclass(frozen=True, slots=True)
class CountedLine:
    """Any instance of a series, or of a study where the series is empty: the remote gave only their number."""

    sop_instance_uid: ClassVar[str] = ""
    sop_class_uid: ClassVar[str] = ""
    number: int
    count: int
    series_uid: str
    study_uid: str

    @property
    def subject(self) -> str:
        return f"{self.number} of {self.count}"


@dataclass(frozen=True, slots=True)
class SelectionLine:
    """A selection for which the remote listed nothing; without a study if it named none."""

    sop_instance_uid: ClassVar[str] = ""
    sop_class_uid: ClassVar[str] = ""
    series_uid: ClassVar[str] = ""
    name: str
    study_uid: str

    @property
    def subject(self) -> str:
        return self.name


RetrieveLine = InstanceLine | CountedLine | SelectionLine
#: What a part needs to know of one file, instance or row. ``subject`` names it in outcomes.
Line = FileLine | RowLine | RetrieveLine


def encode(line: Line) -> str:
    """Write a line as JSON."""
    match line:
        case FileLine():
            fields: list[Any] = [line.path, line.size]
        case RowLine():
            fields = [line.subject, line.number, line.keys]
        case _:
            fields = [line.subject, line.series_uid, line.sop_class_uid, line.study_uid]
    return json.dumps(fields, separators=(",", ":"))


def decode(text: str) -> Line:
    """Read a line that :func:`encode` wrote."""
    match json.loads(text):
        case [path, size]:
            return FileLine(path, size)
        case [_, number, keys]:
            return RowLine(number, keys)
        case [name, series_uid, sop_class_uid, study_uid]:
            if counted := _COUNTED.fullmatch(name):
                return CountedLine(int(counted[1]), int(counted[2]), series_uid, study_uid)
            if _SELECTION.fullmatch(name):
                return SelectionLine(name, study_uid)
            return InstanceLine(name, series_uid, sop_class_uid, study_uid)
    raise ValueError("this is not a line of a manifest")


class Manifest:
    """The manifests of all jobs in one Redis.

    Parameters
    ----------
    client
        As :func:`pacs_tasks.connection.connect` gives it.
    keep
        Seconds that a manifest is kept after it was written.
    """

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
        self._run = Scripts(client).run

    def plan(
        self, job_id: str, lines: Iterable[Line], attempt_key: str, studies: Sequence[Study] = (), tail: int = 0
    ) -> int:
        """Write the manifest, unless there is one already, and count it.

        Parameters
        ----------
        attempt_key
            Keeps apart two workers that plan the same job: the first to finish wins.
        studies
            Of a retrieve.
        tail
            How many lines at its end stand for what was asked for and not found.
        """
        new, total = self._written(job_id, lines, attempt_key)
        described = self._described(job_id, studies, attempt_key)
        keys = [key(job_id), key(job_id, "manifest"), new, key(job_id, "studies"), described]
        self._run(_PLAN, keys, [total, total - tail])
        return self.total(job_id)

    def replan(self, job_id: str, lines: Sequence[Line], attempt_key: str, studies: Sequence[Study], tail: int) -> int:
        """Put these lines in the place of the tail, whose outcomes are dropped, and count the manifest.

        The parameters are those of :meth:`plan`; ``studies`` are all of the job.
        """
        start, before = self.resolved(job_id), self.total(job_id)
        new, count = self._written(job_id, lines, attempt_key)
        described = self._described(job_id, studies, attempt_key)
        parts = ("manifest", "studies", "recorded", "problems")
        keys = [key(job_id), new, described, *(key(job_id, part) for part in parts)]
        total = start + count
        arguments = [start, before, total, total - tail, uuid.uuid4().hex, self._keep]
        self._run(_REPLAN, keys, arguments)
        return self.total(job_id)

    def lines(self, job_id: str, start: int, stop: int) -> list[Line]:
        """Lines ``start`` up to, not including, ``stop`` of the manifest."""
        texts = cast("list[str]", self._redis.lrange(key(job_id, "manifest"), start, stop - 1))
        return [decode(text) for text in texts]

    def planned(self, job_id: str) -> bool:
        return self._redis.hget(key(job_id), "planned") == "1"

    def total(self, job_id: str) -> int:
        """How many lines there are."""
        return int(cast("str | None", self._redis.hget(key(job_id), "total")) or 0)

    def resolved(self, job_id: str) -> int:
        """How many of them stand for something that can be sent or fetched: all but the tail."""
        return int(cast("str | None", self._redis.hget(key(job_id), "resolved")) or 0)

    def _written(self, job_id: str, lines: Iterable[Line], attempt_key: str) -> tuple[str, int]:
        new = key(job_id, f"manifest:{attempt_key}")
        self._redis.delete(new)
        total, texts = 0, map(encode, lines)
        while chunk := list(islice(texts, _CHUNK)):
            self._run(_APPEND, [new], [total, self._keep, *chunk])
            total += len(chunk)
        return new, total

    def _described(self, job_id: str, studies: Sequence[Study], attempt_key: str) -> str:
        new = key(job_id, f"studies:{attempt_key}")
        self._redis.delete(new)
        for start in range(0, len(studies), _CHUNK):
            chunk = studies[start : start + _CHUNK]
            fields: dict[Any, Any] = {each.field: each.model_dump_json(exclude_defaults=True) for each in chunk}
            self._redis.hset(new, mapping=fields)
            self._redis.expire(new, self._keep)
        return new


#: new manifest; how many lines it has, seconds to keep it, more lines. Said twice, it is done once.
_APPEND = """
if redis.call('LLEN', KEYS[1]) == tonumber(ARGV[1]) then
  redis.call('RPUSH', KEYS[1], unpack(ARGV, 3))
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1
"""

#: job, new lines, new studies, manifest, studies, recorded, problems; first line of the tail, total before and
#: afterwards, how many of the latter are no tail, a word that no other call says, seconds to keep the manifest. 1 if
#: the tail was replaced, also if this call had done so before.
_REPLAN = (
    COMMON
    + """
if redis.call('HGET', KEYS[1], 'replanned_by') == ARGV[5] then
  return 1
end
if counter(KEYS[1], 'resolved') ~= tonumber(ARGV[1]) or counter(KEYS[1], 'total') ~= tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[2], KEYS[3])
  return 0
end
for index = ARGV[1], ARGV[2] - 1 do
  local outcome = redis.call('HGET', KEYS[7], index)
  if outcome and redis.call('SETBIT', KEYS[6], index, 0) == 1 then
    redis.call('HDEL', KEYS[7], index)
    redis.call('HINCRBY', KEYS[1], cjson.decode(outcome)['category'], -1)
    redis.call('HINCRBY', KEYS[1], 'recorded', -1)
  end
end
if ARGV[1] == '0' then
  redis.call('DEL', KEYS[4])
else
  redis.call('LTRIM', KEYS[4], 0, ARGV[1] - 1)
end
for first = 0, redis.call('LLEN', KEYS[2]) - 1, 1000 do
  redis.call('RPUSH', KEYS[4], unpack(redis.call('LRANGE', KEYS[2], first, first + 999)))
end
redis.call('EXPIRE', KEYS[4], ARGV[6])
redis.call('DEL', KEYS[2])
redis.call('RENAME', KEYS[3], KEYS[5])
redis.call('HSET', KEYS[1], 'total', ARGV[3], 'resolved', ARGV[4], 'replanned_by', ARGV[5])
return 1
"""
)

#: job, manifest, new manifest, studies, new studies; total, how many of them are no tail. 1 if the job had no manifest
#: yet.
_PLAN = (
    COMMON
    + """
if redis.call('HGET', KEYS[1], 'planned') == '1' then
  redis.call('DEL', KEYS[3], KEYS[5])
  return 0
end
for i = 2, 4, 2 do
  if redis.call('EXISTS', KEYS[i + 1]) == 1 then
    redis.call('RENAME', KEYS[i + 1], KEYS[i])
  end
end
redis.call('HSET', KEYS[1], 'planned', '1', 'total', ARGV[1], 'resolved', ARGV[2])
return 1
"""
)
