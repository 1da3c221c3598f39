"""What webhooks still have to deliver, in Redis: ends of jobs, deliveries that are due, and those that were given up.

Whichever worker is free delivers. An end is noted in the same step as the end itself, and stays until its deliveries
are planned; a delivery stays until it has succeeded or somebody has read that it failed. So an event may be delivered
twice, with the same id, and none is lost for as long as Redis is not.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

from pacs_tasks.errors import InvalidRequestError, JobNotFoundError
from pacs_tasks.ledger.ends import KEPT, member_of
from pacs_tasks.ledger.keys import job_key
from pacs_tasks.sealing import sealing_of

if TYPE_CHECKING:
    import redis

#: Its presence has the script that ends a job note the end.
WANTED = "pacs_tasks:webhooks"
#: Ends whose deliveries are not planned: attempt and key of the job, by the time; written by scripts.
_ENDED = "pacs_tasks:webhooks:ended"
#: Deliveries by the time at which they are due, and all deliveries with their bodies by their ids.
_DUE = "pacs_tasks:webhooks:due"
_DELIVERIES = "pacs_tasks:webhooks:deliveries"
_BODIES = "pacs_tasks:webhooks:bodies"
_CLAIM = "pacs_tasks:webhooks:claim:"
#: Seconds for which ends are noted after the last worker with a webhook was seen.
_WANTED_FOR = 7 * 86_400
#: Seconds after which another worker does what a dead one had begun to do.
CLAIMED = 90
#: Due deliveries or ends that are read at once.
_MOST = 100


def event_id(job_id: str, attempt: int) -> str:
    """Give the id of the event of an end: the same each time, and nothing of an id that another service made up."""
    return "evt_" + hashlib.sha256(f"{attempt} {job_id}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to one webhook."""

    event_id: str
    webhook: str
    job_id: str
    #: When it was planned or given up, in Unix seconds.
    time: float
    #: How often it was posted.
    tries: int = 0
    #: Why the last try failed.
    error: str = ""
    #: Whether it is tried no more.
    given_up: bool = False

    @property
    def id(self) -> str:
        return f"{self.event_id}:{self.webhook}"


