"""Which remotes are down.

After a few failures in a row to get an association, a remote counts as down: its jobs are parked, a probe tries the
remote at growing intervals, and the jobs go on within seconds of its return. Each method is one step inside Redis and
may be repeated.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.ledger.keys import Scripts, job_key

if TYPE_CHECKING:
    import redis

#: Failures in a row, over the whole fleet, after which a remote counts as down.
MOST_FAILURES = 3
#: Seconds within which these failures must come.
_MEMORY = 120
#: Seconds between two probes: the first, and the most. The return of a remote is noticed this late.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 8.0
#: Seconds that a probe may take before another worker makes one instead.
_PROBE_LIMIT = 30.0
#: Seconds to remember an outage after the last probe.
_KEPT = 7 * 86_400

_OUTAGE = "pacs_tasks:outage"
_OUTAGES = f"{_OUTAGE}s"


class Probe(NamedTuple):
    """A remote to probe now."""

    name: str
    local: LocalAE
    remote: RemoteAE


class Outage(NamedTuple):
    """A remote that is down, since when in Unix seconds, why, and how many jobs wait for it."""

    name: str
    since: float
    reason: str
    jobs: int


class Outages:
    """The outages of all remotes in one Redis. The name of a remote is any text that is unique to it."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = Scripts(client, "fleet")

    def record_failure(self, name: str, local: LocalAE, remote: RemoteAE, reason: str) -> bool:
        """Record that no association could be had; return whether the remote counts as down now."""
        about = json.dumps({"local": local.model_dump(mode="json"), "remote": remote.model_dump(mode="json")})
        arguments = (MOST_FAILURES, _MEMORY, _KEPT, about, reason, _FIRST_PAUSE)
        return bool(self._run("record_failure", name, *arguments))

    def forget_failures(self, name: str) -> None:
        """Record that an association was had before the remote counted as down."""
        self._run("forget_failures", name)

    def is_down(self, name: str) -> bool:
        """Return whether a remote counts as down."""
        return self._redis.zscore(_OUTAGES, name) is not None

    def park(self, name: str, job_id: str, patience: float) -> bool:
        """Have a job wait for the return of the remote; false if it is back already.

        Parameters
        ----------
        patience
            Seconds after which the job gives up, from its first wait in this outage.
        """
        return bool(self._run("park", name, job_id, patience, job_key("")))

    def due(self) -> list[Probe]:
        """Give the remotes to probe now. Only the caller probes them meanwhile."""
        probes = []
        for name, text in self._run("due", "", _PROBE_LIMIT, f"{_OUTAGE}:"):
            about = json.loads(text)
            local, remote = LocalAE.model_validate(about["local"]), RemoteAE.model_validate(about["remote"])
            probes.append(Probe(name, local, remote))
        return probes

    def probe_now(self, name: str) -> None:
        """Have a remote that is down probed at once."""
        self._redis.zadd(_OUTAGES, {name: 0}, xx=True)

    def still_down(self, name: str) -> list[str]:
        """Record a probe without an answer; return the jobs whose patience has ended."""
        return [str(each) for each in self._run("still_down", name, _LONGEST_PAUSE, _KEPT, job_key(""))]

    def end(self, name: str) -> list[str]:
        """Record that a remote is back; return the jobs that waited for it."""
        return [str(each) for each in self._run("end_outage", name, job_key(""))]

    def all(self) -> list[Outage]:
        """Read every remote that is down, by name."""
        found = []
        for name in sorted(cast("list[str]", self._redis.zrange(_OUTAGES, 0, -1))):
            since, reason = cast("list[str | None]", self._redis.hmget(f"{_OUTAGE}:{name}", ["since", "reason"]))
            jobs = self._redis.hlen(f"{_OUTAGE}:{name}:jobs")
            found.append(Outage(name, float(since or 0), reason or "", jobs))
        return found

    def _run(self, script: str, name: str, *arguments: Any) -> Any:
        keys = [f"{_OUTAGE}:{name}", f"{_OUTAGE}:{name}:jobs", _OUTAGES]
        return self._scripts.run(script, keys, [name, *arguments])
