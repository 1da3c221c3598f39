"""C-MOVE and C-GET: what a :class:`~pacs_tasks.testing.TestPACS` delivers (PS3.4 sections C.4.2 and C.4.3)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from pydicom import Dataset
from pydicom.tag import Tag
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.events import EventHandlerType

from pacs_tasks.testing import match as matching
from pacs_tasks.testing.connections import send_at_once
from pacs_tasks.testing.instances import StoredBytes
from pacs_tasks.testing.suboperations import UNKNOWN_DESTINATION, Retrieval, association_to, batches

_INSTANCE = Tag("SOPInstanceUID")


class Retrieving:
    """The service, and what it remembers from one request to the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._asked: set[str] = set()

    def serve(
        self,
        retrieval: Retrieval,
        keys: Dataset,
        held: Mapping[str, StoredBytes],
        destinations: Mapping[str, tuple[str, int]],
    ) -> None:
        """Serve one request."""
        faults, request = retrieval.faults, retrieval.request
        with self._lock:
            self._requests += 1
            number = self._requests
        if number <= faults.zero_suboperations:
            retrieval.finish()
            return
        wanted = matching.select(held.values(), _first_uid(keys) if faults.first_uid_only else keys)
        retrieval.remaining = len(wanted)
        if faults.retrieve_status is not None:
            retrieval.answer(faults.retrieve_status)
        elif isinstance(request, C_MOVE) and _destination(request) not in destinations:
            retrieval.answer(UNKNOWN_DESTINATION)
        elif faults.pending_for_ever:
            retrieval.never_end(pending=True)
        else:
            retrieval.dropped = {*faults.lost, *self._dropped(wanted, faults.drop_every)}
            if isinstance(request, C_MOVE):
                whole = _move(retrieval, request, wanted, destinations)
            else:
                whole = retrieval.run(wanted, retrieval.assoc)
            if whole and faults.never_finish:
                retrieval.never_end(pending=False)
            elif whole:
                retrieval.finish()

    def _dropped(self, wanted: Sequence[StoredBytes], every: int | None) -> set[str]:
        """Every n-th of those instances that nobody has asked for before."""
        dropped = set()
        with self._lock:
            for uid in (each.sop_instance_uid for each in wanted):
                if uid not in self._asked:
                    self._asked.add(uid)
                    if every is not None and len(self._asked) % every == 0:
                        dropped.add(uid)
        return dropped


def _first_uid(keys: Dataset) -> Dataset:
    """The same keys, with the first of a list of SOP Instance UIDs."""
    first = Dataset()
    first.update(keys)
    if _INSTANCE in keys:
        first.SOPInstanceUID = matching.text(keys, _INSTANCE).split("\\")[0]
    return first


def _destination(request: C_MOVE) -> str:
    return str(request.MoveDestination).strip()


def _move(
    retrieval: Retrieval, request: C_MOVE, wanted: Sequence[StoredBytes], destinations: Mapping[str, tuple[str, int]]
) -> bool:
    """Send the instances where the request says; false when it was cancelled, or the one who asked is gone."""
    move_aet = _destination(request)
    handlers: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, send_at_once)]
    for contexts, some in batches(wanted):
        ae, address = retrieval.assoc.ae, destinations[move_aet]
        with association_to(ae, address, move_aet, contexts, handlers) as carrier:
            if not retrieval.run(some, carrier):
                return False
    return True
