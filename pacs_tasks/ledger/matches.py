"""What the rows of a query of many have found: patient data, which is kept here and nowhere else.

``matches`` is a hash of a job: index of the row in the manifest to a JSON array of DICOM JSON objects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import redis

from pacs_tasks.ledger.keys import key
from pacs_tasks.ledger.scripts import Scripts

#: DICOM JSON objects (PS3.18 annex F).
MatchList = tuple[dict[str, Any], ...]


class Matches:
    """The matches of all jobs in one Redis.

    Parameters
    ----------
    client
        As :func:`pacs_tasks.connection.connect` gives it.
    keep
        Seconds that they are kept.
    """

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
        self._run = Scripts(client).run

    def note(self, job_id: str, index: int, matches: MatchList) -> None:
        """Keep what a row has found, before its outcome is recorded; said again, the last word stands."""
        text = json.dumps(matches, separators=(",", ":"), ensure_ascii=False)
        self._run(_NOTE, [key(job_id), key(job_id, "matches")], [index, text, self._keep])

    def of(self, job_id: str, indices: Sequence[int]) -> list[MatchList]:
        """What these rows have found; nothing for one that has no answer."""
        if not indices:
            return []
        texts = cast("list[str | None]", self._redis.hmget(key(job_id, "matches"), [str(each) for each in indices]))
        return [tuple(json.loads(text)) if text else () for text in texts]


#: job, matches; index, what it has found, seconds to keep it.
_NOTE = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0  -- It has expired, and with it everybody's interest.
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
"""
