"""What follows the tasks that other services published."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pacs_tasks.ledger.keys import CALLERS, job_key
from pacs_tasks.ledger.seals import Seals

if TYPE_CHECKING:
    import redis

#: Seconds until the end of a job is published again if Celery still does not have it.
_PUBLISH_AGAIN = 60


class Callers:
    """What follows the tasks that other services published: callbacks, the rest of a chain, a group, a chord, as text.

    Only the first message of a task contains it. A job whose message was lost, or which waited for its remote, goes on
    with a message of ours. So it is recorded until Celery has the end of the task.
    """

    def __init__(self, client: redis.Redis, seals: Seals) -> None:
        self._redis, self._seals = client, seals

    def follows(self, job_id: str) -> str | None:
        """Read what follows the task of a job; None if another service did not publish it or already has its end."""
        text = cast("str | None", self._redis.hget(CALLERS, job_id))
        return self._seals.of(job_id).unseal(text, "follows") if text else text

    def waiting(self) -> list[str]:
        """Read the ids of the jobs whose end Celery does not have yet."""
        return cast("list[str]", self._redis.hkeys(CALLERS))

    def begin_publishing(self, job_id: str) -> bool:
        """Return whether the end of a job may be published now; only one worker a minute does so."""
        return bool(self._redis.set(job_key(job_id, "ending"), 1, nx=True, ex=_PUBLISH_AGAIN))

    def forget(self, job_id: str) -> None:
        """Celery has the end of the task, or the record of the job has expired."""
        self._redis.hdel(CALLERS, job_id)
