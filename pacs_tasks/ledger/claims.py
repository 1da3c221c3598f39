"""Who works: the workers that run, their claims on a job and its parts, and jobs on which nobody works."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, cast

from pacs_tasks.ledger.keys import JOBS, RUNNING, WORKERS, Marks, Scripts, job_key, server_time, touch
from pacs_tasks.operations import MESSAGE_PRIORITIES, QUEUES, queue_key

if TYPE_CHECKING:
    import redis

#: Seconds after the last renewal at which a claim expires.
CLAIM_LIFETIME = 15.0
#: Messages of jobs that had their turn which are moved at once.
_MOST_MOVED = 256


class Presence:
    """The workers that run: each renews its name, since one that is busy may not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._workers, self._run = Marks(client, WORKERS), Scripts(client).run

    def renew(self, name: str) -> None:
        """Renew the name of a worker, and forget those that died long ago.

        If no worker was seen for long, though this one ran, Redis was silent: nobody could renew a claim, so each holds
        for a lifetime more.
        """
        self._run("claims/be_present", [], [name, CLAIM_LIFETIME])

    def end(self, name: str) -> None:
        self._workers.remove([name])

    def any(self) -> bool:
        """Whether a worker runs, or did until some seconds ago."""
        return bool(self._workers.live(remove_expired=False))


class Waiting(NamedTuple):
    """The messages in queues: whether any waits, and whether one goes before the task that asks.

    Those of a higher priority do, and any while another job runs.
    """

    any: bool
    ahead: bool


def read_waiting(client: redis.Redis, queues: Collection[str], priority: int) -> Waiting:
    """Read what waits in these queues beside a task of a priority."""
    keys = {each: [queue_key(queue, each) for queue in queues] for each in MESSAGE_PRIORITIES}
    higher = [key for each in keys if each < priority for key in keys[each]]
    with client.pipeline(transaction=False) as pipe:
        pipe.exists(*chain.from_iterable(keys.values()))
        pipe.zcard(RUNNING)
        if higher:
            # Without a key it would be an error.
            pipe.exists(*higher)
        waiting, running, *above = pipe.execute()
    return Waiting(bool(waiting), any(above) or bool(waiting and running > 1))


def let_others(client: redis.Redis, key: str, root_id: str) -> bool:
    """Move behind others what follows in a list of jobs that had their turn; false if only one job runs.

    Parameters
    ----------
    key
        The list.
    root_id
        The root of the message that was taken, in Celery's sense: the planner of a job is the root of its parts.
    """
    keys = [key, RUNNING, f"pacs_tasks:turns:{key}"]
    return bool(Scripts(client).run("claims/let_others", keys, [root_id, _MOST_MOVED]))


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
        self._run("claims/release", [job_key(scope, "claims"), job_key(scope, "losses")], [name, owner])

    def owner(self, scope: str, name: str) -> str:
        """Read who owns a claim, or did so last; empty if nobody does."""
        return str(self._redis.hget(job_key(scope, "claims"), name) or "").partition(" ")[2]

    def count(self, scope: str) -> int:
        """Count the claims that are held now. Expired ones stay: the next owner sees that the last one died."""
        return int(self._run("claims/count", [job_key(scope, "claims")]))

    def record_begun(self, job_id: str, name: str, index: int) -> None:
        """Record which line of the manifest is begun under a claim: if the worker dies, that line is suspected."""
        self._redis.hset(job_key(job_id, "losses"), f"at {name}", str(index))

    def suspect(self, job_id: str, name: str) -> tuple[int, int] | None:
        """Count a death at the line that the last owner of a claim had begun; return the line and its deaths."""
        found = self._run("claims/suspect", [job_key(job_id, "losses")], [name])
        return (int(found[0]), int(found[1])) if found else None

    def count_loss(self, job_id: str, index: int) -> int:
        """Count an association that was lost at this line; return how many were in this attempt."""
        key = job_key(job_id, "losses")
        count = int(self._redis.hincrby(key, str(index), 1))
        self._redis.expire(key, self._keep)
        return count

    def losses(self, job_id: str, start: int, stop: int) -> dict[int, int]:
        """Read how many associations were lost at each line from ``start`` up to ``stop``, where some were."""
        return {
            start + place: count for place, count in enumerate(self._counts(job_id, "losses", start, stop)) if count
        }

    def count_retrying(self, job_id: str, change: int) -> None:
        """Count the lines that wait for another try because an association was lost at them."""
        self._run("claims/retrying", [job_key(job_id)], [change])

    def count_attempt(self, job_id: str, index: int) -> None:
        """Count that this line was put on the wire and has no outcome yet."""
        self._run("claims/count_attempt", [job_key(job_id, "attempts"), job_key(job_id)], [index, self._keep])

    def attempts(self, job_id: str, start: int, stop: int) -> list[int]:
        """Read how often each line from ``start`` up to ``stop`` was put on the wire without an outcome."""
        return self._counts(job_id, "attempts", start, stop)

    def record_try(self, job_id: str, name: str, tries: int, pause: float) -> None:
        """Record how often a part was tried, and in how many seconds it may be again."""
        key = job_key(job_id, "losses")
        self._redis.hset(key, f"tries {name}", f"{tries} {server_time(self._redis) + pause:.3f}")
        self._redis.expire(key, self._keep)

    def forget_tries(self, job_id: str, names: Collection[str]) -> None:
        """Forget how often these parts were tried: they begin anew."""
        if names:
            self._redis.hdel(job_key(job_id, "losses"), *(f"tries {name}" for name in names))

    def tries(self, job_id: str, name: str) -> tuple[int, float]:
        """Read what :meth:`record_try` recorded: the number, and the seconds that are left."""
        found = cast("str | None", self._redis.hget(job_key(job_id, "losses"), f"tries {name}"))
        if found is None:
            return 0, 0.0
        tries, due = found.split()
        return int(tries), max(0.0, float(due) - server_time(self._redis))

    def count_replan(self, job_id: str) -> int:
        """Count that lost parts are planned again; return how often that happened since the last outcome."""
        return int(self._run("jobs/count_replan", [job_key(job_id)]))

    def _counts(self, job_id: str, part: str, start: int, stop: int) -> list[int]:
        indices = [str(index) for index in range(start, stop)]
        counts = cast("list[str | None]", self._redis.hmget(job_key(job_id, part), indices))
        return [int(count or 0) for count in counts]


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

    def others_wait(self, priority: int) -> bool:
        """Return whether a running part should let others have its turn."""
        return read_waiting(self._redis, QUEUES, priority).ahead

    def reset(self, job_id: str) -> None:
        """Begin to count anew: the job waits for its remote."""
        self._redis.hdel(job_key(job_id), "seen")

    def persists(self, job_id: str, seen: str) -> bool:
        """Return whether a job has not changed since :meth:`check` returned ``seen``."""
        return seen == str(self._run("jobs/standstill", [job_key(job_id), job_key(job_id, "claims")], [""]))
