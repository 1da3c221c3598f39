"""The encryption of each job: its key stands, encrypted, in the record of the job."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, cast

from pacs_tasks.errors import MissingKeyError
from pacs_tasks.ledger.keys import JOBS, SEALED_KEY, Scripts, job_key
from pacs_tasks.sealing import Sealer, sealing_of

if TYPE_CHECKING:
    import redis

#: Jobs whose key is remembered.
_MOST = 256


class Seals:
    """The encryption of every job in one Redis.

    What is read of a job anyway renews what is remembered here, since an id may be used again after its job expired.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._sealing = sealing_of(client)
        self._known: OrderedDict[str, tuple[str, Sealer]] = OrderedDict()

    def begin(self, job_id: str) -> tuple[str, Sealer]:
        """Make the key of a new job: the text for its record, and its encryption."""
        sealed_key = self._sealing.begin(job_id)
        # It is not remembered: another process may have opened the job.
        return sealed_key, self._sealing.of_job(job_id, sealed_key) if sealed_key else self._sealing.of_nobody()

    def of(self, job_id: str) -> Sealer:
        """Give the encryption of a job."""
        known = self._known.get(job_id)
        if known is not None:
            return known[1]
        sealed_key, state = cast("list[str | None]", self._redis.hmget(job_key(job_id), [SEALED_KEY, "state"]))
        return self.read(job_id, sealed_key) if state else self._sealing.of_nobody()

    def read(self, job_id: str, sealed_key: str | None) -> Sealer:
        """Give the encryption of a job of whose record the field ``SEALED_KEY`` was just read."""
        known = self._known.get(job_id)
        if known is not None and known[0] == (sealed_key or ""):
            return known[1]
        found = self._sealing.of_job(job_id, sealed_key or "")
        self._known[job_id] = sealed_key or "", found
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return found


class Rotation(NamedTuple):
    """How many jobs changed to the first key, have it already, are not encrypted, or have a key that is missing."""

    rotated: int
    current: int
    plain: int
    missing: int


def rotate(client: redis.Redis) -> Rotation:
    """Encrypt the key of every job with the first key of the fleet. Jobs go on meanwhile."""
    sealing, run = sealing_of(client), Scripts(client).run
    counts = dict.fromkeys(Rotation._fields, 0)
    for job_id in cast("list[str]", client.zrange(JOBS, 0, -1)):
        sealed_key, state = cast("list[str | None]", client.hmget(job_key(job_id), [SEALED_KEY, "state"]))
        if state is None:
            continue  # Its record has expired.
        if not sealed_key:
            counts["plain"] += 1
        elif sealing.is_current(sealed_key):
            counts["current"] += 1
        else:
            try:
                new = sealing.again(job_id, sealed_key)
            except MissingKeyError:
                counts["missing"] += 1
                continue
            counts["rotated"] += int(run("replace", [job_key(job_id)], [SEALED_KEY, sealed_key, new]))
    return Rotation(**counts)
