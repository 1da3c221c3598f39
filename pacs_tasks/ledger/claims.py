"""Claims: which worker works on which part of a job, which attempts were lost, and which jobs stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pacs_tasks.ledger.keys import JOBS, job_key, touch
from pacs_tasks.ledger.scripts import Scripts
from pacs_tasks.ledger.structures import Marks

if TYPE_CHECKING:
    import redis

#: Seconds after the last renewal at which a claim expires.
CLAIM_LIFETIME = 15.0


class Claims:
    """The claims of all jobs in one Redis, which remembers losses and attempts for ``keep`` seconds."""

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
        self._run = Scripts(client).run

    def claim(self, scope: str, name: str, owner: str) -> int:
        """Claim ``name`` within ``scope`` (the id of a job) for ``CLAIM_LIFETIME`` seconds, or renew the claim.

        The empty name stands for the whole scope: its owner must be alone there and keeps others out.

        Returns
        -------
        0 if another owner holds it, else 1 + the number of owners that died with it in this attempt.
        """
        keys = [job_key(scope, "claims"), job_key(scope, "losses")]
        return int(self._run("claims/claim", keys, [name, owner, CLAIM_LIFETIME]))

    def release(self, scope: str, name: str, owner: str) -> None:
        """Release a claim if the owner still has it."""
        self._run("claims/release", [job_key(scope, "claims")], [name, owner])

    def count(self, scope: str) -> int:
        """Count the claims that are held now. Expired ones stay: the next owner sees that the last one died."""
        return len(Marks(self._redis, job_key(scope, "claims")).live(remove_expired=False))

    def record_begun(self, job_id: str, name: str, index: int) -> None:
        """Record which line of the manifest is begun under a claim: if the worker dies, that line is suspected."""
        self._redis.hset(job_key(job_id, "losses"), f"at {name}", str(index))

    def suspect(self, job_id: str, name: str) -> tuple[int, int] | None:
        """Count a death at the line that the last owner of a claim had begun; return the line and its deaths."""
        found = self._run("claims/suspect", [job_key(job_id, "losses")], [name])
        return (int(found[0]), int(found[1])) if found else None

    def count_loss(self, job_id: str, index: int) -> int:
        """Count an association that was lost at this line; return how many were in this attempt."""
        return self._increment(job_key(job_id, "losses"), index)

    def count_attempt(self, job_id: str, index: int) -> None:
        """Count that this line was put on the wire and has no outcome yet."""
        self._increment(job_key(job_id, "attempts"), index)

    def attempts(self, job_id: str, start: int, stop: int) -> list[int]:
        """Read how often each line from ``start`` up to ``stop`` was put on the wire without an outcome."""
        indices = [str(index) for index in range(start, stop)]
        counts = cast("list[str | None]", self._redis.hmget(job_key(job_id, "attempts"), indices))
        return [int(count or 0) for count in counts]

    def count_replan(self, job_id: str) -> int:
        """Count that lost parts are planned again; return how often that happened since the last outcome."""
        return int(self._run("jobs/count_replan", [job_key(job_id)]))

    def _increment(self, counts: str, index: int) -> int:
        count = int(self._redis.hincrby(counts, str(index), 1))
        self._redis.expire(counts, self._keep)
        return count


class Standstills:
    """Finds unfinished jobs that nobody works on; each check keeps a job for ``keep`` seconds."""

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
        self._run = Scripts(client).run

    def unfinished_jobs(self) -> list[str]:
        """Read the ids of the jobs that are queued or running."""
        return cast("list[str]", self._run("jobs/unfinished", [JOBS], [job_key("")]))

    def check(self, job_id: str, patience: float) -> str:
        """Check an unfinished job, which keeps it from expiring.

        Returns a text for a job that has not changed for ``patience`` seconds, once, and again after twice the time;
        nothing as long as it changes, is worked on, or waits for its remote. A cancelled job whose last worker died
        ends here.
        """
        touch(self._redis, job_id, self._keep)
        return str(self._run("jobs/standstill", [job_key(job_id), job_key(job_id, "claims")], [patience]))

    def reset(self, job_id: str) -> None:
        """Begin to count anew: the job waits for its remote."""
        self._redis.hdel(job_key(job_id), "seen")

    def persists(self, job_id: str, seen: str) -> bool:
        """Return whether a job has not changed since :meth:`check` returned ``seen``."""
        return seen == str(self._run("jobs/standstill", [job_key(job_id), job_key(job_id, "claims")], [""]))
