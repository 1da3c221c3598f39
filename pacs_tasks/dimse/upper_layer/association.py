"""An association with a remote (PS3.8): requested, used by one caller at a time, released. It has no thread."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command, DataSet, MessageStream
from pacs_tasks.dimse.upper_layer.connecting import open_wire
from pacs_tasks.dimse.upper_layer.negotiation import (
    ACCEPTED,
    USER_REJECTION,
    AssociateAccept,
    AssociateRequest,
    Context,
    encode_identity,
    negotiate,
    propose,
)
from pacs_tasks.dimse.upper_layer.wire import (
    A_ABORT,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    RELEASE_RP,
    RELEASE_RQ,
    Watch,
    Wire,
)
from pacs_tasks.errors import (
    JobCancelledError,
    PacsTasksError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
)
from pacs_tasks.settings import settings

log = logging.getLogger(__name__)

#: Whether to stop waiting. It is called at most about four times a second, so it may query Redis.
StopCheck = Callable[[], bool]

_NAMES = {
    command.C_ECHO_RQ: "C-ECHO",
    command.C_STORE_RQ: "C-STORE",
    command.C_FIND_RQ: "C-FIND",
    command.C_MOVE_RQ: "C-MOVE",
    command.C_GET_RQ: "C-GET",
    command.N_ACTION_RQ: "N-ACTION",
}
#: Receives the remote, the service (``C-STORE``) and the seconds from a request to its final response.
OnAnswered = Callable[[RemoteAE, str, float], object]

_observers: list[OnAnswered] = []


def observe(observer: OnAnswered) -> None:
    """Have ``observer`` called after each final response, on the thread that received it."""
    _observers.append(observer)


def answered(remote: RemoteAE, service: str, seconds: float) -> None:
    """Tell the observers of a final response."""
    for observer in _observers:
        observer(remote, service, seconds)


#: Seconds that a release may take: nothing depends on the response.
_RELEASE_LIMIT = 5.0
#: Seconds that the data set of a final response may take once it has begun.
_FINAL_DATA_LIMIT = 5.0


@dataclass(frozen=True)
class Timeouts:
    """Limits in seconds.

    Attributes
    ----------
    connect
        Until a TCP connection is open.
    acse
        Until an association request is answered.
    dimse
        Between two PDUs of the remote.
    operation
        From a request to its last response, however active the remote is.
    progress
        Without a new instance or changed counts during a C-MOVE or C-GET.
    """

    connect: float
    acse: float
    dimse: float
    operation: float = math.inf
    progress: float = math.inf

    @classmethod
    def of(cls, seconds: float, operation: float = math.inf, progress: float = math.inf) -> Timeouts:
        """Use one limit for ``connect``, ``acse`` and ``dimse``."""
        return cls(seconds, seconds, seconds, operation, progress)


class Association:
    """An open association, made by :meth:`open`.

    It is a context manager that releases, or aborts after an exception.

    Attributes
    ----------
    accepted_contexts
        (abstract syntax, accepted transfer syntax) -> presentation context id.
    refused
        Why contexts were refused: (abstract syntax, transfer syntax) -> result (PS3.8 table 9-18). It has all that were
        proposed, the accepted ones too.
    roles
        SOP classes for which the remote accepted our SCP role.
    window
        How many requests may be outstanding at once.
    max_length
        Bytes that the remote accepts in one PDU; 0 means no limit.
    stop
        Called at least every half second while waiting. Once it is true, :class:`JobCancelledError` ends the wait.
    """

    def __init__(
        self,
        local: LocalAE,
        remote: RemoteAE,
        *,
        timeouts: Timeouts,
        wire: Wire,
        request: AssociateRequest,
        accept: AssociateAccept,
    ) -> None:
        self.local = local
        self.remote = remote
        self.timeouts = timeouts
        self.stop: StopCheck | None = None
        self.wire = wire
        by_id = _accepted_contexts(request, accept)
        self.contexts_by_id: Mapping[int, tuple[str, str]] = MappingProxyType(by_id)
        # If several contexts have one pair, the first.
        self.accepted_contexts: Mapping[tuple[str, str], int] = MappingProxyType(
            {pair: next(number for number, other in by_id.items() if other == pair) for pair in by_id.values()}
        )
        self.stream = MessageStream(wire, accept.max_length, self.contexts_by_id)
        self.refused = {
            (cx.abstract_syntax, syntax): accept.results.get(cx.context_id, (USER_REJECTION, ""))[0]
            for cx in request.contexts
            for syntax in cx.transfer_syntaxes
        }
        self.roles = frozenset(uid for uid, (_, scp) in accept.roles.items() if scp)
        self.window = _window(request.operations, accept.operations)
        self.max_length = accept.max_length
        self._proposed = {(cx.abstract_syntax, cx.transfer_syntaxes) for cx in request.contexts}
        self._busy = False
        self._message_id = 0
        wire.limit = timeouts.dimse
        wire.hint = "Check its log."
        wire.watch = self._check_stop

    @classmethod
    def open(
        cls,
        local: LocalAE,
        remote: RemoteAE,
        contexts: Sequence[Context],
        timeouts: Timeouts,
        stop: StopCheck | None = None,
        *,
        window: int = 1,
    ) -> Association:
        """Connect and request an association (PS3.8 section 7.1).

        Parameters
        ----------
        window
            How many outstanding requests to propose (PS3.7 section D.3.3.3). Most remotes accept one.

        Raises
        ------
        PeerUnreachableError
            The connection was refused, no answer arrived in time, or the remote aborted. It may work later.
        PeerBusyError
            A transient rejection. It may work soon.
        AssociationRejectedError
            A permanent rejection. The message names the AE title to check.
        TLSError
            The TLS handshake cannot succeed. The message names the certificate to check.
        JobCancelledError
            ``stop`` returned true.
        """
        request = propose(local, remote, contexts, window, encode_identity(settings().identity(remote)))

        def watch() -> None:
            if stop is not None and stop():
                raise JobCancelledError(f"Cancelled while waiting for {remote}.")

        watch()
        wire, accept = _connect(local, remote, request, timeouts, watch)
        assoc = cls(local, remote, timeouts=timeouts, wire=wire, request=request, accept=accept)
        assoc.stop = stop
        log.debug(
            "association with %s: %d of %d contexts accepted", remote, len(assoc.accepted_contexts), len(contexts)
        )
        return assoc

    def covers(self, pairs: Collection[tuple[str, str]]) -> bool:
        """Whether each (SOP class, transfer syntax) was proposed on this association, accepted or not."""
        return all(pair in self.refused for pair in pairs)

    def fits(self, contexts: Iterable[Context]) -> bool:
        """Whether it does for messages of these presentation contexts: another association would accept no more.

        A syntax that was proposed beside others, of which the remote chose one (PS3.8 section 9.3.3.2), may be accepted
        where it is proposed alone.
        """
        return all(self._decides(each) for each in contexts)

    def _decides(self, context: Context) -> bool:
        pairs = [(context.abstract_syntax, syntax) for syntax in context.transfer_syntaxes]
        if any(pair in self.accepted_contexts for pair in pairs):
            return True
        if len(pairs) == 1:
            return (context.abstract_syntax, context.transfer_syntaxes) in self._proposed
        return self.covers(pairs)

    def context_of(self, sop_class_uid: str) -> tuple[int, str] | None:
        """Return the id and the transfer syntax of the first accepted presentation context of a SOP class."""
        pairs = self.accepted_contexts.items()
        return next(((number, syntax) for (sop_class, syntax), number in pairs if sop_class == sop_class_uid), None)

    def reusable(self) -> bool:
        """Whether another message may be sent: it is open and idle, and the remote has sent nothing since."""
        return not self._busy and not self.stream.has_input(0)

    def release(self) -> None:
        """Release (PS3.8 section 7.2) and close. All responses have arrived by then, so it never raises."""
        if self.wire.closed:
            return
        if self._busy:
            self.abort()
            return
        self.wire.limit = min(self.timeouts.acse, _RELEASE_LIMIT)
        self.wire.watch = None
        try:
            self._exchange_release()
        except PacsTasksError as error:
            log.debug("release: %s", error.message)
        self.wire.close()

    def _exchange_release(self) -> None:
        """Request the release, unless the remote has already done so and expects only our response."""
        requested, deadline = False, time.monotonic() + self.wire.limit
        while time.monotonic() < deadline:
            if not requested and not self.wire.has_input(0):
                self.wire.send([RELEASE_RQ])
                requested = True
            kind, _ = self.wire.receive_pdu("the response to the release")
            if kind == A_RELEASE_RQ:
                self.wire.send([RELEASE_RP])
            # If both sides requested it (PS3.8 section 7.2.2.7), the response to ours is still to come.
            if kind in {A_RELEASE_RP, A_ABORT} or (kind == A_RELEASE_RQ and not requested):
                return

    def abort(self) -> None:
        """Abort (PS3.8 section 7.3) and close. Never raises."""
        self.wire.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.release()
        else:
            self.abort()

    # For the services

    @contextmanager
    def exchange(self, request: int, message_id: int = 0) -> Iterator[int]:
        """Give the message id (PS3.7 section E.1) for one request and its responses; 0 chooses the next one.

        Parameters
        ----------
        request
            The command field of the request.
        """
        begun = time.monotonic()
        with self.busy():
            self._message_id = message_id - 1 if message_id else self._message_id
            yield self.next_message_id()
        if service := _NAMES.get(request):
            answered(self.remote, service, time.monotonic() - begun)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark requests as outstanding. An exception aborts the association."""
        self.wire.check_open()
        self._busy = True
        try:
            yield
        except BaseException:
            self.abort()
            raise
        self._busy = False
        self.wire.limit_operation()

    @property
    def fresh(self) -> bool:
        """Whether nothing has been requested over it yet."""
        return not self._message_id

    def next_message_id(self) -> int:
        """Give the id of the next request and start the time limit of its operation. Needs :meth:`busy`."""
        self.wire.limit_operation(self.timeouts.operation)
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def send(self, context_id: int, command_set: bytes, data_set: DataSet | None = None) -> None:
        """Send a message; see :meth:`MessageStream.send`."""
        self.stream.send(context_id, command_set, data_set)

    def request(
        self,
        context_id: int,
        field: int,
        message_id: int,
        more: Mapping[int, int | str] = MappingProxyType({}),
        data_set: DataSet | None = None,
    ) -> None:
        """Send a request of a service, with the SOP class of the presentation context; see :meth:`MessageStream.send`.

        Parameters
        ----------
        field
            The Command Field.
        more
            Further elements of the command set.
        """
        elements: dict[int, int | str] = {
            command.AFFECTED_SOP_CLASS_UID: self.contexts_by_id[context_id][0],
            command.COMMAND_FIELD: field,
            command.MESSAGE_ID: message_id,
            **more,
        }
        self.send(context_id, command.encode(elements, data_set=data_set is not None), data_set)

    def receive_command(self, awaited: str) -> tuple[int, Command]:
        """Receive the context id and the command set of the next message."""
        found = self.stream.receive_command(awaited)
        if found is None:
            raise PeerUnavailableError(
                f"{self.remote} released the association before {awaited} arrived. Check its log."
            )
        return found

    def receive_response(self, context_id: int, message_id: int, request: int) -> tuple[Command, int]:
        """Receive the command set and the status of the response to a request.

        Raises
        ------
        PeerUnavailableError
            If another message arrives, or a response without a status, which is never success.
        """
        name = _NAMES[request]
        found_id, answer = self.receive_command(f"the {name} response")
        return answer, self.check_response(found_id == context_id, answer, message_id, request)

    def check_response(self, same_context: bool, answer: Command, message_id: int, request: int) -> int:
        """Check that a message is the response to this request, and give its status."""
        name = _NAMES[request]
        code = answer.number(command.STATUS)
        if not same_context or answer.field != request | command.RESPONSE:
            raise self.wire.lost(f"sent another message instead of the {name} response. Check its log.")
        if answer.number(command.MESSAGE_ID_RESPONDED_TO) != message_id:
            raise self.wire.lost(f"sent the response to another message than our {name}. Check its log.")
        if code is None:
            raise self.wire.lost(f"sent a {name} response without a status. Check its log.")
        return code

    def receive_final_data(self, context_id: int, seconds: float) -> bytes:
        """Receive the data set that a final response announces, or nothing if it does not begin within ``seconds``.

        Some remotes announce one and send none (PS3.7 section 9.1.2.1.5 allows an identifier in pending responses
        only). The status has arrived, so no failure here counts.
        """
        if not self.stream.has_input(seconds):
            return b""
        limit, self.wire.limit = self.wire.limit, min(self.wire.limit, _FINAL_DATA_LIMIT)
        try:
            return self.stream.receive_identifier(context_id, "the rest of the final response")
        except PeerUnavailableError as error:
            log.debug("the data set of a final response: %s", error.message)
            self.abort()
            return b""
        finally:
            self.wire.limit = limit

    def _check_stop(self) -> None:
        if self.stop is not None and self.stop():
            raise JobCancelledError(f"Cancelled while waiting for {self.remote}.")


