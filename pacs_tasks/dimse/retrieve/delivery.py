"""The course of a C-MOVE or C-GET: cancelled, stuck, or complete before the peer says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from pacs_tasks.dimse.cancellation import Cancellation
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import PeerStalledError
from pacs_tasks.outcome import Status, StatusCategory, Suboperations

#: Seconds that the final response may take after the last instance of all that was promised: nothing hangs on it.
FINAL_RESPONSE_LIMIT = 5.0


class Here(NamedTuple):
    """What has come so far: how many instances, promised or not, and whether that is all that was promised."""

    number: int
    complete: bool


#: Tells what has come. It is called about four times a second, and may raise.
Look = Callable[[], Here]


class AllHereError(Exception):
    """All that was promised is here, and the final response does not come."""


class Delivery(Cancellation):
    """Watches one C-MOVE or C-GET, as :class:`Cancellation`, and how it gets on.

    Raises
    ------
    PeerStalledError
        From reading, when neither an instance nor other counts have come for ``timeouts.progress`` seconds: pending
        responses alone keep the peer from being silent, for ever if it likes.
    AllHereError
        From reading, when the final response is late and nothing hangs on it.

    Attributes
    ----------
    receiving
        An instance is on its way on this very association; it may take its time.
    """

    def __init__(self, assoc: Association, context_id: int, message_id: int, look: Look | None = None) -> None:
        super().__init__(assoc, context_id, message_id)
        self._tell = look
        self._here = Here(0, complete=False) if look is None else look()
        #: How many had come before this request.
        self._had = self._here.number
        self._counts: Suboperations | None = None
        self._since = time.monotonic()
        self.receiving = False

    def counted(self, counts: Suboperations) -> None:
        """A pending response has come, with these counts."""
        if counts != self._counts:
            self._counts, self._since = counts, time.monotonic()

    def received(self) -> None:
        """What was on its way has come."""
        self.receiving, self._since = False, time.monotonic()

    def _look(self) -> None:
        super()._look()
        if self._tell is not None:
            here = self._tell()
            if here != self._here:
                self._here, self._since = here, time.monotonic()
                self._assoc.wire.note_activity()
        if not self.receiving and not self.asked:
            self._judge(time.monotonic() - self._since)

    def _more_to_come(self) -> bool:
        """Whether the peer counts more than has come: it may have promised less than it sends."""
        counts = self._counts
        return counts is not None and counts.total - counts.failed > self._here.number - self._had

    def _judge(self, seconds: float) -> None:
        limit = self._assoc.timeouts.progress
        if self._here.complete and seconds > (limit if self._more_to_come() else FINAL_RESPONSE_LIMIT):
            raise AllHereError
        if seconds > limit:
            self._assoc.abort()
            raise PeerStalledError(
                f"{self._assoc.remote} is not silent, but for {limit:g} s neither an instance came nor did its counts "
                "change; its log tells more, and PACS_TASKS_PROGRESS_TIMEOUT allows it more"
            )


def unfinished(remote: object) -> Status:
    """The status of what is complete without the peer's last word."""
    meaning = f"all that was promised is here; {remote} did not send its final response"
    return Status(code=0xFF00, category=StatusCategory.PENDING, meaning=meaning)
