"""The associations of a :class:`~pacs_tasks.testing.TestPACS`: sockets, threads, admission, contexts, and waits."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from socketserver import BaseServer, TCPServer
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.service_class import (
    NonPatientObjectStorageServiceClass,
    QueryRetrieveServiceClass,
    ServiceClass,
    StorageServiceClass,
    VerificationServiceClass,
)
from pynetdicom.service_class_n import StorageCommitmentServiceClass
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    uid_to_service_class,
)
from pynetdicom.transport import AddressInformation, AssociationSocket, ThreadedAssociationServer

from pacs_tasks.ae import TLS
from pacs_tasks.testing.faults import NO_REASON, Faults, Identity, Rejection, Silence

logger = logging.getLogger(__name__)

#: Seconds between two checks of a wait: whether the PACS stops or the caller is gone.
SLICE: Final = 0.02
#: Seconds for the TLS handshake of a caller.
_HANDSHAKE_LIMIT: Final = 10.0
#: Seconds between two checks of a wait for a response: whether there is still a remote to respond.
_RESPONSE_SLICE: Final = 0.1
#: Seconds for which a thread of an association that finds nothing to do sleeps at first, how often it does so, and the
#: seconds for which it sleeps after that: pynetdicom has each of the two look a thousand times a second for ever.
_LOOK: Final = 0.001
_MANY: Final = 500
_REST: Final = 0.02
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)

_PATIENT_ROOT: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_STUDY_ROOT: Final = ("STUDY", "SERIES", "IMAGE")
#: The levels of each query model (PS3.4 section C.6).
QUERY_RETRIEVE_LEVELS: Final[dict[str, Sequence[str]]] = {
    PatientRootQueryRetrieveInformationModelFind: _PATIENT_ROOT,
    PatientRootQueryRetrieveInformationModelMove: _PATIENT_ROOT,
    PatientRootQueryRetrieveInformationModelGet: _PATIENT_ROOT,
    StudyRootQueryRetrieveInformationModelFind: _STUDY_ROOT,
    StudyRootQueryRetrieveInformationModelMove: _STUDY_ROOT,
    StudyRootQueryRetrieveInformationModelGet: _STUDY_ROOT,
}


# Sockets


class _Socket(AssociationSocket):
    """A socket that is closed in any case.

    pynetdicom closes a socket only after ``shutdown`` has succeeded. ``shutdown`` fails on a socket that was never
    connected, and on one that the remote has reset.
    """

    def _shutdown_socket(self) -> None:
        sock = self.socket
        super()._shutdown_socket()
        if sock is not None:
            sock.close()


class Caller(ApplicationEntity):
    """An application entity that requests associations and leaves no socket open."""

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        wrapper = _Socket(assoc, address=address)
        wrapper.tls_args = tls_args
        return wrapper


class Listener(ThreadedAssociationServer):
    """Accepts connections; many may arrive at once, as from the tasks of several workers."""

    request_queue_size = 128

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection without a handshake: pynetdicom's own would let one caller block all others."""
        return TCPServer.get_request(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake, if any, in the thread of the connection."""
        if self.ssl_context is not None:
            try:
                request.settimeout(_HANDSHAKE_LIMIT)
                request = self.ssl_context.wrap_socket(request, server_side=True)
                request.settimeout(None)
            except (OSError, ValueError) as error:
                logger.info("The TLS handshake with %s failed: %s", client_address[0], error)
                request.close()
                return
        super().finish_request(request, client_address)

    def service_actions(self) -> None:
        """Leave garbage to Python: pynetdicom collects it each 60 polls, which takes a large program 0.1 s or more."""

    def shutdown(self) -> None:
        """Stop listening. pynetdicom's own looks for this listener among those that the AE has started."""
        BaseServer.shutdown(self)
        self.server_close()


def tls_context(tls: TLS) -> ssl.SSLContext:
    """Return the TLS context of a PACS with this certificate; with ``ca_file``, callers need a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca_file)
    context.load_cert_chain(tls.certificate_file or "", tls.key_file)
    if tls.ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _socket(assoc: Association) -> socket.socket | None:
    wrapper = assoc.dul.socket
    return None if wrapper is None else wrapper.socket


def send_at_once(event: Event) -> None:
    """Turn Nagle's algorithm off: with delayed ACKs it costs 40 ms or more for each message."""
    sock = _socket(event.assoc)
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def acknowledge_at_once(event: Event) -> None:
    """Request an immediate ACK of the next segment, if the system can: callers may have left Nagle's algorithm on."""
    sock = _socket(event.assoc)
    if sock is not None and _QUICK_ACK is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


def disconnect(assoc: Association) -> None:
    """Shut the connection of an association down, whatever it is doing; its threads end soon."""
    sock = _socket(assoc)
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    # An association that waits for its request would wait until its time-out; None ends that wait.
    queue: Any = assoc.dul.to_user_queue
    queue.put(None)


def close(assoc: Association) -> None:
    """Close the socket of an association whose threads have ended; an association that was killed leaves it open."""
    sock = _socket(assoc)
    if sock is not None:
        sock.close()


@contextmanager
def association_to(
    ae: ApplicationEntity,
    address: tuple[str, int],
    ae_title: str,
    contexts: list[PresentationContext],
    *,
    scp_role: str = "",
    source: str = "",
) -> Iterator[Association]:
    """Request an association with a destination; it may not be established.

    pynetdicom reads an association in a thread of its own, which now and then receives a response for which the sender
    waits. So that thread is held at its checkpoint from before its start until the association is released.

    Parameters
    ----------
    scp_role
        The SOP class for which we propose the SCP role.
    source
        The IP address to call from; empty leaves it to the system.
    """
    handlers: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, send_at_once), (evt.EVT_ESTABLISHED, _hold_reactor)]
    roles = [build_role(scp_role, scp_role=True)] if scp_role else []
    assoc = ae.associate(
        *address,
        contexts=contexts,
        ae_title=ae_title,
        ext_neg=list(roles),
        evt_handlers=handlers,
        bind_address=(source, 0),
    )
    assoc.dimse_timeout = _RESPONSE_SLICE
    try:
        yield assoc
    finally:
        if assoc.is_established and not assoc.acse.is_aborted():
            assoc.release()
        elif assoc.is_established:
            assoc.abort()
        assoc.kill()
        if assoc.ident is not None:
            assoc.join(5)
        close(assoc)


