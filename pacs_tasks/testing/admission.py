"""Whom a :class:`~pacs_tasks.testing.TestPACS` lets in, and how long it lets everybody wait."""

from __future__ import annotations

import threading
import time
from typing import Final

from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE, AsynchronousOperationsWindowNegotiation

from pacs_tasks.testing.connections import close_in_any_case, let_go, send_at_once
from pacs_tasks.testing.contexts import supported
from pacs_tasks.testing.faults import Faults, Silence

#: How often a wait looks whether the PACS stops or the caller is gone, in seconds.
SLICE: Final = 0.02


class Reception:
    """The associations of a PACS: those that it refuses, those that are open, and the pauses in them."""

    def __init__(self, ae_title: str, faults: Faults) -> None:
        self.ae_title = ae_title
        self.faults = faults
        self.calling_aets: list[str] = []
        self.associations = 0
        self.most_associations = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._known: set[Association] = set()
        self._accepted: set[Association] = set()

    def _on_connection(self, event: Event) -> None:
        with self._lock:
            ended = {assoc for assoc in self._known if _has_ended(assoc)}
            self._known = self._known - ended | {event.assoc}
        for assoc in ended:
            let_go(assoc)
        send_at_once(event)
        close_in_any_case(event)

    def _on_association_request(self, event: Event) -> None:
        assoc, faults = event.assoc, self.faults
        request = assoc.requestor.primitive
        if not isinstance(request, A_ASSOCIATE):
            return
        calling_aet, called_aet = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
        with self._lock:
            self.calling_aets.append(calling_aet)
            number = len(self.calling_aets)
        if faults.silence is Silence.CONNECTED:
            self._say_nothing(assoc)
            return
        with self._lock:
            rejection = faults.rejects(number, len(self._accepted), calling_aet, called_aet, self.ae_title)
            if rejection is None:
                # Before the caller hears of it, so that who has an association finds it counted.
                self.associations += 1
                self._accepted.add(assoc)
                self.most_associations = max(self.most_associations, len(self._accepted))
        if rejection is not None:
            assoc.acse.send_reject(rejection.result, rejection.source, rejection.reason)
            assoc.kill()
            return
        assoc.acceptor.maximum_length = faults.max_pdu_size
        assoc.acceptor.supported_contexts = supported(request.presentation_context_definition_list, faults)
        if faults.operations > 1 and assoc.requestor.asynchronous_operations != (1, 1):
            # pynetdicom itself never agrees to more than one, but serves what comes in order.
            window = AsynchronousOperationsWindowNegotiation()
            window.maximum_number_operations_invoked = faults.operations
            assoc.acceptor.add_negotiation_item(window)

    def _on_end(self, event: Event) -> None:
        with self._lock:
            self._accepted.discard(event.assoc)

    def _pause(self, assoc: Association, seconds: float | None = None) -> bool:
        """Wait before a response, None being for ever; false when the PACS stops or the caller is gone."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not (self._stopping.is_set() or assoc.acse.is_aborted() or not assoc.dul.is_alive()):
            left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
            if left <= 0:
                return True
            self._stopping.wait(left)
        return False

    def _delay(self, assoc: Association) -> bool:
        return self._pause(assoc, self.faults.delay)

    def _holds_back(self, done: int) -> bool:
        """Whether the next instance has to wait; to be asked again, since the faults may be replaced meanwhile."""
        return self.faults.holds_back(done)

    def _has_turn(self, assoc: Association, number: int) -> bool:
        """Hold the request of this number as long as the faults say; false when it is not to be served any more."""
        while (limit := self.faults.hold_requests_after) is not None and number > limit:
            if not self._pause(assoc, SLICE):
                return False
        return True

    def _say_nothing(self, assoc: Association) -> None:
        self._pause(assoc)
        assoc.is_aborted = True
        assoc.kill()


def _has_ended(assoc: Association) -> bool:
    """Whether nothing of an association runs any more."""
    return assoc.ident is not None and not assoc.is_alive() and not assoc.dul.is_alive()
