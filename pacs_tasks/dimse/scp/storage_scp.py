"""A Storage SCP (PS3.4 annex B): what C-MOVE delivers to, and where peers report about storage commitment.

One thread for each association, and no other.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from pacs_tasks.ae import TLS, LocalAE
from pacs_tasks.dimse.commitment import OnReport, answer_report
from pacs_tasks.dimse.scp.acceptance import negotiate
from pacs_tasks.dimse.scp.c_store import Origin, Place, receive
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import pdu as acse
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.stream import MessageStream
from pacs_tasks.dimse.upper_layer.tls import SecureWire, called_context
from pacs_tasks.dimse.upper_layer.wire import A_ASSOCIATE_RQ, SLICE, Wire
from pacs_tasks.errors import JobCancelledError, PeerUnavailableError, TLSError
from pacs_tasks.outcome import InstanceOutcome

log = logging.getLogger(__name__)

#: Peers keep associations open between studies; this long without a message is an end. An instance of many gigabytes
#: takes its time on a slow line, but not for ever.
IDLE = Timeouts(connect=10, acse=30, dimse=300, operation=3600)
#: A thread and a quarter of a megabyte each; far more than a PACS opens to one destination.
MAX_ASSOCIATIONS = 64
#: Connections beyond the associations: those that have not asked yet, and those that are being told to come back.
_WAITING = 64
_BACKLOG = 128
_UNRECOGNIZED_OPERATION = 0x0211
#: A-ASSOCIATE-RJ: transient, by the presentation provider, local limit exceeded (PS3.8 section 9.3.4).
_LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


class StorageSCP:
    """Receives instances into a directory, and reports about storage commitment; answers C-ECHO; nothing else.

    Parameters
    ----------
    local
        Our AE title, for logs: peers may call us by any.
    port
        0 is any free one; :attr:`port` has the real one.
    directory
        Made if missing. Files go to ``<directory>/<study>/<series>/<instance>.dcm``, or where ``place`` says.
    timeouts
        ``acse`` limits the wait for the association request, ``dimse`` the silence after it.
    on_instance
        Called in the association's thread for each instance, received or refused.
    max_associations
        More than so many at once are asked to come back later.
    listener
        A socket of :func:`listen`, which other processes may share; without it, one of our own.
    on_report
        Takes what a peer reports about storage commitment, in the association's thread; left out, none may.
    tls
        Our certificate and key: nothing but TLS is taken then. With ``ca_file``, only callers with a certificate.
    place
        Called in the association's thread when an instance is whole: its path below ``directory``, or a refusal.

    Raises
    ------
    UnreadableInputError
        If a file of ``tls`` cannot be used.
    OSError
        If the port is taken, the address is not ours, or the directory cannot be made.
    """

    def __init__(  # noqa: PLR0917 - what it needs, then what few callers give
        self,
        local: LocalAE,
        host: str,
        port: int,
        directory: Path,
        timeouts: Timeouts = IDLE,
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
        """Begin to accept associations."""
        self._accepting.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End: idle associations at once, others when their message is done or ``timeout`` seconds are over."""
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
                # Callers that never ask end by their time-out; until then the others wait in the system's queue.
                self._stopping.wait(SLICE)
                continue
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Too many open files, or a peer that has gone already: the next one may do better.
                log.warning("a connection could not be accepted: %s", error.strerror)
                self._stopping.wait(SLICE)
                continue
            thread = threading.Thread(target=self._serve, args=(sock, str(address[0])), name="storage-scp", daemon=True)
            with self._lock:
                self._serving.add(thread)
            try:
                thread.start()
            except RuntimeError:
                log.warning("a connection could not be accepted: the system gives no more threads")
                sock.close()
                with self._lock:
                    self._serving.discard(thread)
                self._stopping.wait(SLICE)

    def admit(self) -> bool:
        """Take a place for the association of this thread, if there is one."""
        with self._lock:
            if len(self._admitted) >= self.max_associations:
                return False
            self._admitted.add(threading.current_thread())
            return True

    def _serve(self, sock: socket.socket, host: str) -> None:
        conversation = _Conversation(self, sock, host)
        try:
            conversation.run()
        except (PeerUnavailableError, TLSError) as error:
            log.warning("association ended: %s", error.message)
        except JobCancelledError:
            log.info("association with %s aborted: the receiver stops", host)
        except Exception:
            log.exception("association with %s aborted by a fault of the receiver", host)
        finally:
            conversation.wire.abort()
            with self._lock:
                self._serving.discard(threading.current_thread())
                self._admitted.discard(threading.current_thread())

    def check_running(self, busy: bool) -> None:
        """End an association that waits, or one at work whose time is up, once the receiver stops."""
        if self._stopping.is_set() and (not busy or time.monotonic() >= self._until):
            raise JobCancelledError("the receiver stops")


