"""Associations that stay open between the tasks of one worker process.

A part of fifty small files takes less time than an association costs, so the next part for the same peer goes on
where the last one ended. An association that nothing uses is released after ``association_idle`` seconds: peers have
few of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.association import Association, Context, StopCheck, Timeouts
from pacs_tasks.errors import AssociationError
from pacs_tasks.settings import settings

logger = logging.getLogger(__name__)


class _Idle:
    """The associations that no task uses now; safe in prefork and in threads pools."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._idle: list[tuple[float, Association]] = []
        self._releaser: threading.Thread | None = None

    def take(
        self, local: LocalAE, remote: RemoteAE, contexts: Sequence[Context], limits: Timeouts
    ) -> Association | None:
        """An idle association to the same peer on which all of ``contexts`` were proposed."""
        pairs = [(cx.abstract_syntax, syntax) for cx in contexts for syntax in cx.transfer_syntaxes]
        with self._lock:
            for place, (_, assoc) in enumerate(self._idle):
                same = (assoc.local, assoc.remote, assoc.timeouts) == (local, remote, limits)
                if same and assoc.covers(pairs):
                    del self._idle[place]
                    break
            else:
                return None
        if assoc.reusable():
            return assoc
        assoc.abort()
        return None

    def give_back(self, assoc: Association) -> None:
        with self._changed:
            self._idle.append((time.monotonic() + settings().association_idle, assoc))
            if self._releaser is None:
                self._releaser = threading.Thread(target=self._release_idle, name="idle-associations", daemon=True)
                self._releaser.start()
            self._changed.notify()

    def close_all(self) -> None:
        with self._changed:
            idle, self._idle = self._idle, []
            self._changed.notify()
        for _, assoc in idle:
            _release(assoc)

    def _release_idle(self) -> None:
        while True:
            with self._changed:
                if not self._idle:
                    self._releaser = None
                    return
                now = time.monotonic()
                due = [assoc for until, assoc in self._idle if until <= now]
                self._idle = [each for each in self._idle if each[0] > now]
                if not due:
                    self._changed.wait(min(until for until, _ in self._idle) - now)
            for assoc in due:
                _release(assoc)


def _release(assoc: Association) -> None:
    try:
        assoc.release()
    except AssociationError as error:
        logger.debug("an idle association ended before it was released: %s", error.message)


_idle = _Idle()


@contextmanager
def lent(
    local: LocalAE, remote: RemoteAE, contexts: Sequence[Context], limits: Timeouts, stop: StopCheck
) -> Iterator[Association]:
    """An association for the block, reused if an idle one fits; kept for the next block unless this one fails.

    Raises
    ------
    AssociationError
        As :meth:`pacs_tasks.dimse.association.Association.open` does.
    """
    assoc = _idle.take(local, remote, contexts, limits)
    if assoc is None:
        assoc = Association.open(local, remote, contexts, limits, stop, window=settings().operations_window)
    assoc.stop = stop
    try:
        yield assoc
    except BaseException:
        assoc.abort()
        raise
    assoc.stop = None
    if settings().association_idle and assoc.reusable():
        _idle.give_back(assoc)
    else:
        _release(assoc)


def close_all() -> None:
    """Release every idle association of this process."""
    _idle.close_all()
