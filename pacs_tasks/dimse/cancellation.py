"""C-CANCEL: ask the peer to stop, wait a little for its last word (PS3.7 section 9.3.2.3)."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.wire import Watch
from pacs_tasks.errors import JobCancelledError

#: Seconds that the peer has for its final status. Some ignore C-CANCEL.
FINAL_STATUS_LIMIT = 2.0


class Cancellation:
    """Watches one C-FIND, C-MOVE or C-GET and cancels it once ``assoc.stop`` says so, or :meth:`ask` is called.

    It is a context manager that has the association's watch for as long. When the final status does not come in time,
    reading ends with :class:`JobCancelledError`.
    """

    def __init__(self, assoc: Association, context_id: int, message_id: int) -> None:
        self._assoc = assoc
        self._context_id = context_id
        self._message_id = message_id
        self._until: float | None = None
        self._before: Watch | None = None

    @property
    def asked(self) -> bool:
        return self._until is not None

    def ask(self) -> None:
        """Send C-CANCEL, once."""
        if self._until is not None:
            return
        self._until = time.monotonic() + FINAL_STATUS_LIMIT
        elements: dict[int, int | str] = {
            command.COMMAND_FIELD: command.C_CANCEL_RQ,
            command.MESSAGE_ID_RESPONDED_TO: self._message_id,
        }
        self._assoc.send(self._context_id, command.encode(elements, data_set=False))

    def _look(self) -> None:
        if self._until is not None:
            # What goes out may be the answer to an instance that is whole on disk: it is to be told, so it has as long.
            late = FINAL_STATUS_LIMIT if self._assoc.wire.sending else 0.0
            if time.monotonic() > self._until + late:
                raise JobCancelledError(
                    f"{self._assoc.remote} did not stop within {FINAL_STATUS_LIMIT:g} s of C-CANCEL; "
                    "the association was aborted"
                )
        elif self._assoc.stop is not None and self._assoc.stop() and not self._assoc.wire.sending:
            # Not in the middle of a message that goes out: the next look will do.
            self.ask()

    def __enter__(self) -> Self:
        self._before = self._assoc.wire.watch
        self._assoc.wire.watch = self._look
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._assoc.wire.watch = self._before
