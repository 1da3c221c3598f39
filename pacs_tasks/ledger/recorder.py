"""Outcomes on their way to the ledger: each is sent the moment it is known, and its reply is read while others go on.

Waiting for Redis after each file took a third of the time of a part of small files. A reply only tells whether the job
was cancelled or has ended, which may be known a few files later.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import redis

from pacs_tasks.ledger import scripts
from pacs_tasks.ledger.jobs import Ledger, Recorded
from pacs_tasks.outcome import InstanceOutcome

#: Replies that may be outstanding.
_MOST = 32

_NOTHING = Recorded(new=False, cancelled=False, ended=False)


class Recorder:
    """Records the outcomes of one part over a connection of its own; a context manager.

    Where anything goes wrong with that connection, what has no reply is recorded again by :meth:`Ledger.record`, which
    has patience, and which counts nothing twice.
    """

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger, self.job_id = ledger, job_id
        # A Redis that has just started would answer that it does not know it, which is read much later.
        self._sha = str(ledger.client.script_load(scripts.RECORD))
        self._pool = ledger.client.connection_pool
        self._connection = self._pool.get_connection()
        self._unread: deque[tuple[int, InstanceOutcome]] = deque()
        #: What is unread has no reply to come: the connection it was sent on is gone.
        self._lost = False

    def record(self, index: int, outcome: InstanceOutcome) -> Recorded:
        """Send an outcome; what the replies told that were read meanwhile.

        Raises
        ------
        BrokerUnavailableError
            If the ledger does not answer for about a minute.
        """
        self._unread.append((index, outcome))
        keys, arguments = self._ledger.recording(self.job_id, index, outcome)
        try:
            command = ("EVALSHA", self._sha, len(keys), *keys, *arguments)
            self._connection.send_command(*command, check_health=False)  # type: ignore[no-untyped-call]
            return self._read(_MOST)
        except (redis.RedisError, OSError):
            return self._record_again()

    def flush(self) -> Recorded:
        """Wait for all replies; what they told."""
        if self._lost:
            return self._record_again()
        try:
            return self._read(0)
        except (redis.RedisError, OSError):
            return self._record_again()

    def _read(self, most: int) -> Recorded:
        """Read until at most so many replies are outstanding."""
        told = _NOTHING
        while len(self._unread) > most:
            reply = self._connection.read_response()
            told = _both(told, self._ledger.recorded_as(self.job_id, reply))
            self._unread.popleft()
        return told

    def _record_again(self) -> Recorded:
        # Whatever interrupts us, even the order to end this process: what is left is begun again from here.
        self._lost = True
        self._connection.disconnect()  # type: ignore[no-untyped-call]
        told = _NOTHING
        while self._unread:
            index, outcome = self._unread[0]
            told = _both(told, self._ledger.record(self.job_id, index, outcome))
            self._unread.popleft()
        self._lost = False
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unread:
            # Replies that nobody reads must not be taken for those of the next who has this connection.
            self._connection.disconnect()  # type: ignore[no-untyped-call]
        self._pool.release(self._connection)


def _both(one: Recorded, other: Recorded) -> Recorded:
    return Recorded(one.new or other.new, one.cancelled or other.cancelled, one.ended or other.ended)
