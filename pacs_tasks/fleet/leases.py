"""The leases of associations with each remote.

Each association needs a lease. A lease in Redis expires ``LIFETIME`` seconds after its last renewal, so those of a
dead worker become free by themselves. If no lease is free, a task waits: a lease that becomes free goes to a waiting
task and wakes it at once. The highest class goes first, within a class the job that holds the fewest leases, within a
job the longest wait; a lower class gets a twentieth in any case. Holders learn between two files whether somebody waits
to whom a lease belongs rather than to them. Each method is one step inside Redis and may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pacs_tasks.ae import RemoteAE, Value
from pacs_tasks.ledger.keys import Scripts, server_time

if TYPE_CHECKING:
    import redis

#: Seconds after the last renewal at which a lease expires.
LIFETIME = 15.0
#: Associations with a remote of which nothing is known, as in ``lua/leases.lua``.
START = 4
#: Seconds after the last request at which a waiting task counts as dead. It requests again every half second.
_WAITER_LIFETIME = 3.0
#: Seconds to remember an unmet request for a lease, and that a remote refuses associations.
_WANTED_LIFETIME = 1
_REFUSAL_LIFETIME = 90
#: Seconds within which a holder ends an association that it gives back.
_GRACE = 5.0
#: Seconds between the returns of two parts to one remote, and the longest that a part stays away.
_SPACING = 0.05
_LONGEST_AWAY = 30.0

_LEASES = "pacs_tasks:associations"


class LeaseClass(IntEnum):
    """How urgently an association is wanted; ``STAT`` also where somebody waits for a single answer."""

    STAT = 0
    NORMAL = 1
    BULK = 2


class Associations(Value):
    """How many associations with a remote are in use, how many may be, and how many tasks wait for one.

    The limit follows from what the fleet has measured; the ceiling is ``max_associations``.
    """

    remote: str
    in_use: int
    limit: int
    waiting: int
    ceiling: int = 0
    #: Instances a second in the last measurement, and usual seconds from request to response. None: not measured.
    rate: float | None = None
    response_time: float | None = None


class LeaseReply(NamedTuple):
    """The reply to a request for a lease."""

    granted: bool
    #: Seconds until the next lease expires.
    patience: float
    #: The remote has refused associations, and accepted none since.
    refusing: bool


def name_of(remote: RemoteAE) -> str:
    """Name a remote by its AE title and address."""
    return f"{remote.ae_title} at {remote.host.lower()}:{remote.port}"


def lease_name(lease_class: LeaseClass, job_id: str, holder: str) -> str:
    """Name a lease for a job. ``holder`` is unique: three words without a space in them."""
    return f"{lease_class.value} {job_id} {holder}"


def group_of(lease: str) -> str:
    """Return the class and the job of a lease."""
    return lease.rsplit(" ", 3)[0]


class AssociationLeases:
    """The leases of all remotes in one Redis. A remote goes by its :func:`name_of`.

    A lease is any unique text; one that is no :func:`lease_name` is of the normal class, and of a job of its own.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = Scripts(client, "fleet")

    def request(self, remote: str, lease: str, limit: int, *, wait: bool, spare: bool = False) -> LeaseReply:
        """Request a lease.

        Parameters
        ----------
        limit
            How many leases of this remote there may be.
        wait
            Wait if no lease is free, until it is granted, released, or not requested any more.
        spare
            Do not ask anybody to release an idle association for it.
        """
        arguments = [lease, int(wait), _WAITER_LIFETIME, 0 if spare else _WANTED_LIFETIME]
        granted, patience, refusing = self._run("request_lease", remote, limit, *arguments)
        return LeaseReply(bool(granted), float(patience), bool(refusing))

    def wait(self, lease: str, seconds: float) -> bool:
        """Wait until a requested lease is granted; false if it is not in that time."""
        return self._redis.blpop([_key("wake", lease)], timeout=seconds) is not None

    def release(self, remote: str, lease: str, limit: int) -> None:
        """Release a lease, or stop waiting for it. The next waiting task gets it."""
        self._run("release_lease", remote, limit, lease)

    def must_yield(self, remote: str, lease: str, limit: int, age: float) -> bool:
        """Return whether a lease that was held for ``age`` seconds shall be given back now, for others.

        No other holder is asked to do so then, for a few seconds.
        """
        return bool(self._run("yield_lease", remote, limit, lease, age, _GRACE))

    def rename(self, remote: str, lease: str, name: str, limit: int) -> None:
        """Pass a lease on to another job, whose name for it is ``name``."""
        self._run("rename_lease", remote, limit, lease, name)

    def renew(self, remote: str, leases: Sequence[str], limit: int) -> None:
        """Renew leases for another ``LIFETIME`` seconds, expired ones as well: they are in use."""
        self._run("renew_leases", remote, limit, *leases)

    def record_refusal(self, remote: str, lease: str, limit: int, seconds: float) -> None:
        """Record that the remote refused the association; nobody else gets this lease for so many seconds."""
        self._run("rest_lease", remote, limit, lease, seconds, _REFUSAL_LIFETIME)

    def record_acceptance(self, remote: str) -> None:
        """Record that the remote has accepted an association after it refused some."""
        self._redis.delete(_key("refusing", remote))

    def refused_for(self, remote: str, since: float) -> float:
        """Give the seconds for which a remote has refused associations without accepting one.

        Parameters
        ----------
        since
            Unix seconds; earlier refusals do not count.
        """
        refusing = cast("str | None", self._redis.get(_key("refusing", remote)))
        return max(0.0, server_time(self._redis) - max(float(refusing), since)) if refusing else 0.0

    def record_wanted(self, remote: str) -> None:
        """Record that a task waits for the remote itself, which may have to end another association first."""
        self._redis.set(_key("wanted", remote), 1, ex=_WANTED_LIFETIME)

    def forget_wanted(self, remote: str) -> None:
        """Record that the remote has accepted the association that was waited for. Others who wait record it again."""
        self._redis.delete(_key("wanted", remote))

    def wanted(self, remote: str) -> bool:
        """Return whether a task waits for a lease or for the remote, or was granted no lease in the last second."""
        return bool(self._redis.exists(_key("waiting", remote), _key("wanted", remote)))

    def wanted_elsewhere(self, remote: str) -> bool:
        """Return whether a task waits for the remote itself, or was granted no lease in the last second."""
        return bool(self._redis.exists(_key("wanted", remote)))

    def schedule_return(self, remote: str, task_id: str, soonest: float, *, one_of_many: bool = False) -> float:
        """Give the seconds, at least ``soonest``, after which a task without a lease shall request one again.

        Each of many parts returns a twentieth of a second after the one before: many of them seldom crowd the remote,
        a few are soon back, and a lease that becomes free is soon used.
        """
        spacing = _SPACING if one_of_many else -_LONGEST_AWAY
        arguments = [task_id, soonest, spacing, _LONGEST_AWAY]
        return float(self._scripts.run("schedule_return", [_key("away", remote)], arguments))

    def room(self, remote: str) -> int:
        """Return how many more associations there may be with a remote than there are."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcount(_key("held", remote), f"({server_time(self._redis):.3f}", "+inf")
            pipe.zscore(_LEASES, remote)
            pipe.hget(tuning_key(remote), "limit")
            held, ceiling, tuned = pipe.execute()
        limit = _limit(START if ceiling is None else ceiling, None if tuned is None else float(tuned))
        return max(0, limit - int(held))

    def in_use(self) -> list[Associations]:
        """Read, by name, every remote with which an association is open or waited for."""
        now = f"{server_time(self._redis):.3f}"
        found = []
        for remote, ceiling in cast("list[tuple[str, float]]", self._redis.zrange(_LEASES, 0, -1, withscores=True)):
            in_use = self._redis.zcount(_key("held", remote), f"({now}", "+inf")
            waiting = self._redis.hlen(_key("waiting", remote))
            waiting += self._redis.zcount(_key("away", remote), now, "+inf")
            if in_use + waiting:
                fields = cast("list[str | None]", self._redis.hmget(tuning_key(remote), ["limit", "shown", "response"]))
                tuned, rate, response = (None if each is None else float(each) for each in fields)
                found.append(
                    Associations(
                        remote=remote,
                        in_use=in_use,
                        limit=_limit(ceiling, tuned),
                        waiting=waiting,
                        ceiling=int(ceiling),
                        rate=rate,
                        response_time=response,
                    )
                )
        return sorted(found, key=lambda each: each.remote)

    def _run(self, script: str, remote: str, limit: int, *arguments: Any) -> Any:
        return self._scripts.run(script, lease_keys(remote), [*lease_arguments(remote, limit), *arguments])


def _limit(ceiling: float, tuned: float | None) -> int:
    return min(int(ceiling), START if tuned is None else int(tuned))


def lease_keys(remote: str) -> list[str]:
    """Give the keys of ``lua/leases.lua``."""
    held, waiting, *others = (
        _key(kind, remote) for kind in ("held", "waiting", "refusing", "wanted", "going", "turns")
    )
    return [held, waiting, _LEASES, *others, tuning_key(remote)]


def lease_arguments(remote: str, limit: int) -> list[Any]:
    """Give the first arguments of ``lua/leases.lua``."""
    return [remote, limit, LIFETIME, _key("wake", "")]


def tuning_key(remote: str) -> str:
    """Give the key of what is measured of a remote."""
    return f"pacs_tasks:tuning:{remote}"


def _key(kind: str, name: str) -> str:
    return f"{_LEASES}:{kind}:{name}"
