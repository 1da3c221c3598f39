"""The recorder of outcomes: it sends each to Redis at once and reads the replies later, while further files are sent.

Waiting for each reply took a third of the time of a part of small files. A reply only reports whether the job was
cancelled or has ended, which may be noticed a few files later.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any, Self

import redis

from pacs_tasks.ledger.jobs import Ledger, Recorded
from pacs_tasks.ledger.keys import source
from pacs_tasks.outcome import InstanceOutcome

#: Replies that may be outstanding.
_MOST = 32

_NOTHING = Recorded(new=False, cancelled=False, ended=False)


class Recorder:
    """Records the outcomes of one part over a connection of its own; a context manager.

    If that connection fails, :meth:`Ledger.record` records the outcomes without a reply again: it waits for Redis and
    counts nothing twice.
    """

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger, self.job_id = ledger, job_id
        # A Redis that has just started does not know the script, and that reply would be read much later.
        self._sha = str(ledger.client.script_load(source("ledger", "jobs/record")))
        self._pool = ledger.client.connection_pool
        self._connection: Any = self._pool.get_connection()
        self._unread: deque[tuple[int, InstanceOutcome]] = deque()
        #: The connection has failed, so no reply comes for the unread outcomes.
        self._lost = False

    def record(self, index: int, outcome: InstanceOutcome) -> Recorded:
        """Send an outcome; return what earlier replies reported.

        Raises
        ------
        BrokerUnavailableError
            If Redis does not answer for about a minute.
        """
        self._unread.append((index, outcome))
        keys, arguments = self._ledger.record_command(self.job_id, index, outcome)
        try:
            command = ("EVALSHA", self._sha, len(keys), *keys, *arguments)
            self._connection.send_command(*command, check_health=False)
            return self._read(_MOST)
        except (redis.RedisError, OSError):
            return self._record_again()

    def flush(self) -> Recorded:
        """Wait for all replies; return what they reported."""
        if self._lost:
            return self._record_again()
        try:
            return self._read(0)
        except (redis.RedisError, OSError):
            return self._record_again()

    def _read(self, most: int) -> Recorded:
        """Read replies until at most so many are outstanding."""
        found = _NOTHING
        while len(self._unread) > most:
            reply = self._connection.read_response()
            found = _either(found, self._ledger.read_recorded(self.job_id, reply))
            self._unread.popleft()
        return found

    def _record_again(self) -> Recorded:
        # If anything interrupts this, even the order to end the process, the next call goes on from here.
        self._lost = True
        self._connection.disconnect()
        found = _NOTHING
        while self._unread:
            index, outcome = self._unread[0]
            found = _either(found, self._ledger.record(self.job_id, index, outcome))
            self._unread.popleft()
        self._lost = False
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unread:
            # The next user of this connection must not read replies that are not its own.
            self._connection.disconnect()
        self._pool.release(self._connection)


def _either(one: Recorded, other: Recorded) -> Recorded:
    return Recorded(one.new or other.new, one.cancelled or other.cancelled, one.ended or other.ended)
