"""A Storage SCP (PS3.4 annex B): the destination of C-MOVE and of reports on storage commitment.

It uses one thread per association and one that accepts connections.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom.config import IGNORE
from pydicom.uid import UID, MediaStorageDirectoryStorage
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs_tasks.ae import TLS, LocalAE
from pacs_tasks.dimse.c_echo import VERIFICATION
from pacs_tasks.dimse.commitment import REPORT_SYNTAXES, OnReport, answer_report
from pacs_tasks.dimse.files.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.scp.c_store import Origin, Place, receive
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
#: Each takes a thread and a quarter of a megabyte. A PACS opens far fewer to one destination.
MAX_ASSOCIATIONS = 64
#: Further connections: those without a request yet, and those that are being rejected for now.
_WAITING = 64
_BACKLOG = 128
_UNRECOGNISED_OPERATION = 0x0211
#: A-ASSOCIATE-RJ: transient, by the presentation provider, local limit exceeded (PS3.8 section 9.3.4).
_LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
#: Outstanding requests that a remote may have if it proposes an asynchronous operations window.
MAX_OPERATIONS = 64
_LONGEST_UID = 64


class StorageSCP:
    """Receive instances into a directory, and reports on storage commitment, and answer C-ECHO.

    Parameters
    ----------
    local
        Our AE title, for logs: remotes may call any.
    port
        0 chooses a free one; see :attr:`port`.
    directory
        Made if missing. Files go to ``<directory>/<study>/<series>/<instance>.dcm`` unless ``place`` decides.
    timeouts
        ``acse`` limits the wait for the association request, ``dimse`` silence after it.
    on_instance
        Called in the thread of the association for each instance, received or refused.
    max_associations
        Further associations are rejected for now.
    listener
        A socket made by :func:`listen`, which other processes may share; the default is one of its own.
    on_report
        Called in the thread of the association with a report on storage commitment; without it none are accepted.
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
        local: LocalAE,
        host: str,
        port: int,
        directory: Path,
        timeouts: Timeouts = IDLE,
        *,
        on_instance: Callable[[InstanceOutcome], None] | None = None,
        max_associations: int = MAX_ASSOCIATIONS,
        listener: socket.socket | None = None,
        on_report: OnReport | None = None,
        tls: TLS | None = None,
        place: Place | None = None,
    ) -> None:
        self.local = local
        self.directory = directory
        self.timeouts = timeouts
        self.on_instance = on_instance
        self.max_associations = max_associations
        self.on_report = on_report
        self.place = place
        self.context = None if tls is None else called_context(tls)
        directory.mkdir(parents=True, exist_ok=True)
        self._listener = listener or listen(host, port)
        self.port: int = self._listener.getsockname()[1]
        self._stopping = threading.Event()
        self._until = 0.0
        self._accepting = threading.Thread(target=self._accept, name="storage-scp", daemon=True)
        self._lock = threading.Lock()
        self._serving: set[threading.Thread] = set()
        self._admitted: set[threading.Thread] = set()

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if len(self._serving) >= self.max_associations + _WAITING:
                # Callers that send no request time out; until then further ones wait in the queue of the system.
                self._stopping.wait(SLICE)
                continue
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Too many open files, or the caller has already gone: the next one may succeed.
                log.warning("A connection could not be accepted: %s.", error.strerror)
                self._stopping.wait(SLICE)
                continue
            thread = threading.Thread(target=self._serve, args=(sock, str(address[0])), name="storage-scp", daemon=True)
            with self._lock:
                self._serving.add(thread)
            try:
                thread.start()
            except RuntimeError:
                log.warning("A connection could not be accepted: the system has no more threads.")
                sock.close()
                with self._lock:
                    self._serving.discard(thread)
                self._stopping.wait(SLICE)

    def admit(self) -> bool:
        """Count the association of this thread; false if there are too many."""
        with self._lock:
            if len(self._admitted) >= self.max_associations:
                return False
            self._admitted.add(threading.current_thread())
            return True

    def _serve(self, sock: socket.socket, host: str) -> None:
        assoc = _AcceptedAssociation(self, sock, host)
        try:
            assoc.run()
        except (PeerUnavailableError, TLSError) as error:
            log.warning("An association ended: %s", error.message)
        except JobCancelledError:
            log.info("The association with %s was aborted because the receiver stops.", host)
        except Exception:
            log.exception("The association with %s was aborted by a fault of the receiver.", host)
        finally:
            assoc.wire.abort()
            with self._lock:
                self._serving.discard(threading.current_thread())
                self._admitted.discard(threading.current_thread())

    def check_running(self, busy: bool) -> None:
        """Once the receiver stops, end an idle association, and a busy one when its time is up."""
        if self._stopping.is_set() and (not busy or time.monotonic() >= self._until):
            raise JobCancelledError("The receiver stops.")


