"""C-CANCEL: stop a C-FIND, C-MOVE or C-GET, and wait briefly for its final status (PS3.7 section 9.3.2.3)."""

from __future__ import annotations

import time
from typing import Self

from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.wire import Watch
from pacs_tasks.errors import JobCancelledError

#: Seconds that the remote has for its final status. Some ignore C-CANCEL.
FINAL_STATUS_LIMIT = 2.0


class Cancellation:
    """Cancels one request once ``assoc.stop`` returns True or :meth:`cancel` is called.

    It is a context manager and replaces the watch of the association meanwhile. If the final status does not arrive in
    time, reading raises :class:`JobCancelledError`.
    """

    def __init__(self, assoc: Association, context_id: int, message_id: int) -> None:
        self._assoc = assoc
        self._context_id = context_id
        self._message_id = message_id
        self._deadline: float | None = None
        self._before: Watch | None = None

    @property
    def cancelled(self) -> bool:
        """Whether C-CANCEL has been sent."""
        return self._deadline is not None

    def cancel(self) -> None:
        """Send C-CANCEL, once."""
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + FINAL_STATUS_LIMIT
        elements: dict[int, int | str] = {
            command.COMMAND_FIELD: command.C_CANCEL_RQ,
            command.MESSAGE_ID_RESPONDED_TO: self._message_id,
        }
        self._assoc.send(self._context_id, command.encode(elements, data_set=False))

    def _check(self) -> None:
        """Called about four times a second while reading or sending."""
        if self._deadline is not None:
            # A message on its way out may be the response to an instance that is complete on disk: allow it more time.
            late = FINAL_STATUS_LIMIT if self._assoc.wire.sending else 0.0
            if time.monotonic() > self._deadline + late:
                raise JobCancelledError(
                    f"{self._assoc.remote} did not stop within {FINAL_STATUS_LIMIT:g} s of C-CANCEL, so we aborted "
                    "the association."
                )
        elif self._assoc.stop is not None and self._assoc.stop() and not self._assoc.wire.sending:
            # C-CANCEL must not be sent within another message; the next check will do.
            self.cancel()

    def __enter__(self) -> Self:
        self._before = self._assoc.wire.watch
        self._assoc.wire.watch = self._check
        return self

    def __exit__(self, *_: object) -> None:
        self._assoc.wire.watch = self._before
