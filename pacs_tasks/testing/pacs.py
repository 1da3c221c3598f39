"""TestPACS: a PACS on a free port, its records and its services."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from io import BytesIO
from itertools import count
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, C_STORE, N_ACTION
from pynetdicom.dsutils import decode
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from pacs_tasks.ae import TLS, RemoteAE
from pacs_tasks.testing import association, commitment
from pacs_tasks.testing.association import SLICE, Caller, Listener, Reception
from pacs_tasks.testing.faults import Faults, Report, Silence, is_warning
from pacs_tasks.testing.find import has_uid_list, responses
from pacs_tasks.testing.instances import StoredBytes
from pacs_tasks.testing.retrieve import Retrieval, RetrieveService

#: A-RELEASE-RQ and A-ABORT.
_LAST_PDUS: Final = frozenset({0x05, 0x07})
#: P-DATA-TF, and the position of the message control header of its first PDV (PS3.8 section 9.3.5).
_P_DATA: Final = 0x04
_CONTROL: Final = 11

#: Requests for which we choose the service, not pynetdicom.
_Served = C_STORE | C_MOVE | C_GET | N_ACTION
#: Requests with a priority.
_Prioritised = C_STORE | C_FIND | C_MOVE | C_GET


class TestPACS(Reception):
    """A PACS that keeps received instances, responds to queries and delivers, exactly to the byte.

    It supports C-ECHO; C-STORE of every storage class, private ones included, in every transfer syntax; C-FIND in
    Patient Root and Study Root at every level; C-MOVE to known destinations; C-GET; and storage commitment, about which
    it reports to known destinations.

    Parameters
    ----------
    ae_title
        Its AE title.
    directory
        The directory for instances, as DICOM files; None keeps them in memory.
    instances
        The instances that it holds from the start: paths of DICOM files, which stay where they are, or pydicom data
        sets.
    destinations
        Host and port of each AE to which C-MOVE may deliver; the attribute may be changed at any time.
    faults
        What goes wrong; the attribute may be replaced at any time.
    host, port
        The address to listen on; port 0 chooses a free port.
    tls
        Its certificate and key; it then accepts only TLS. With ``ca_file``, callers need a certificate that these
        authorities have signed. C-MOVE still delivers without TLS.

    Attributes
    ----------
    stores
        SOP Instance UIDs of all complete C-STORE requests, in order, whatever the response.
    deliveries
        SOP Instance UIDs of all instances that it has sent for C-MOVE and C-GET, in order.
    priorities
        Priority, (0000,0700), of all C-STORE, C-FIND, C-MOVE and C-GET requests, in order: 0 medium, 1 high, 2 low.
    calling_aets
        AE titles of all association requests, in order.
    identities
        User identities of all association requests, in order, as type, primary and secondary field; None without one.
    identifiers
        Identifiers of all C-FIND, C-MOVE and C-GET requests, in order.
    transactions
        SOP Instance UIDs of each request for storage commitment, in order.
    report_statuses
        The status of the response to each of its reports, in order; None where there was no response.
    associations
        The number of associations that it has accepted.
    most_associations
        The largest number of associations that were open at once.

    Examples
    --------
    >>> from pynetdicom import AE
    >>> with TestPACS(ae_title="ARCHIVE") as pacs:
    ...     assoc = AE().associate(pacs.host, pacs.port, [build_context(Verification)])
    ...     assoc.send_c_echo().Status
    ...     assoc.release()
    0
    """

    __test__ = False  # So that pytest does not collect it.

    def __init__(
        self,
        ae_title: str = "TESTPACS",
        directory: str | PathLike[str] | None = None,
        *,
        instances: Iterable[str | PathLike[str] | Dataset] = (),
        destinations: Mapping[str, tuple[str, int]] = MappingProxyType({}),
        faults: Faults | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: TLS | None = None,
    ) -> None:
        super().__init__(ae_title, faults or Faults())
        self.directory = None if directory is None else Path(directory)
        self.destinations: MutableMapping[str, tuple[str, int]] = dict(destinations)
        self.host = host
        self.stores: list[str] = []
        self.deliveries: list[str] = []
        self.priorities: list[int] = []
        self.identifiers: list[Dataset] = []
        self.transactions: list[tuple[str, ...]] = []
        self.report_statuses: list[int | None] = []
        self._wanted_port = port
        self._tls = tls
        self._running: tuple[Listener, threading.Thread] | None = None
        self._held: dict[str, StoredBytes] = {}
        self.hold(*instances)
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

    def hold(self, *instances: str | PathLike[str] | Dataset) -> None:
        """Hold these instances as well, as if they had just been received."""
        added = {each.sop_instance_uid: each for each in map(_stored, instances)}
        with self._lock:
            self._held.update(added)

    def lose(self, *sop_instance_uids: str) -> None:
        """Drop these instances, as an archive whose disk has failed."""
        with self._lock:
            for uid in sop_instance_uids:
                self._held.pop(uid, None)

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._running is None:
            raise RuntimeError("The TestPACS has not been started. Use it in a with statement.")
        return int(self._running[0].server_address[1])

    @property
    def remote(self) -> RemoteAE:
        """Its address as a remote; over TLS, its own certificate identifies it and must be valid for ``host``."""
        tls = None if self._tls is None else TLS(ca_file=self._tls.certificate_file)
        return RemoteAE(ae_title=self.ae_title, host=self.host, port=self.port, tls=tls)

    @property
    def open_associations(self) -> int:
        """The number of associations that are open now."""
        if self._running is None:
            return 0
        return sum(assoc.is_established for assoc in self._running[0].active_associations)

    def start(self) -> None:
        """Start to listen; it accepts associations when this returns."""
        self._stopping.clear()
        ae = Caller(ae_title=self.ae_title)
        ae.maximum_associations = 10_000
        ae.maximum_pdu_size = self.faults.max_pdu_size
        ae.connection_timeout = 10
        # pynetdicom requires one context to listen; each negotiation replaces it.
        contexts = [build_context(Verification)]
        context = None if self._tls is None else association.tls_context(self._tls)
        address = (self.host, self._wanted_port)
        listener = Listener(ae, address, self.ae_title, contexts, context, evt_handlers=self._handlers)
        thread = threading.Thread(
            target=listener.serve_forever, args=(SLICE,), name=f"TestPACS {self.ae_title}", daemon=True
        )
        thread.start()
        self._running = listener, thread

    def stop(self, timeout: float = 10.0) -> None:
        """Close every connection and end every thread.

        Raises
        ------
        TimeoutError
            If a thread is left after ``timeout`` seconds.
        """
        if self._running is None:
            return
        deadline = time.monotonic() + timeout
        (listener, thread), self._running = self._running, None
        self._stopping.set()
        listener.shutdown()
        with self._lock:
            known, self._known = list(self._known), set()
        for assoc in known:
            association.disconnect(assoc)
        try:
            self._join([thread, *known, *(assoc.dul for assoc in known)], deadline)
            # Only the threads above start these.
            with self._lock:
                reporting, self._reporting = list(self._reporting), set()
            self._join(reporting, deadline)
        finally:
            for assoc in known:
                association.close(assoc)

    def _join(self, threads: Iterable[threading.Thread], deadline: float) -> None:
        for each in threads:
            if each.ident is not None:
                each.join(max(0.0, deadline - time.monotonic()))
            if each.is_alive():
                raise TimeoutError(f"A thread of {self.ae_title} has not ended in time: {each.name}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Services

    @property
    def _handlers(self) -> list[EventHandlerType]:
        return [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_DATA_SENT, association.acknowledge_at_once),
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
        dimse = event.assoc.dimse
        vars(dimse)["send_msg"] = partial(self._send, dimse.send_msg)

    def _send(self, send: Callable[[Any, int], None], message: Any, context_id: int) -> None:
        """Send a message, with the comment that the faults add."""
        if self.faults.comment and getattr(message, "Status", None) not in {None, 0x0000, 0xFF00, 0xFF01}:
            message.ErrorComment = self.faults.comment
        send(message, context_id)

    def _on_pdu(self, event: Event) -> None:
        """Watch for the end of the association; the first byte is the type of the PDU (PS3.8 section 9.3.1).

        The caller ends the association with its request to release: it may open the next one as soon as we agree.
        """
        association.acknowledge_at_once(event)
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
        if isinstance(message, _Prioritised):
            with self._lock:
                self.priorities.append(message.Priority)
        in_time = self._wait_while(assoc, lambda faults: faults.holds_request(number))
        if not in_time or self.faults.silence is Silence.ASSOCIATED:
            self._stay_silent(assoc)
        elif isinstance(message, _Served) and message.is_valid_request and context is not None:
            self._serve_valid(assoc, message, context)
        else:
            Association._serve_request(assoc, message, context_id)
            if isinstance(message, C_FIND) and self.faults.abort_after_find:
                assoc.abort()

    def _serve_valid(self, assoc: Association, request: _Served, context: PresentationContext) -> None:
        """Serve one valid request in an accepted presentation context."""
        if isinstance(request, C_STORE):
            StorageServiceClass(assoc).SCP(request, context)
        elif isinstance(request, N_ACTION):
            self._commit(assoc, request, context)
        else:
            self._retrieve(assoc, request, context)

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
        if uid in faults.silent_at_instances:
            self._stay_silent(event.assoc)
            return 0x0000
        if number == faults.abort_at_store or uid in faults.abort_at_instances:
            self._on_end(event)
            event.assoc.abort()
            return 0x0000
        status = faults.answer_to_store(uid, times)
        if status == 0x0000 or is_warning(status):
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
        listed = faults.abort_at_uid_lists and has_uid_list(keys)
        if listed or any(keyword in keys for keyword in faults.abort_at_keys):
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
        retrieval = Retrieval(assoc, request, context, faults, self._pause, self._wait_while, sent=self.deliveries)
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
        with association.association_to(requested.ae, address, title, [build_context(model)], scp_role=model) as assoc:
            for context in assoc.accepted_contexts:
                self._report(assoc, context, report)


def _stored(instance: str | PathLike[str] | Dataset) -> StoredBytes:
    return (
        StoredBytes.from_dataset(instance) if isinstance(instance, Dataset) else StoredBytes.from_file(Path(instance))
    )