class Webhooks:
    """The deliveries of one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis, self._sealing = client, sealing_of(client)

    def want(self) -> None:
        """Have the ends of jobs noted."""
        if int(self._redis.ttl(WANTED)) < _WANTED_FOR - 3600:
            self._redis.set(WANTED, 1, ex=_WANTED_FOR)

    def ended(self) -> Iterator[tuple[int, str]]:
        """Read attempt and id of the jobs that have ended and whose deliveries are not planned, the oldest first."""
        start = 0
        while page := cast("list[str]", self._redis.zrange(_ENDED, start, start + _MOST - 1)):
            for each in page:
                attempt, _, key = each.partition(" ")
                yield int(attempt), key.removeprefix(job_key(""))
            with self._redis.pipeline() as pipe:
                for each in page:
                    pipe.zscore(_ENDED, each)
                # The others have moved up since.
                start += sum(score is not None for score in pipe.execute())

    def plan(self, attempt: int, job_id: str, bodies: Mapping[str, str]) -> None:
        """Plan the deliveries of an end: the body of its event for each webhook, by name."""
        member, now = member_of(job_id, attempt), time.time()
        if not self.claim(member):
            return
        try:
            # Another worker may have planned them since this one read the end.
            if self._redis.zscore(_ENDED, member) is None:
                return
            with self._redis.pipeline() as pipe:
                for name, body in bodies.items():
                    delivery = Delivery(event_id(job_id, attempt), name, job_id, now)
                    pipe.hset(_DELIVERIES, delivery.id, _written(delivery))
                    pipe.hset(_BODIES, delivery.id, self._sealing.seal(body, f"webhook {delivery.id}"))
                    pipe.zadd(_DUE, {delivery.id: now})
                _forget_end(pipe, member)
                pipe.execute()
        finally:
            self.release(member)

    def due(self) -> list[str]:
        """Read the ids of the deliveries that are due and that nobody has claimed; they are claimed now."""
        found = cast("list[str]", self._redis.zrangebyscore(_DUE, "-inf", time.time(), start=0, num=_MOST))
        return [each for each in found if self.claim(f"queued {each}")]

    def claim(self, name: str) -> bool:
        """Return whether this worker may do this now."""
        return bool(self._redis.set(_CLAIM + name, 1, nx=True, ex=CLAIMED))

    def release(self, *names: str) -> None:
        self._redis.delete(*(_CLAIM + name for name in names))

    def get(self, delivery_id: str) -> Delivery | None:
        """Read a delivery; None if it has succeeded."""
        text = cast("str | None", self._redis.hget(_DELIVERIES, delivery_id))
        return Delivery(**json.loads(text)) if text else None

    def body(self, delivery: Delivery) -> str:
        """Read the body of a delivery.

        Raises
        ------
        SealingError
            If it cannot be decrypted.
        """
        text = cast("str | None", self._redis.hget(_BODIES, delivery.id))
        return self._sealing.unseal(text or "", f"webhook {delivery.id}")

    def forget(self, *delivery_ids: str) -> None:
        """Forget deliveries, with their bodies."""
        with self._redis.pipeline() as pipe:
            pipe.zrem(_DUE, *delivery_ids)
            pipe.hdel(_DELIVERIES, *delivery_ids)
            pipe.hdel(_BODIES, *delivery_ids)
            pipe.execute()

    def note_failure(self, delivery: Delivery, error: str, pause: float | None) -> None:
        """Record why a delivery failed; it is due again in ``pause`` seconds, or given up."""
        failed = replace(delivery, tries=delivery.tries + 1, error=error, given_up=pause is None)
        if pause is None:
            failed = replace(failed, time=time.time())
        with self._redis.pipeline() as pipe:
            pipe.hset(_DELIVERIES, delivery.id, _written(failed))
            if pause is None:
                pipe.zrem(_DUE, delivery.id)
            else:
                pipe.zadd(_DUE, {delivery.id: time.time() + pause}, xx=True)
            pipe.execute()

    def all(self) -> list[Delivery]:
        """Read all deliveries that have not succeeded, the oldest first."""
        texts = cast("list[str]", self._redis.hvals(_DELIVERIES))
        return sorted((Delivery(**json.loads(text)) for text in texts), key=lambda each: each.time)

    def count_given_up(self) -> int:
        """Count the deliveries that are tried no more."""
        with self._redis.pipeline() as pipe:
            pipe.hlen(_DELIVERIES)
            pipe.zcard(_DUE)
            all_of_them, due = pipe.execute()
        return int(all_of_them - due)

    def find(self, text: str) -> Delivery:
        """Find the delivery whose id is ``text``, or is the only one that begins so.

        Raises
        ------
        JobNotFoundError
            If there is none.
        InvalidRequestError
            If several ids begin so.
        """
        found = [each for each in self.all() if each.id.startswith(text)]
        if len(found) > 1:
            raise InvalidRequestError(f"{len(found)} deliveries begin with {text!r}. Write more of the id.")
        if not found:
            raise JobNotFoundError(
                f"There is no delivery {text!r}. Run `pacs-tasks webhooks list` to list those that are not done."
            )
        return found[0]

    def retry(self, delivery: Delivery) -> None:
        """Have a delivery tried now, and again if it fails."""
        with self._redis.pipeline() as pipe:
            pipe.hset(_DELIVERIES, delivery.id, _written(replace(delivery, tries=0, given_up=False)))
            pipe.zadd(_DUE, {delivery.id: 0})
            pipe.execute()

    def purge(self, job_ids: Collection[str] = (), before: float = 0.0) -> int:
        """Forget the deliveries of these jobs, and those that were given up before a Unix time; return how many."""
        wanted = set(job_ids)
        with self._redis.pipeline() as pipe:
            for attempt, job_id in self.ended() if wanted else ():
                if job_id in wanted:
                    _forget_end(pipe, member_of(job_id, attempt))
            pipe.execute()
        found = [each.id for each in self.all() if each.job_id in wanted or (each.given_up and each.time < before)]
        if found:
            self.forget(*found)
        return len(found)


def _forget_end(pipe: redis.client.Pipeline, member: str) -> None:
    pipe.zrem(_ENDED, member)
    pipe.delete(KEPT + member)


def _written(delivery: Delivery) -> str:
    return json.dumps(asdict(delivery))