class _Conversation:
    """One accepted association."""

    def __init__(self, scp: StorageSCP, sock: socket.socket, host: str) -> None:
        self._scp = scp
        self._host = host
        self._busy = False
        self._contexts: dict[int, tuple[str, str]] = {}
        limit = scp.timeouts.acse
        self.wire = SecureWire(sock, host, limit, scp.context) if scp.context else Wire(sock, host, limit)
        self.wire.advice = "the receiver aborts it"
        self.wire.tls_advice = "set PACS_TASKS_RECEIVER_TLS_CERTIFICATE for a receiver that does"
        self.wire.watch = lambda: scp.check_running(self._busy)

    def run(self) -> None:
        """Serve until the peer releases."""
        if isinstance(self.wire, SecureWire):
            self.wire.shake_hands()
        kind, content = self.wire.receive_pdu("an association request")
        if kind != A_ASSOCIATE_RQ:
            raise self.wire.protocol_error(f"began with a PDU of type {kind}")
        try:
            request = acse.decode_request(content)
        except ValueError as error:
            raise self.wire.protocol_error(f"sent a malformed association request ({error})") from None
        self.wire.peer = f"{request.calling_aet} at {self._host}"
        if not self._scp.admit():
            log.warning("%s is asked to come back later: too many associations are open", self.wire.peer)
            self.wire.send([acse.encode_reject(*_LOCAL_LIMIT_EXCEEDED)])
            self.wire.close()
            return
        accept = negotiate(request, reports=self._scp.on_report is not None)
        self.wire.send([acse.encode_accept(accept, request)])
        self._contexts = {
            cx.context_id: (cx.abstract_syntax, accept.results[cx.context_id][1])
            for cx in request.contexts
            if accept.results[cx.context_id][0] == acse.ACCEPTED
        }
        log.debug("association from %s: %d contexts accepted", self.wire.peer, len(self._contexts))
        self.wire.limit = self._scp.timeouts.dimse
        self._serve_messages(MessageStream(self.wire, request.max_length, self._contexts), request.calling_aet)

    def _serve_messages(self, stream: MessageStream, calling_aet: str) -> None:
        origin = Origin(self._scp.directory, calling_aet, self.wire.peer, self._scp.place)
        while True:
            message = stream.receive_command("the next message")
            if message is None:
                return
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
                self._answer(stream, context_id, request)
            self.wire.limit_operation()
            self._busy = False

    @staticmethod
    def _answer(stream: MessageStream, context_id: int, request: Command) -> None:
        """C-ECHO, and what a Storage SCP does not do."""
        if request.field == command.C_CANCEL_RQ:
            # It has no response of its own (PS3.7 section 9.3.2.3).
            return
        if request.field is None or request.field & command.RESPONSE:
            # To answer an answer would have both talk for ever.
            raise stream.wire.protocol_error("sent a message that is no request")
        if request.has_data_set:
            for _ in stream.receive_data(context_id, "the rest of a message"):
                pass
        code = 0x0000 if request.field == command.C_ECHO_RQ else _UNRECOGNIZED_OPERATION
        elements: dict[int, int | str] = {
            command.AFFECTED_SOP_CLASS_UID: request.text(command.AFFECTED_SOP_CLASS_UID),
            command.COMMAND_FIELD: request.field | command.RESPONSE,
            command.MESSAGE_ID_RESPONDED_TO: request.number(command.MESSAGE_ID) or 0,
            command.STATUS: code,
        }
        stream.send(context_id, command.encode(elements, data_set=False))


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
