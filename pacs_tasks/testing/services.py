"""The services of a :class:`~pacs_tasks.testing.TestPACS`, and its records."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from io import BytesIO
from itertools import count
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, C_STORE, N_ACTION
from pynetdicom.dsutils import decode
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs_tasks.testing import commitment
from pacs_tasks.testing.association import SLICE, Reception, acknowledge_at_once, association_to
from pacs_tasks.testing.faults import Faults, Report, Silence
from pacs_tasks.testing.find import responses
from pacs_tasks.testing.instances import StoredBytes
from pacs_tasks.testing.retrieve import Retrieval, RetrieveService

#: A-RELEASE-RQ and A-ABORT.
_LAST_PDUS: Final = frozenset({0x05, 0x07})
#: P-DATA-TF, and the position of the message control header of its first PDV (PS3.8 section 9.3.5).
_P_DATA: Final = 0x04
_CONTROL: Final = 11


class Services(Reception):
    """The records of a PACS, and the services that change and return them; the base of TestPACS."""

    def __init__(
        self,
        ae_title: str,
        directory: str | PathLike[str] | None,
        instances: Iterable[StoredBytes],
        destinations: Mapping[str, tuple[str, int]],
        faults: Faults,
    ) -> None:
        super().__init__(ae_title, faults)
        self.directory = None if directory is None else Path(directory)
        self.destinations: MutableMapping[str, tuple[str, int]] = dict(destinations)
        self.stores: list[str] = []
        self.identifiers: list[Dataset] = []
        self.transactions: list[tuple[str, ...]] = []
        self.report_statuses: list[int | None] = []
        self._held = {each.sop_instance_uid: each for each in instances}
        self._offered: Counter[str] = Counter()
        self._reporting: set[threading.Thread] = set()
        self._aborted_within: int | None = None
        self._retrieve_service = RetrieveService()
        self._numbers = count(1)

    @property
    def instances(self) -> Mapping[str, StoredBytes]:
        """The instances that it holds now, by SOP Instance UID."""
        with self._lock:
            return MappingProxyType(dict(self._held))

    def _hold(self, instances: Iterable[StoredBytes]) -> None:
        added = {each.sop_instance_uid: each for each in instances}
        with self._lock:
            self._held.update(added)

    def lose(self, *sop_instance_uids: str) -> None:
        """Drop these instances, as an archive whose disk has failed."""
        with self._lock:
            for uid in sop_instance_uids:
                self._held.pop(uid, None)

    @property
    def _handlers(self) -> list[EventHandlerType]:
        return [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_DATA_SENT, acknowledge_at_once),
            (evt.EVT_DATA_RECV, self._on_pdu),
            (evt.EVT_CONN_CLOSE, self._on_end),
            (evt.EVT_REQUESTED, self._on_association_request),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
        ]

    def _on_connection(self, event: Event) -> None:
        super()._on_connection(event)
        # pynetdicom has no service for private SOP classes, and retrieval is our own: see `_serve`.
        vars(event.assoc)["_serve_request"] = partial(self._serve, event.assoc)

    def _on_pdu(self, event: Event) -> None:
        """Watch for the end of the association; the first byte is the type of the PDU (PS3.8 section 9.3.1).

        The caller ends the association with its request to release: it may open the next one as soon as we agree.
        """
        acknowledge_at_once(event)
        if event.data[0] in _LAST_PDUS:
            self._on_end(event)
        elif event.data[0] == _P_DATA and self._is_to_end_within(event.data):
            self._on_end(event)
            event.assoc.abort(block=False)

    def _is_to_end_within(self, pdu: bytes) -> bool:
        """Whether the association is to end at this part of a data set."""
        wanted = self.faults.abort_within_store
        # The message control header says: not a command, and not the last fragment (PS3.8 section E.2).
        if wanted is None or pdu[_CONTROL] & 3:
            return False
        with self._lock:
            if wanted != len(self.stores) + 1 or wanted == self._aborted_within:
                return False
            self._aborted_within = wanted
        return True

    def _serve(self, assoc: Association, message: Any, context_id: int) -> None:
        """Serve one request in the thread of its association."""
        context = assoc._accepted_cx.get(context_id)
        number = next(self._numbers)
        in_time = self._wait_while(assoc, lambda faults: faults.holds_request(number))
        if not in_time or self.faults.silence is Silence.ASSOCIATED:
            self._stay_silent(assoc)
        elif isinstance(message, C_STORE) and message.is_valid_request and context is not None:
            StorageServiceClass(assoc).SCP(message, context)
        elif isinstance(message, C_MOVE | C_GET) and message.is_valid_request and context is not None:
            self._retrieve(assoc, message, context)
        elif isinstance(message, N_ACTION) and message.is_valid_request and context is not None:
            self._commit(assoc, message, context)
        else:
            Association._serve_request(assoc, message, context_id)
            if isinstance(message, C_FIND) and self.faults.abort_after_find:
                assoc.abort()

    def _on_echo(self, event: Event) -> int:
        self._delay(event.assoc)
        return 0x0000

    def _on_store(self, event: Event) -> int:
        faults, request = self.faults, event.request
        if not isinstance(request, C_STORE) or faults.silence is Silence.STORE:
            self._stay_silent(event.assoc)
            return 0x0000
        uid = str(request.AffectedSOPInstanceUID)
        with self._lock:
            self.stores.append(uid)
            number = len(self.stores)
            times = self._offered[uid]
            self._offered[uid] += 1
        if number == faults.abort_at_store:
            self._on_end(event)
            event.assoc.abort()
            return 0x0000
        status = faults.answer_to_store(uid, times)
        if status == 0x0000 or status >> 12 == 0xB:
            self._keep(event, request, uid)
        self._wait_while(event.assoc, lambda faults: faults.holds_instance(number - 1))
        self._delay(event.assoc)
        return status

    def _keep(self, event: Event, request: C_STORE, uid: str) -> None:
        data_set = event.encoded_dataset(include_meta=False)
        syntax = str(event.context.transfer_syntax)
        instance = StoredBytes.from_wire(str(request.AffectedSOPClassUID), uid, syntax, data_set)
        if self.directory is not None:
            whole = event.encoded_dataset()
            instance = instance.written(self.directory, whole[: len(whole) - len(data_set)])
        with self._lock:
            self._held[uid] = instance

    def _on_find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        # Read before the request is recorded: a test that sees the record may replace the faults for the next one.
        faults, request = self.faults, event.request
        if not isinstance(request, C_FIND):
            return
        keys = self._identifier(request, UID(event.context.transfer_syntax))
        if any(keyword in keys for keyword in faults.abort_at_keys):
            event.assoc.abort()
            return
        model = str(request.AffectedSOPClassUID)
        for status, match in responses(self.instances.values(), keys, model, faults, self.ae_title):
            if event.is_cancelled and not faults.ignore_cancel:
                yield 0xFE00, None
                return
            if not self._delay(event.assoc):
                # Returning here would send success.
                self._stay_silent(event.assoc)
                return
            yield status, match

    def _identifier(self, request: C_FIND | C_MOVE | C_GET, syntax: UID) -> Dataset:
        encoded = request.Identifier or BytesIO()
        identifier = decode(encoded, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        with self._lock:
            self.identifiers.append(identifier)
        return identifier

    def _retrieve(self, assoc: Association, request: C_MOVE | C_GET, context: PresentationContext) -> None:
        faults = self.faults
        keys = self._identifier(request, context.transfer_syntax[0])
        retrieval = Retrieval(assoc, request, context, faults, self._pause, self._wait_while)
        assoc.dimse.cancel_req.clear()
        if retrieval.await_turn():
            self._retrieve_service.serve(retrieval, keys, self.instances, dict(self.destinations))
        assoc.dimse.cancel_req.clear()

    def _commit(self, assoc: Association, request: N_ACTION, context: PresentationContext) -> None:
        faults = self.faults
        information = commitment.information_of(request, context.transfer_syntax[0])
        with self._lock:
            self.transactions.append(commitment.uids_of(information))
        if not self._delay(assoc):
            return
        commitment.respond(assoc, request, context, faults.action_status or 0x0000)
        address = self.destinations.get(assoc.requestor.ae_title.strip())
        if faults.action_status or faults.report is Report.NEVER:
            return
        report = commitment.report_on(information, self.instances, faults)
        if faults.report is Report.SAME_ASSOCIATION:
            self._report(assoc, context, report)
        elif address is not None:
            thread = threading.Thread(target=self._report_elsewhere, args=(assoc, address, report), daemon=True)
            with self._lock:
                self._reporting.add(thread)
            thread.start()

    def _report(self, assoc: Association, context: PresentationContext, report: Dataset) -> None:
        for _ in range(self.faults.report_times):
            status, others = commitment.send(assoc, context, report, lambda each: self._pause(each, SLICE))
            with self._lock:
                self.report_statuses.append(status)
            for context_id, message in others:
                self._serve(assoc, message, context_id)

    def _report_elsewhere(self, requested: Association, address: tuple[str, int], report: Dataset) -> None:
        """Report on an association of our own, in the role of the SCP (PS3.4 section J.3.3)."""
        while self.faults.report is Report.HELD_BACK:
            if self._stopping.wait(SLICE):
                return
        model = StorageCommitmentPushModel
        title = requested.requestor.ae_title.strip()
        with association_to(requested.ae, address, title, [build_context(model)], scp_role=model) as assoc:
            for context in assoc.accepted_contexts:
                self._report(assoc, context, report)