def _connect(
    local: LocalAE,
    remote: RemoteAE,
    request: AssociateRequest,
    timeouts: Timeouts,
    watch: Watch,
) -> tuple[Wire, AssociateAccept]:
    """Connect and negotiate. A remote that is lost meanwhile counts as unreachable, unless it is only busy."""
    try:
        wire = open_wire(remote, timeouts.connect, timeouts.acse, watch)
        try:
            return wire, negotiate(wire, request, local, remote)
        except BaseException:
            wire.abort()
            raise
    except PeerBusyError:
        raise
    except PeerUnavailableError as error:
        raise PeerUnreachableError(error.message) from None


def _accepted_contexts(request: AssociateRequest, accept: AssociateAccept) -> dict[int, tuple[str, str]]:
    """Give context id -> (abstract syntax, transfer syntax). A transfer syntax that we did not propose is rejected."""
    found: dict[int, tuple[str, str]] = {}
    for cx in request.contexts:
        result, syntax = accept.results.get(cx.context_id, (USER_REJECTION, ""))
        if result == ACCEPTED and syntax in cx.transfer_syntaxes:
            found[cx.context_id] = (cx.abstract_syntax, syntax)
    return found


def _window(proposed: tuple[int, int] | None, accepted: tuple[int, int] | None) -> int:
    """Give the number of outstanding requests: 1 if the remote does not answer the proposal; 0 means no limit."""
    if proposed is None or accepted is None:
        return 1
    return min(proposed[0], accepted[0] or proposed[0])