class _AcceptedAssociation:
    """The acceptor side of one association."""

    def __init__(self, scp: StorageSCP, sock: socket.socket, host: str) -> None:
        self._scp = scp
        self._host = host
        self._busy = False
        self._contexts: dict[int, tuple[str, str]] = {}
        limit = scp.timeouts.acse
        self.wire = SecureWire(sock, host, limit, scp.context) if scp.context else Wire(sock, host, limit)
        self.wire.advice = "Check that it is not overloaded; the receiver aborts the association."
        self.wire.tls_advice = "Set PACS_TASKS_RECEIVER_TLS_CERTIFICATE to accept it."
        self.wire.watch = lambda: scp.check_running(self._busy)

    def run(self) -> None:
        """Serve until the remote releases."""
        if isinstance(self.wire, SecureWire):
            self.wire.handshake()
        kind, content = self.wire.receive_pdu("an association request")
        if kind != A_ASSOCIATE_RQ:
            raise self.wire.protocol_error(f"began with a PDU of type {kind}")
        try:
            request = negotiation.decode_request(content)
        except ValueError as error:
            raise self.wire.protocol_error(f"sent a malformed association request ({error})") from None
        self.wire.remote = f"{request.calling_aet} at {self._host}"
        if not self._scp.admit():
            log.warning("%s was rejected for now: too many associations are open.", self.wire.remote)
            self.wire.send([negotiation.encode_reject(*_LOCAL_LIMIT_EXCEEDED)])
            self.wire.close()
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

    def _serve_messages(self, stream: MessageStream, calling_aet: str) -> None:
        origin = Origin(self._scp.directory, calling_aet, self.wire.remote, self._scp.place)
        while (message := stream.receive_command("the next message")) is not None:
            self._busy = True
            self.wire.limit_operation(self._scp.timeouts.operation)
            context_id, request = message
            if request.field == command.C_STORE_RQ:
                outcome = receive(stream, context_id, request, self._contexts[context_id], origin)
                if self._scp.on_instance is not None:
                    self._scp.on_instance(outcome)
            elif request.field == command.N_EVENT_REPORT_RQ and self._scp.on_report is not None:
                answer_report(stream, context_id, request, self._contexts[context_id], self._scp.on_report)
            else:
                _respond(stream, context_id, request)
            self.wire.limit_operation()
            self._busy = False


def _respond(stream: MessageStream, context_id: int, request: Command) -> None:
    """Respond to C-ECHO, and to requests for services that a Storage SCP does not offer."""
    if request.field == command.C_CANCEL_RQ:
        # It has no response of its own (PS3.7 section 9.3.2.3).
        return
    if request.field is None or request.field & command.RESPONSE:
        # A response to a response would have no end.
        raise stream.wire.protocol_error("sent a message that is not a request")
    if request.has_data_set:
        for _ in stream.receive_data(context_id, "the rest of a message"):
            pass
    elements: dict[int, int | str] = {
        command.AFFECTED_SOP_CLASS_UID: request.text(command.AFFECTED_SOP_CLASS_UID),
        command.COMMAND_FIELD: request.field | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: request.number(command.MESSAGE_ID) or 0,
        command.STATUS: 0x0000 if request.field == command.C_ECHO_RQ else _UNRECOGNISED_OPERATION,
    }
    stream.send(context_id, command.encode(elements, data_set=False))


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
    syntaxes = tuple(each for each in cx.transfer_syntaxes if len(each) <= _LONGEST_UID)
    if not syntaxes:
        return negotiation.TRANSFER_SYNTAXES_NOT_SUPPORTED, IMPLICIT_VR_LITTLE_ENDIAN
    if reports and cx.abstract_syntax == StorageCommitmentPushModel:
        return _report_result(syntaxes)
    if cx.abstract_syntax != VERIFICATION and not is_storage_class(cx.abstract_syntax):
        return negotiation.ABSTRACT_SYNTAX_NOT_SUPPORTED, syntaxes[0]
    if syntaxes[0] == IMPLICIT_VR_LITTLE_ENDIAN and EXPLICIT_VR_LITTLE_ENDIAN in syntaxes:
        # Implicit VR loses the VRs of private elements.
        return negotiation.ACCEPTED, EXPLICIT_VR_LITTLE_ENDIAN
    return negotiation.ACCEPTED, syntaxes[0]


def _report_result(syntaxes: tuple[str, ...]) -> tuple[int, str]:
    """Give result and transfer syntax of a presentation context for reports on storage commitment."""
    syntax = next((each for each in REPORT_SYNTAXES if each in syntaxes), "")
    return (negotiation.ACCEPTED, syntax) if syntax else (negotiation.TRANSFER_SYNTAXES_NOT_SUPPORTED, syntaxes[0])


@lru_cache(maxsize=1024)
def is_storage_class(uid: str) -> bool:
    """Whether instances of a SOP class are stored: those that the Standard calls so, and all that it does not name.

    Unknown classes are private, or newer than the dictionary. pynetdicom's storage service does not serve as a table
    here: it lacks 38 storage classes of the dictionary, mostly retired ones that archives still send.
    """
    if not uid or len(uid) > _LONGEST_UID or uid == MediaStorageDirectoryStorage:
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
