"""Dead letters: messages that no worker serves, kept in Redis with the reason until somebody has read them.

Nothing takes them up again by itself. The newest :data:`MOST` are kept, each for as long as a job.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pacs_tasks.errors import InvalidRequestError, JobNotFoundError
from pacs_tasks.operations import MESSAGE_PRIORITIES, queue_key
from pacs_tasks.sealing import sealing_of

if TYPE_CHECKING:
    import redis

#: Letters that are kept, and bytes of the message of each: the longest that they may take in Redis is 64 MB.
MOST = 500
LONGEST = 96 << 10

#: The key of the letters.
LETTERS = "pacs_tasks:dead_letters"


def _content_key(letter_id: str) -> str:
    return f"pacs_tasks:dead_letter:{letter_id}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that no worker serves."""

    id: str
    #: Where it came from.
    queue: str
    #: Why it was refused.
    reason: str
    #: The task and the job that it names; empty if these are not readable.
    task: str
    job_id: str
    #: Bytes of the message.
    size: int
    #: Whether the whole message is kept, so that it can be enqueued again.
    whole: bool
    #: When it was refused, in seconds since 1970.
    time: float


class DeadLetters:
    """The dead letters of one Redis.

    Parameters
    ----------
    client
        Any client of that Redis.
    keep
        Seconds to keep a letter.
    """

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep

    def add(self, raw: bytes, queue: str, reason: str, task: str = "", job_id: str = "") -> DeadLetter:
        """Keep a message that was refused."""
        letter = DeadLetter(
            id=uuid.uuid4().hex[:12],
            queue=queue,
            reason=reason,
            task=task,
            job_id=job_id,
            size=len(raw),
            whole=len(raw) <= LONGEST,
            time=time.time(),
        )
        with self._redis.pipeline() as pipe:
            content = base64.b64encode(raw[:LONGEST]).decode()
            pipe.set(_content_key(letter.id), sealing_of(self._redis).seal(content, letter.id), ex=self._keep)
            pipe.lpush(LETTERS, json.dumps(asdict(letter)))
            pipe.lrange(LETTERS, MOST, -1)
            pipe.ltrim(LETTERS, 0, MOST - 1)
            pipe.expire(LETTERS, self._keep)
            too_many = pipe.execute()[2]
        if too_many:
            self._redis.delete(*(_content_key(_letter(each).id) for each in too_many))
        return letter

    def count(self) -> int:
        """Count the letters."""
        return int(self._redis.llen(LETTERS))

    def all(self) -> list[DeadLetter]:
        """Read all letters, the newest first."""
        return [_letter(each) for each in self._redis.lrange(LETTERS, 0, -1)]

    def find(self, letter_id: str) -> DeadLetter:
        """Read the letter whose id is this or begins so.

        Raises
        ------
        JobNotFoundError
            If there is none, or several.
        """
        found = [each for each in self.all() if letter_id and each.id.startswith(letter_id)]
        if len(found) != 1:
            raise JobNotFoundError("No dead letter has this id. Run `pacs-tasks dead-letters` to list them.")
        return found[0]

    def content(self, letter: DeadLetter) -> bytes:
        """Read the message, or its beginning if it is not whole; it may contain patient data."""
        found = self._redis.get(_content_key(letter.id)) or ""
        text = found.decode() if isinstance(found, bytes) else str(found)
        # Base64 has no full stop, and what is encrypted has one.
        return base64.b64decode(sealing_of(self._redis).unseal(text, letter.id) if "." in text else text)

    def delete(self, letter: DeadLetter) -> None:
        """Forget a letter."""
        with self._redis.pipeline() as pipe:
            pipe.lrem(LETTERS, 1, json.dumps(asdict(letter)))
            pipe.delete(_content_key(letter.id))
            pipe.execute()

    def purge(self, job_ids: Collection[str], before: float) -> int:
        """Forget the letters of these jobs, and those that were refused before a time in seconds since 1970."""
        found = [each for each in self.all() if each.job_id in job_ids or each.time < before]
        for each in found:
            self.delete(each)
        return len(found)

    def enqueue_again(self, letter: DeadLetter) -> None:
        """Put the message back into its queue, with its priority, after what made workers refuse it was changed.

        Raises
        ------
        InvalidRequestError
            If only its beginning is kept.
        """
        content = self.content(letter)
        if not letter.whole or not content:
            raise InvalidRequestError(
                "This message is not kept whole, so it cannot be enqueued again. Enqueue its request anew."
            )
        self._redis.lpush(queue_key(letter.queue, _priority_of(content)), content)
        self.delete(letter)


def _priority_of(content: bytes) -> int:
    """Read the priority of a message of whatever form."""
    try:
        return int(json.loads(content)["properties"]["priority"])
    except (LookupError, TypeError, ValueError, RecursionError):
        return MESSAGE_PRIORITIES[0]


def _letter(text: str | bytes) -> DeadLetter:
    return DeadLetter(**json.loads(text))
