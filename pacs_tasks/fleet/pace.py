"""The pace of a remote, kept by all workers together: tokens for instances and bytes, and jobs that wait for hours.

The tokens of a remote are two moments in Redis, from which the next instance and the next byte are due (the virtual
scheduling of ITU-T I.371 annex A). Taking tokens moves them on, so that nothing needs to be given back by a worker that
dies: what it has taken and not used is due a moment later. Each method of these classes is one step inside Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pacs_tasks.ledger.keys import Scripts, job_key, server_time

if TYPE_CHECKING:
    import redis

    from pacs_tasks.settings.pace import Pace

#: Seconds of lateness that are caught up: a busy machine keeps to the pace on average, and a pause gives no more.
LATENESS = 0.25
#: Most seconds until somebody without tokens asks again, and between two of them: a few wait for each token, so that
#: none is lost, and not all of many.
LONGEST_AWAY = 15.0
_LONGEST_SPACING = 0.25
_PREFIX = "pacs_tasks:pace"
_HOURS = f"{_PREFIX}:hours"


@dataclass(frozen=True)
class Amount:
    """A number of instances, and their bytes."""

    instances: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.instances + other.instances, self.bytes + other.bytes)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.instances - other.instances, self.bytes - other.bytes)

    def seconds(self, pace: Pace) -> tuple[float, float]:
        """Give the seconds that the instances and that the bytes are worth at a pace."""
        instances = self.instances / pace.instances if pace.instances else 0.0
        return instances, self.bytes / pace.bytes if pace.bytes else 0.0


NOTHING = Amount()


class TokensReply(NamedTuple):
    """The reply to a request for tokens."""

    granted: bool
    #: Until the work may begin, or if it is not granted, until the next request.
    seconds: float


class TokenBuckets:
    """The tokens of all remotes in one Redis. A remote goes by its :func:`.leases.name_of`."""

    def __init__(self, client: redis.Redis) -> None:
        self._scripts = Scripts(client, "fleet")

    def take(
        self, remote: str, pace: Pace, wanted: Amount, owed: Amount, patience: float, *, left: Amount = NOTHING
    ) -> TokensReply:
        """Take tokens.

        Parameters
        ----------
        owed
            What was done without tokens; negative what was taken and not done.
        patience
            The tokens are granted only if the work may begin within so many seconds.
        left
            What the caller has to do in all, if that is more.
        """
        spacing = min(max(*wanted.seconds(pace), *left.seconds(pace)), _LONGEST_SPACING)
        arguments = [*wanted.seconds(pace), *owed.seconds(pace), patience, LATENESS, LONGEST_AWAY, spacing]
        granted, seconds = self._scripts.run("take_tokens", [f"{_PREFIX}:tokens:{remote}"], arguments)
        return TokensReply(bool(granted), float(seconds))


class HoursWait(NamedTuple):
    """A job that waits for the hours of a remote, until when, in Unix seconds."""

    job_id: str
    remote: str
    until: float


class HoursWaits:
    """The jobs that wait for the hours of their remotes in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = Scripts(client, "fleet")

    def add(self, wait: HoursWait, reason: str) -> None:
        """Have a job wait."""
        job = job_key(wait.job_id)
        fields: dict[Any, Any] = {
            "waiting": wait.remote,
            "waiting_since": f"{server_time(self._redis):.3f}",
            "waiting_until": f"{wait.until:.3f}",
            "waiting_reason": reason,
        }
        with self._redis.pipeline() as together:
            together.hset(_HOURS, wait.job_id, f"{wait.until:.3f} {wait.remote}")
            together.hset(job, mapping=fields)
            together.execute()

    def all(self) -> list[HoursWait]:
        """Read the jobs that wait."""
        found = cast("dict[str, str]", self._redis.hgetall(_HOURS))
        texts = ((job_id, *text.partition(" ")) for job_id, text in found.items())
        return [HoursWait(job_id, remote, float(until)) for job_id, until, _, remote in texts]

    def end(self, job_id: str) -> bool:
        """End the wait of a job; true if the caller shall go on with the job."""
        return bool(self._scripts.run("end_wait", [_HOURS, job_key(job_id)], [job_id]))
