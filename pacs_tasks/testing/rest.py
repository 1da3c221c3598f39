"""Lets the two threads of an idle association rest: pynetdicom has each look for work a thousand times a second."""

from __future__ import annotations

import threading
import time
from typing import Final

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

#: Seconds between two looks for work, until so many in a row have found none, and after that.
_LOOK: Final = 0.001
_MANY: Final = 500
_REST: Final = 0.02


class _Provider(DULServiceProvider):
    """The thread that reads and writes."""

    _in_vain = 0

    @property
    def is_idle(self) -> bool:
        return self._in_vain > _MANY

    def _process_recv_primitive(self) -> bool:
        return self._looked(super()._process_recv_primitive())

    def _is_transport_event(self) -> bool:
        return self._looked(super()._is_transport_event())

    def _looked(self, found: bool) -> bool:
        self._in_vain = 0 if found else self._in_vain + 1
        self._run_loop_delay = _REST if self.is_idle else _LOOK
        return found


class _Checkpoint(threading.Event):
    """Where the thread that serves requests passes by each time before it looks for one."""

    def __init__(self, provider: _Provider) -> None:
        super().__init__()
        self._provider = provider
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        if self._provider.is_idle:
            time.sleep(_REST)
        return super().wait(timeout)


def rest_when_idle(assoc: Association) -> None:
    """Have an association that has not begun rest while it is idle."""
    assoc.dul.__class__ = _Provider
    if isinstance(assoc.dul, _Provider):
        assoc._reactor_checkpoint = _Checkpoint(assoc.dul)
