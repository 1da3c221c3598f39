"""An association with a peer (PS3.8): asked for, used by one caller at a time, released. No thread."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.connect import open_wire
from pacs_tasks.dimse.upper_layer.negotiation import Agreement, Context, agree, propose
from pacs_tasks.dimse.upper_layer.stream import DataSet, MessageStream
from pacs_tasks.dimse.upper_layer.wire import A_ABORT, A_RELEASE_RP, A_RELEASE_RQ, RELEASE_RP, RELEASE_RQ, Wire
from pacs_tasks.errors import (
    JobCancelledError,
    PacsTasksError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
)

log = logging.getLogger(__name__)

#: Whether the one who asked has given up. It may ask Redis: it is called about four times a second, not more.
StopCheck = Callable[[], bool]

_NAMES = {
    command.C_ECHO_RQ: "C-ECHO",
    command.C_STORE_RQ: "C-STORE",
    command.C_FIND_RQ: "C-FIND",
    command.C_MOVE_RQ: "C-MOVE",
    command.C_GET_RQ: "C-GET",
    command.N_ACTION_RQ: "N-ACTION",
}
#: Nothing hangs on the peer's agreement to a release.
_RELEASE_LIMIT = 5.0


@dataclass(frozen=True)
class Timeouts:
    """How long a peer may stay silent, in seconds: to connect, to answer an association request, between two PDUs.

    ``operation`` limits a whole operation from its request to its last response, however much is said meanwhile, and
    ``progress`` how long a C-MOVE or C-GET may go on without an instance or other counts.
    """

    connect: float
    acse: float
    dimse: float
    operation: float = math.inf
    progress: float = math.inf

    @classmethod
    def of(cls, seconds: float, operation: float = math.inf, progress: float = math.inf) -> Timeouts:
        """The same limit for every silence."""
        return cls(seconds, seconds, seconds, operation, progress)


class Association:
    """An open association; :meth:`open` makes one.

    It is a context manager: it releases, or aborts where an exception passes.

    Attributes
    ----------
    accepted_contexts
        (abstract syntax, accepted transfer syntax) -> presentation context id.
    roles
        SOP classes that the peer will send to us: it accepted our SCP role.
    window
        How many requests may be under way at once.
    stop
        Asked at least every half second while waiting; once it is true, :class:`JobCancelledError` ends the wait.
    """

    def __init__(
        self,
        local: LocalAE,
        remote: RemoteAE,
        *,
        timeouts: Timeouts,
        wire: Wire,
        agreement: Agreement,
    ) -> None:
        self.local = local
        self.remote = remote
        self.timeouts = timeouts
        self.stop: StopCheck | None = None
        self.wire = wire
        by_id = agreement.contexts
        self.contexts_by_id: Mapping[int, tuple[str, str]] = MappingProxyType(by_id)
        # Of several contexts of one pair, the first.
        self.accepted_contexts: Mapping[tuple[str, str], int] = MappingProxyType(
            {pair: next(number for number, other in by_id.items() if other == pair) for pair in by_id.values()}
        )
        self.stream = MessageStream(wire, agreement.max_length, self.contexts_by_id)
        self.roles = agreement.roles
        self.window = agreement.window
        self._proposed = agreement.proposed
        self._busy = False
        self._message_id = 0
        wire.limit = timeouts.dimse
        wire.hint = ""
        wire.watch = self._look

    @classmethod
    def open(  # noqa: PLR0917 - what it needs, then what few callers give
        cls,
        local: LocalAE,
        remote: RemoteAE,
        contexts: Sequence[Context],
        timeouts: Timeouts,
        stop: StopCheck | None = None,
        window: int = 1,
    ) -> Association:
        """Connect and ask for an association (PS3.8 section 7.1).

        Parameters
        ----------
        window
            How many requests we would like to have under way at once (PS3.7 section D.3.3.3). Most peers take one.

        Raises
        ------
        PeerUnreachableError
            Connection refused, no answer in time, abort: it may work later.
        PeerBusyError
            A transient rejection: it may work soon.
        AssociationRejectedError
            The peer refuses us for good; the message says which AE title to check.
        TLSError
            No secure connection with it comes about; the message says which certificate to look at.
        JobCancelledError
            If ``stop`` said so meanwhile.
        """
        request = propose(local, remote, contexts, window)

        def look() -> None:
            if stop is not None and stop():
                raise JobCancelledError(f"cancelled while waiting for {remote}")

        look()
        try:
            wire = open_wire(remote, timeouts.connect, timeouts.acse, look)
            try:
                agreement = agree(wire, request, local, remote)
            except BaseException:
                wire.abort()
                raise
        except PeerBusyError:
            raise
        except PeerUnavailableError as error:
            raise PeerUnreachableError(error.message) from None
        assoc = cls(local, remote, timeouts=timeouts, wire=wire, agreement=agreement)
        assoc.stop = stop
        log.debug(
            "association with %s: %d of %d contexts accepted", remote, len(assoc.accepted_contexts), len(contexts)
        )
        return assoc

    def covers(self, pairs: Collection[tuple[str, str]]) -> bool:
        """Whether every (SOP class, transfer syntax) was proposed on this association, accepted or refused."""
        return self._proposed.issuperset(pairs)

    def context_of(self, sop_class_uid: str) -> tuple[int, str] | None:
        """Return the id and the transfer syntax of the first accepted presentation context of a SOP class."""
        pairs = self.accepted_contexts.items()
        return next(((number, syntax) for (sop_class, syntax), number in pairs if sop_class == sop_class_uid), None)

    def reusable(self) -> bool:
        """Whether another message may go over it: open, none half done, and the peer has not spoken since."""
        return not self._busy and not self.stream.has_input(0)

    def release(self) -> None:
        """Release (PS3.8 section 7.2) and close. All answers are in by now, so it never raises."""
        if self.wire.closed:
            return
        if self._busy:
            self.abort()
            return
        self.wire.limit = min(self.timeouts.acse, _RELEASE_LIMIT)
        self.wire.watch = None
        try:
            self._agree_to_release()
        except PacsTasksError as error:
            log.debug("release: %s", error.message)
        self.wire.close()

    def _agree_to_release(self) -> None:
        """Ask for it, unless the peer has asked meanwhile: it then expects our answer and no request."""
        asked, deadline = False, time.monotonic() + self.wire.limit
        while time.monotonic() < deadline:
            if not asked and not self.wire.has_input(0):
                self.wire.send([RELEASE_RQ])
                asked = True
            kind, _ = self.wire.receive_pdu("its agreement to the release")
            if kind == A_RELEASE_RQ:
                self.wire.send([RELEASE_RP])
            # Where both have asked (PS3.8 section 7.2.2.7), the answer to ours is still to come.
            if kind in {A_RELEASE_RP, A_ABORT} or (kind == A_RELEASE_RQ and not asked):
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

    # What the services use

    @contextmanager
    def exchange(self) -> Iterator[int]:
        """Give a message id (PS3.7 section E.1) to one request and its answers."""
        with self.busy():
            yield self.next_message_id()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Requests are under way; whatever ends that early ends the association."""
        if self.wire.closed:
            raise PeerUnavailableError(f"the association with {self.remote} has ended; open another one")
        self._busy = True
        try:
            yield
        except BaseException:
            self.abort()
            raise
        self._busy = False
        self.wire.limit_operation()

    def next_message_id(self) -> int:
        """Give an id to a request while the association is :meth:`busy`; the time of its operation begins."""
        self.wire.limit_operation(self.timeouts.operation)
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def send(self, context_id: int, command_set: bytes, data_set: DataSet | None = None, tail: bytes = b"") -> None:
        """Send a message; see :meth:`MessageStream.send`."""
        self.stream.send(context_id, command_set, data_set, tail)

    def receive_command(self, awaited: str) -> tuple[int, Command]:
        """Give the context id and the command set of the next message."""
        found = self.stream.receive_command(awaited)
        if found is None:
            raise PeerUnavailableError(f"{self.remote} released the association before {awaited} came")
        return found

    def receive_response(self, context_id: int, message_id: int, request: int) -> tuple[Command, int]:
        """Give the command set and the status of the response to the request of this message id.

        Raises
        ------
        PeerUnavailableError
            If what comes is no response to it: a missing status is no answer, least of all success.
        """
        name = _NAMES[request]
        found_id, answer = self.receive_command(f"the {name} response")
        return answer, self.check_response(found_id == context_id, answer, message_id, request)

    def check_response(self, same_context: bool, answer: Command, message_id: int, request: int) -> int:
        """Give the status of a response, having checked that it answers this message."""
        name = _NAMES[request]
        code = answer.number(command.STATUS)
        if not same_context or answer.field != request | command.RESPONSE:
            raise self.no_response(f"sent another message where the {name} response was due; its log tells more")
        if answer.number(command.MESSAGE_ID_RESPONDED_TO) != message_id:
            raise self.no_response(f"answered another message than our {name}; its log tells more")
        if code is None:
            raise self.no_response(f"sent a {name} response without a status, which is no answer; its log tells more")
        return code

    def receive_data(self, context_id: int, awaited: str) -> bytes:
        """Give the whole data set that follows, an identifier."""
        return self.stream.receive_identifier(context_id, awaited)

    def no_response(self, what: str) -> PeerUnavailableError:
        """Abort since what the peer said answers nothing; give the error to raise."""
        return self.wire.lost(what)

    def _look(self) -> None:
        if self.stop is not None and self.stop():
            raise JobCancelledError(f"cancelled while waiting for {self.remote}")