def is_lost(assoc: Association) -> bool:
    """Whether the remote of an association is gone. Its reactor does not check this while it is held or busy.

    The end of the thread that reads counts too: an abort is not seen behind what :func:`disconnect` has queued.
    """
    return not assoc.is_established or assoc.acse.is_aborted() or not assoc.dul.is_alive()


def _hold_reactor(event: Event) -> None:
    event.assoc._reactor_checkpoint.clear()


# Threads


class _Provider(DULServiceProvider):
    """The thread that reads and writes. It rests while the association is idle."""

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


def _rest_when_idle(assoc: Association) -> None:
    """Have the two threads of an association that has not begun rest while it is idle."""
    assoc.dul.__class__ = _Provider
    if isinstance(assoc.dul, _Provider):
        assoc._reactor_checkpoint = _Checkpoint(assoc.dul)


# Admission


class Reception:
    """The associations of a PACS: it rejects or accepts them, and waits on them as the faults demand."""

    def __init__(self, ae_title: str, faults: Faults) -> None:
        self.ae_title = ae_title
        self.faults = faults
        self.calling_aets: list[str] = []
        self.identities: list[Identity | None] = []
        self.associations = 0
        self.most_associations = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._known: set[Association] = set()
        self._accepted: set[Association] = set()

    def _on_connection(self, event: Event) -> None:
        event.assoc.dul.socket.__class__ = _Socket
        _rest_when_idle(event.assoc)
        # C-GET waits for responses of its caller in the thread of the association.
        event.assoc.dimse_timeout = _RESPONSE_SLICE
        with self._lock:
            ended = {assoc for assoc in self._known if _has_ended(assoc)}
            self._known = self._known - ended | {event.assoc}
        for assoc in ended:
            close(assoc)
        send_at_once(event)

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
            self._stay_silent(assoc)
            return
        with self._lock:
            rejection = faults.rejects(number, len(self._accepted), calling_aet, called_aet, self.ae_title)
            rejection = rejection or self._identify(assoc)
            if rejection is None:
                # Counted before the caller learns of it, so that a caller with an association finds it counted.
                self.associations += 1
                self._accepted.add(assoc)
                self.most_associations = max(self.most_associations, len(self._accepted))
        if rejection is not None:
            assoc.acse.send_reject(rejection.result, rejection.source, rejection.reason)
            assoc.kill()
            return
        assoc.acceptor.maximum_length = faults.max_pdu_size
        assoc.acceptor.supported_contexts = _supported(request.presentation_context_definition_list, faults)
        if faults.operations > 1 and assoc.requestor.asynchronous_operations != (1, 1):
            # pynetdicom never agrees to more than one operation, but serves those that have arrived in order.
            window = AsynchronousOperationsWindowNegotiation()
            window.maximum_number_operations_invoked = faults.operations
            assoc.acceptor.add_negotiation_item(window)

    def _identify(self, assoc: Association) -> Rejection | None:
        """Record the user identity of a request, reject one that is not accepted, and confirm others on request."""
        item = assoc.requestor.user_identity
        found = None
        if item is not None:
            found = item.user_identity_type or 0, item.primary_field or b"", item.secondary_field or b""
        self.identities.append(found)
        if self.faults.identities and found not in self.faults.identities:
            return NO_REASON
        if item is not None and item.positive_response_requested and not self.faults.unconfirmed_identity:
            # pynetdicom confirms tokens only.
            confirmed = UserIdentityNegotiation()
            confirmed.server_response = b""
            assoc.acceptor.add_negotiation_item(confirmed)
        return None

    def _on_end(self, event: Event) -> None:
        with self._lock:
            self._accepted.discard(event.assoc)

    def _pause(self, assoc: Association, seconds: float | None = None) -> bool:
        """Wait, for ever if ``seconds`` is None; return False once the PACS stops or the caller is gone."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not (self._stopping.is_set() or assoc.acse.is_aborted() or not assoc.dul.is_alive()):
            left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
            if left <= 0:
                return True
            self._stopping.wait(left)
        return False

    def _delay(self, assoc: Association) -> bool:
        with self._lock:
            open_now = len(self._accepted)
        return self._pause(assoc, self.faults.delay_with(open_now))

    def _wait_while(self, assoc: Association, held: Callable[[Faults], bool]) -> bool:
        """Wait while ``held`` is true of the faults, which may be replaced meanwhile; return as :meth:`_pause`."""
        while held(self.faults):
            if not self._pause(assoc, SLICE):
                return False
        return True

    def _stay_silent(self, assoc: Association) -> None:
        self._pause(assoc)
        assoc.is_aborted = True
        assoc.kill()


def _has_ended(assoc: Association) -> bool:
    """Whether no thread of an association runs any more."""
    return assoc.ident is not None and not assoc.is_alive() and not assoc.dul.is_alive()


# Presentation contexts (PS3.8 section 9.3.3.2)


def _serves(sop_class_uid: str) -> bool:
    service = uid_to_service_class(sop_class_uid)
    if service is QueryRetrieveServiceClass:
        return sop_class_uid in QUERY_RETRIEVE_LEVELS
    # The base class stands for SOP classes that pynetdicom does not know: private ones, and those newer than it.
    return service in {
        VerificationServiceClass,
        StorageServiceClass,
        NonPatientObjectStorageServiceClass,
        StorageCommitmentServiceClass,
        ServiceClass,
    }


def _supported(proposed: Sequence[PresentationContext], faults: Faults) -> list[PresentationContext]:
    """The contexts to accept, in both roles: all that the PACS serves and that no fault refuses.

    Of several transfer syntaxes in one context the first one wins.
    """
    syntaxes: dict[str, list[str]] = {}
    for cx in proposed:
        sop_class = str(cx.abstract_syntax)
        if _serves(sop_class) and sop_class not in faults.refused_sop_classes:
            wanted = (str(each) for each in cx.transfer_syntax)
            syntaxes.setdefault(sop_class, []).extend(
                each for each in wanted if each not in faults.refused_transfer_syntaxes
            )
    accepted = []
    for sop_class, some in syntaxes.items():
        cx = build_context(sop_class, list(dict.fromkeys(some)))
        cx.scu_role = cx.scp_role = True
        accepted.append(cx)
    return accepted
