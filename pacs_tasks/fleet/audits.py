"""What the audit trail still has to hold: jobs whose events are due, and events that belong to no job.

It is in Redis, so that whichever worker can write writes, and nothing is lost while none can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pacs_tasks.sealing import sealing_of

if TYPE_CHECKING:
    import redis

_DUE = "pacs_tasks:audit"
_EVENTS = "pacs_tasks:audit:events"
#: Present where a worker writes the trail.
_WANTED = "pacs_tasks:audit:wanted"
_WRITING = "pacs_tasks:audit:writing:"
#: Events that belong to no job and wait; beyond that, the oldest are dropped.
_MOST = 10_000
#: Seconds after which another worker writes what a dead one had begun to write.
_CLAIMED = 60
#: Seconds to keep what is due after the last change.
_KEPT = 30 * 86_400
_WANTED_FOR = 7 * 86_400
_CONTEXT = "audit event"


class Audits:
    """What is due in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis, self._sealing = client, sealing_of(client)

    def want(self) -> None:
        """Have clients add events, whose settings do not say whether there is a trail."""
        if int(self._redis.ttl(_WANTED)) < _WANTED_FOR - 3600:
            self._redis.set(_WANTED, 1, ex=_WANTED_FOR)

    def wanted(self) -> bool:
        return bool(self._redis.exists(_WANTED))

    def expect(self, job_id: str) -> None:
        """Have the events of a job written: of its beginning now, of its end when it ends."""
        self._redis.zadd(_DUE, {job_id: 0})
        self._redis.expire(_DUE, _KEPT)

    def due(self) -> list[tuple[str, bool]]:
        """Read the jobs whose events are not all written, and whether that of the beginning is."""
        found = cast("list[tuple[str, float]]", self._redis.zrange(_DUE, 0, -1, withscores=True))
        return [(job_id, bool(begun)) for job_id, begun in found]

    def is_due(self, job_id: str, *, begun: bool) -> bool:
        """Return whether nobody has written anything of a job since it was read as due."""
        return self._redis.zscore(_DUE, job_id) == float(begun)

    def record_begun(self, job_id: str) -> None:
        """Record that the event of the beginning is written."""
        self._redis.zadd(_DUE, {job_id: 1}, xx=True)

    def done(self, job_id: str) -> None:
        """Record that all events of a job are written."""
        self._redis.zrem(_DUE, job_id)

    def claim(self, name: str) -> bool:
        """Return whether this worker may write the events of this job, or those of this name, now."""
        return bool(self._redis.set(_WRITING + name, 1, nx=True, ex=_CLAIMED))

    def release(self, name: str) -> None:
        self._redis.delete(_WRITING + name)

    def put(self, text: str) -> None:
        """Add an event that belongs to no job."""
        self._redis.rpush(_EVENTS, self._sealing.seal(text, _CONTEXT))
        self._redis.ltrim(_EVENTS, -_MOST, -1)

    def first(self) -> str | None:
        """Read the event that has waited longest."""
        text = cast("str | None", self._redis.lindex(_EVENTS, 0))
        return None if text is None else self._sealing.unseal(text, _CONTEXT)

    def drop_first(self) -> None:
        """Remove the event that has waited longest: it is written."""
        self._redis.lpop(_EVENTS)
