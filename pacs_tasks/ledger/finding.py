"""Find a job by what a user writes for it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

from pacs_tasks.errors import InvalidRequestError, JobNotFoundError
from pacs_tasks.ledger.keys import JOBS, checked_job_key, job_key, not_found
from pacs_tasks.operations import OPERATIONS

if TYPE_CHECKING:
    import redis

#: What users write for the newest job.
LAST = "last"
_CHUNK = 1_000


def find(client: redis.Redis, text: str, tasks: Collection[str] = ()) -> str:
    """Find the id of a job that a user names by its id, by a unique beginning of it, or as ``last``.

    Parameters
    ----------
    tasks
        The public tasks that ``last`` may have; empty for any.

    Raises
    ------
    JobNotFoundError
        If there is no such job.
    InvalidRequestError
        If several ids begin so.
    """
    if client.exists(checked_job_key(text)):
        return text
    if text == LAST:
        return _last(client, tasks)
    beginning = re.sub(r"([][*?^\\])", r"\\\1", text)
    found = [cast(str, each) for each, _ in client.zscan_iter(JOBS, match=f"{beginning}*", count=_CHUNK)]
    found = sorted({each for each in found if text and client.exists(job_key(each))})
    if len(found) > 1:
        raise InvalidRequestError(
            f"{len(found)} jobs have an id that begins with {text!r}. Write more of it, such as {found[0]}."
        )
    if not found:
        raise not_found(text)
    return found[0]


def _last(client: redis.Redis, tasks: Collection[str]) -> str:
    start, newest = 0, [LAST]
    while newest:
        newest = cast("list[str]", client.zrevrange(JOBS, start, start + _CHUNK - 1))
        for job_id in newest:
            task = client.hget(job_key(job_id), "task")
            if task is not None and (not tasks or task in tasks):
                return job_id
        start += _CHUNK
    if not tasks:
        raise JobNotFoundError("There is no job yet. Each send, query or retrieve makes one.")
    commands = ", ".join(sorted(OPERATIONS[task].command for task in tasks))
    raise JobNotFoundError(
        f"There is no job of these commands: {commands}. Run `pacs-tasks jobs` to list the known jobs."
    )
