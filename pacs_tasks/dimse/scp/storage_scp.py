"""A Storage SCP (PS3.4 annex B): the destination of C-MOVE and of reports on storage commitment.

It uses one thread per association, and one in which connections wait for their association requests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydicom.config import IGNORE
from pydicom.uid import UID, MediaStorageDirectoryStorage
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs_tasks.ae import TLS
from pacs_tasks.dimse.c_echo import VERIFICATION
from pacs_tasks.dimse.commitment import REPORT_SYNTAXES, IsKnown, OnReport, answer_report
from pacs_tasks.dimse.files.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, LONGEST_UID
from pacs_tasks.dimse.scp.admission import CROWDED_LIMIT, Connection, Lobby, Places, Sparing
from pacs_tasks.dimse.scp.c_store import Origin, Place, receive, sender_of
from pacs_tasks.dimse.scp.callers import Callers
from pacs_tasks.dimse.scp.limits import NO_LIMITS, Intake, Limits
from pacs_tasks.dimse.upper_layer import command, negotiation
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.dimse.upper_layer.command import Command, MessageStream
from pacs_tasks.dimse.upper_layer.tls import SecureWire, called_context
from pacs_tasks.dimse.upper_layer.wire import A_ASSOCIATE_RQ, SLICE, Wire
from pacs_tasks.errors import JobCancelledError, PeerUnavailableError, TLSError
from pacs_tasks.outcome import InstanceOutcome

log = logging.getLogger(__name__)

#: Remotes keep associations open between studies, but not for longer than this without a message. An instance of many
#: gigabytes takes long on a slow line, but not for ever.
IDLE = Timeouts(connect=10, acse=30, dimse=300, operation=3600)
#: Seconds that the association of a stranger may be idle while strangers have more than half of their places.
IDLE_WHEN_CROWDED = 30.0
#: Each takes a thread and a quarter of a megabyte. A PACS opens far fewer to one destination.
MAX_ASSOCIATIONS = 128
#: Threads of connections that are no associations yet: a TLS handshake, the rest of a long request, a rejection.
_STARTING = 64
_STARTING_SHARE = 16
#: The system may lower it. Where a flood of connections does not fit, it drops others, which try again after a second.
_BACKLOG = 4096
_UNRECOGNISED_OPERATION = 0x0211
#: A-ASSOCIATE-RJ: transient, by the presentation provider, local limit exceeded (PS3.8 section 9.3.4).
_LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
_TOO_MANY = "too many associations are open, in all or of this caller"
#: Outstanding requests that a remote may have if it proposes an asynchronous operations window.
MAX_OPERATIONS = 64


class StorageSCP:
    """Receive instances into a directory, and reports on storage commitment, and answer C-ECHO.

    Parameters
    ----------
    port
        0 chooses a free one; see :attr:`port`.
    directory
        Made if missing. Files go to ``<directory>/<study>/<series>/<instance>.dcm`` unless ``place`` decides.
    timeouts
        ``acse`` limits the wait for the association request, ``dimse`` silence after it.
    on_instance
        Called in the thread of the association for each instance, received or refused.
    max_associations
        Further associations are rejected for now. A quarter of them is for known remotes alone.
    max_per_caller
        How many of them one calling AE title may have, and one address a quarter more; the default is half of them.
    callers
        Who may call; the default is everybody.
    limits
        What each association may bring.
    listener
        A socket made by :func:`listen`, which other processes may share; the default is one of its own.
    on_report
        Called in the thread of the association with a report on storage commitment; without it none are accepted.
    knows_transaction
        Called before it with the transaction, so that other reports are not read; without it all are.
    tls
        Our certificate and key. Only TLS is accepted then, and with ``ca_file`` only callers with a certificate.
    place
        Called in the thread of the association for each complete instance; gives its path below ``directory`` or a
        refusal.

    Raises
    ------
    UnreadableInputError
        If a file of ``tls`` cannot be used.
    OSError
        If the port is in use, the address is not ours, or the directory cannot be made.
    """

    def __init__(
        self,
        host: str,
        port: int,
        directory: Path,
        timeouts: Timeouts = IDLE,
        *,
        on_instance: Callable[[InstanceOutcome], None] | None = None,
        max_associations: int = MAX_ASSOCIATIONS,
        max_per_caller: int | None = None,
        callers: Callers | None = None,
        limits: Limits = NO_LIMITS,
        listener: socket.socket | None = None,
        on_report: OnReport | None = None,
        knows_transaction: IsKnown | None = None,
        tls: TLS | None = None,
        place: Place | None = None,
    ) -> None:
        self.directory = directory
        self.timeouts = timeouts
        self.on_instance = on_instance
        self.callers = callers or Callers()
        self.limits = limits
        self.on_report = on_report
        self.knows_transaction = knows_transaction
        self.place = place
        self.context = None if tls is None else called_context(tls)
        directory.mkdir(parents=True, exist_ok=True)
        self._listener = listener or listen(host, port)
        self.port: int = self._listener.getsockname()[1]
        self._stopping = threading.Event()
        self._until = 0.0
        self._lobby = Lobby(
            self._listener,
            timeouts.acse,
            secure=self.context is not None,
            is_known=self.callers.has_at,
            serve=self._start_thread,
        )
        self._accepting = threading.Thread(target=self._accept, name="storage-scp", daemon=True)
        self._lock = threading.Lock()
        self._serving: set[threading.Thread] = set()
        self._starting = Places(_STARTING)
        self._associations = Places(max_associations)
        self._share = max_per_caller or max(max_associations // 2, 1)
        self.sparing = Sparing(log)

    def start(self) -> None:
        """Start accepting associations."""
        self._accepting.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop: idle associations at once, others after their message or ``timeout`` seconds."""
        self._until = time.monotonic() + timeout
        self._stopping.set()
        if self._accepting.is_alive():
            self._accepting.join(2 * SLICE + 1)
        self._listener.close()
        with self._lock:
            serving = list(self._serving)
        for thread in serving:
            thread.join(max(self._until - time.monotonic(), 0) + 2 * SLICE + 1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                self._lobby.run(self._stopping)
            except Exception:
                log.exception("Connections that had sent no request were closed by a fault of the receiver.")
                self._stopping.wait(SLICE)

    def _start_thread(self, connection: Connection) -> bool:
        """Start the thread of a connection, or reject it without one; false if it must wait."""
        # A crowd of requests must not cost a thread each. TLS needs one to say anything.
        if self.context is None and not connection.known:
            title = connection.calling_aet
            if not self._associations.has_room(False, self._shares(title, connection.host)):
                self.sparing.warning(connection.host, "%s at %s was rejected: %s.", title, connection.host, _TOO_MANY)
                connection.reject(negotiation.encode_reject(*_LOCAL_LIMIT_EXCEEDED))
                return True
        if not self._starting.take(connection, connection.known, {connection.host: _STARTING_SHARE}):
            return False
        thread = threading.Thread(target=self._serve, args=(connection,), name="storage-scp", daemon=True)
        with self._lock:
            self._serving.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self.sparing.warning("", "A connection must wait: the system has no more threads.")
            self._starting.leave(connection)
            with self._lock:
                self._serving.discard(thread)
            return False
        return True

    def admit(self, connection: Connection, calling_aet: str) -> bool:
        """Count the association; false if there are too many, or too many of this caller."""
        known = self.callers.knows(calling_aet, connection.host)
        admitted = self._associations.take(connection, known, self._shares(calling_aet, connection.host))
        self._starting.leave(connection)
        return admitted

    def _shares(self, calling_aet: str, host: str) -> dict[str, int]:
        """Give the names of a caller, and how many associations each may have."""
        return {f"AE {calling_aet}": self._share, host: self._share + self._share // 4}

    def limit_of_request(self, known: bool) -> float:
        """Seconds that a connection with a thread has for a whole association request."""
        limit = self.timeouts.acse
        return min(limit, CROWDED_LIMIT) if self._starting.crowded and not known else limit

    def _serve(self, connection: Connection) -> None:
        host = connection.host
        try:
            with contextlib.closing(connection.sock):
                _AcceptedAssociation(self, connection).run()
        except (PeerUnavailableError, TLSError) as error:
            self.sparing.warning(host, "An association ended: %s", error.message)
        except JobCancelledError:
            log.info("The association with %s was aborted because the receiver stops.", host)
        except Exception:
            log.exception("The association with %s was aborted by a fault of the receiver.", host)
        finally:
            self._starting.leave(connection)
            self._associations.leave(connection)
            with self._lock:
                self._serving.discard(threading.current_thread())

    def check_running(self, busy: bool) -> None:
        """Once the receiver stops, end an idle association, and a busy one when its time is up."""
        if self._stopping.is_set() and (not busy or time.monotonic() >= self._until):
            raise JobCancelledError("The receiver stops.")

    def is_in_the_way(self, connection: Connection) -> bool:
        """Whether an association should end if it is idle."""
        return self._associations.is_in_the_way(connection)


class _AcceptedAssociation:
    """The acceptor side of one association."""

    def __init__(self, scp: StorageSCP, connection: Connection) -> None:
        self._scp = scp
        self._connection = connection
        self._busy = False
        self._contexts: dict[int, tuple[str, str]] = {}
        sock, host, limit = connection.sock, connection.host, scp.limit_of_request(connection.known)
        self.wire = SecureWire(sock, host, limit, scp.context) if scp.context else Wire(sock, host, limit)
        self.wire.push(connection.received)
        self.wire.advice = "Check that it is not overloaded; the receiver aborts the association."
        self.wire.tls_advice = "Set PACS_TASKS_RECEIVER_TLS_CERTIFICATE to accept it."
        self.wire.watch = self._check
        self._idle_since = time.monotonic()

    def run(self) -> None:
        """Serve until the remote releases; abort if anything fails."""
        try:
            self._run()
        finally:
            self.wire.abort()

    def _check(self) -> None:
        self._scp.check_running(self._busy)
        idle = 0.0 if self._busy else time.monotonic() - self._idle_since
        if idle > IDLE_WHEN_CROWDED and self._scp.is_in_the_way(self._connection):
            raise self.wire.lost("was idle while many others called. The association was aborted.")

    def _run(self) -> None:
        if isinstance(self.wire, SecureWire):
            try:
                self.wire.handshake()
            except TLSError:
                self._scp.callers.note_failed_handshake(self._connection.host)
                raise
        kind, content = self.wire.receive_pdu("an association request")
        if kind != A_ASSOCIATE_RQ:
            raise self.wire.protocol_error(f"began with a PDU of type {kind}")
        try:
            request = negotiation.decode_request(content)
        except ValueError as error:
            raise self.wire.protocol_error(f"sent a malformed association request ({error})") from None
        if not self._is_admitted(request):
            return
        accepted = accept(request, reports=self._scp.on_report is not None)
        self.wire.send([negotiation.encode_accept(accepted, request)])
        self._contexts = {
            cx.context_id: (cx.abstract_syntax, accepted.results[cx.context_id][1])
            for cx in request.contexts
            if accepted.results[cx.context_id][0] == negotiation.ACCEPTED
        }
        log.debug("Association from %s: %d contexts accepted.", self.wire.remote, len(self._contexts))
        self.wire.limit = self._scp.timeouts.dimse
        self._serve_messages(MessageStream(self.wire, request.max_length, self._contexts), request.calling_aet)

    def _is_admitted(self, request: negotiation.AssociateRequest) -> bool:
        """Reject a caller that may not call, or for which there is no place."""
        host = self._connection.host
        self.wire.remote = f"{request.calling_aet} at {host}"
        certificates = self.wire.certificate_names() if isinstance(self.wire, SecureWire) else frozenset[str]()
        rejection = self._scp.callers.rejection(request, host, certificates, own=self._connection.own)
        if rejection is None and self._scp.admit(self._connection, request.calling_aet):
            return True
        numbers = _LOCAL_LIMIT_EXCEEDED if rejection is None else rejection[:3]
        reason = _TOO_MANY if rejection is None else rejection.reason
        self._scp.sparing.warning(host, "%s was rejected: %s.", self.wire.remote, reason)
        self.wire.send([negotiation.encode_reject(*numbers)])
        self.wire.close()
        return False

    def _serve_messages(self, stream: MessageStream, calling_aet: str) -> None:
        scp, sender = self._scp, sender_of(self.wire, calling_aet)
        intake = Intake(scp.limits, self.wire)
        origin = Origin(scp.directory, calling_aet, self.wire.remote, scp.place, intake=intake, sender=sender)
        while (message := stream.receive_command("the next message")) is not None:
            self._busy = True
            self.wire.limit_operation(self._scp.timeouts.operation)
            context_id, request = message
            if request.field == command.C_STORE_RQ:
                outcome = receive(stream, context_id, request, self._contexts[context_id], origin)
                if self._scp.on_instance is not None:
                    self._scp.on_instance(outcome)
            elif request.field == command.N_EVENT_REPORT_RQ and scp.on_report is not None:
                answer_report(
                    stream,
                    context_id,
                    request,
                    self._contexts[context_id],
                    scp.on_report,
                    is_known=scp.knows_transaction,
                    intake=intake,
                )
            else:
                _respond(stream, context_id, request, intake)
            self.wire.limit_operation()
            self._busy, self._idle_since = False, time.monotonic()


def _respond(stream: MessageStream, context_id: int, request: Command, intake: Intake) -> None:
    """Respond to C-ECHO, and to requests for services that a Storage SCP does not offer."""
    if request.field == command.C_CANCEL_RQ:
        # It has no response of its own (PS3.7 section 9.3.2.3).
        return
    if request.field is None or request.field & command.RESPONSE:
        # A response to a response would have no end.
        raise stream.wire.protocol_error("sent a message that is not a request")
    if request.has_data_set:
        intake.begin()
        for part in stream.receive_data(context_id, "the rest of a message"):
            intake.drain(len(part))
    stream.respond(context_id, request, 0x0000 if request.field == command.C_ECHO_RQ else _UNRECOGNISED_OPERATION, {})


def accept(request: negotiation.AssociateRequest, *, reports: bool = False) -> negotiation.AssociateAccept:
    """Accept Verification, and every storage class in any transfer syntax: bytes go to disk unchanged.

    Parameters
    ----------
    reports
        Also accept reports of the remote as the SCP of storage commitment, that is, with reversed roles (PS3.7 section
        D.3.3.4). A remote that proposes no role is trusted to know its own.
    """
    _, is_scp = request.roles.get(StorageCommitmentPushModel, (False, True))
    reports = reports and is_scp
    roles = (
        {StorageCommitmentPushModel: (False, True)} if reports and StorageCommitmentPushModel in request.roles else {}
    )
    results = {cx.context_id: _result(cx, reports) for cx in request.contexts}
    operations = None
    if request.operations is not None:
        # Messages are served in order, so the remote may send further ones meanwhile.
        operations = (min(request.operations[0] or MAX_OPERATIONS, MAX_OPERATIONS), 1)
    return negotiation.AssociateAccept(results, roles=roles, operations=operations)


def _result(cx: negotiation.ProposedContext, reports: bool) -> tuple[int, str]:
    """Give result and transfer syntax of one presentation context (PS3.8 section 9.3.3.2)."""
    # Anything longer is not a UID (PS3.5 section 9.1), and would stay in our tables and files.
    syntaxes = tuple(each for each in cx.transfer_syntaxes if len(each) <= LONGEST_UID)
    if not syntaxes:
        return negotiation.TRANSFER_SYNTAXES_NOT_SUPPORTED, IMPLICIT_VR_LITTLE_ENDIAN
    if reports and cx.abstract_syntax == StorageCommitmentPushModel:
        syntax = next((each for each in REPORT_SYNTAXES if each in syntaxes), "")
        return (negotiation.ACCEPTED, syntax) if syntax else (negotiation.TRANSFER_SYNTAXES_NOT_SUPPORTED, syntaxes[0])
    if cx.abstract_syntax != VERIFICATION and not is_storage_class(cx.abstract_syntax):
        return negotiation.ABSTRACT_SYNTAX_NOT_SUPPORTED, syntaxes[0]
    if syntaxes[0] == IMPLICIT_VR_LITTLE_ENDIAN and EXPLICIT_VR_LITTLE_ENDIAN in syntaxes:
        # Implicit VR loses the VRs of private elements.
        return negotiation.ACCEPTED, EXPLICIT_VR_LITTLE_ENDIAN
    return negotiation.ACCEPTED, syntaxes[0]


@lru_cache(maxsize=1024)
def is_storage_class(uid: str) -> bool:
    """Whether instances of a SOP class are stored: those that the Standard calls so, and all that it does not name.

    Unknown classes are private, or newer than the dictionary. pynetdicom's storage service does not serve as a table
    here: it lacks 38 storage classes of the dictionary, mostly retired ones that archives still send.
    """
    if not uid or len(uid) > LONGEST_UID or uid == MediaStorageDirectoryStorage:
        return False
    known = UID(uid, IGNORE)
    if known.name == uid:
        return True
    return known.type == "SOP Class" and "Storage" in known.name and "Storage Commitment" not in known.name


def listen(host: str, port: int) -> socket.socket:
    """Bind to the first address of ``host``; port 0 is any free one.

    Raises
    ------
    OSError
        If the port is taken or the address is not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            # On Windows the same option would let two programs share a port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.settimeout(SLICE)
    except BaseException:
        listener.close()
        raise
    return listener
