"""The manifest of a job: its files or instances in order, one line each, and of which studies they are."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, cast

import redis

from pacs_tasks.ledger.keys import key
from pacs_tasks.ledger.scripts import COMMON, Scripts
from pacs_tasks.ledger.studies import Study

_CHUNK = 1_000
#: Items of a line of a retrieve.
_OF_A_RETRIEVE = 4

#: One line of a manifest: what a part needs to know of one file or instance. The first item is what it is called.
#: Of a retrieve: what it is called, series, SOP class and study; the first is the SOP Instance UID where the peer
#: listed it. Where it gave a count alone, that is "3 of 12", and it gave no class.
Entry = list[Any]


def is_counted(entry: Entry) -> bool:
    """Whether a line of a retrieve stands for any instance of its series, or study: the peer gave a count alone."""
    return " of " in str(entry[0])


def called(entry: Entry, sop_instance_uid: str) -> str:
    """What an instance is called that has taken a line."""
    return sop_instance_uid if len(entry) == _OF_A_RETRIEVE and is_counted(entry) else str(entry[0])


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
        self, job_id: str, entries: Iterable[Entry], attempt_key: str, studies: Sequence[Study] = (), tail: int = 0
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
        new, total = self._written(job_id, entries, attempt_key)
        described = self._described(job_id, studies, attempt_key)
        keys = [key(job_id), key(job_id, "manifest"), new, key(job_id, "studies"), described]
        self._run(_PLAN, keys, [total, total - tail])
        return self.total(job_id)

    def replan(
        self, job_id: str, entries: Sequence[Entry], attempt_key: str, studies: Sequence[Study], tail: int
    ) -> int:
        """Put these lines in the place of the tail, whose outcomes are dropped, and count the manifest.

        The parameters are those of :meth:`plan`; ``studies`` are all of the job.
        """
        start, before = self.resolved(job_id), self.total(job_id)
        new, count = self._written(job_id, entries, attempt_key)
        described = self._described(job_id, studies, attempt_key)
        parts = ("manifest", "studies", "recorded", "problems")
        keys = [key(job_id), new, described, *(key(job_id, part) for part in parts)]
        total = start + count
        arguments = [start, before, total, total - tail, uuid.uuid4().hex, self._keep]
        self._run(_REPLAN, keys, arguments)
        return self.total(job_id)

    def entries(self, job_id: str, start: int, stop: int) -> list[Entry]:
        """Lines ``start`` up to, not including, ``stop`` of the manifest."""
        lines = cast("list[str]", self._redis.lrange(key(job_id, "manifest"), start, stop - 1))
        return [json.loads(line) for line in lines]

    def planned(self, job_id: str) -> bool:
        return self._redis.hget(key(job_id), "planned") == "1"

    def total(self, job_id: str) -> int:
        """How many lines there are."""
        return int(cast("str | None", self._redis.hget(key(job_id), "total")) or 0)

    def resolved(self, job_id: str) -> int:
        """How many of them stand for something that can be sent or fetched: all but the tail."""
        return int(cast("str | None", self._redis.hget(key(job_id), "resolved")) or 0)

    def _written(self, job_id: str, entries: Iterable[Entry], attempt_key: str) -> tuple[str, int]:
        new = key(job_id, f"manifest:{attempt_key}")
        self._redis.delete(new)
        total, lines = 0, (json.dumps(entry, separators=(",", ":")) for entry in entries)
        while chunk := list(islice(lines, _CHUNK)):
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
