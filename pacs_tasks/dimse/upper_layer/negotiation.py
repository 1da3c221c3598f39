"""What we propose to a peer, and what it agrees to (PS3.8 section 7.1, PS3.7 section D.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.upper_layer import pdu as acse
from pacs_tasks.dimse.upper_layer.rejection import rejected
from pacs_tasks.dimse.upper_layer.stream import aborted
from pacs_tasks.dimse.upper_layer.wire import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, Wire
from pacs_tasks.errors import InvalidRequestError

#: Context ids are the odd numbers up to 255 (PS3.8 section 9.3.2.2).
MAX_CONTEXTS = 128


@dataclass(frozen=True)
class Context:
    """A presentation context to propose. ``scp_role``: we want to receive this class (PS3.7 section D.3.3.4)."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    scp_role: bool = False


@dataclass(frozen=True)
class Agreement:
    """What holds on an association that the peer has accepted.

    Attributes
    ----------
    proposed
        Every (abstract syntax, transfer syntax) that we proposed, accepted or refused.
    contexts
        Presentation context id -> (abstract syntax, transfer syntax), of those that were accepted.
    roles
        SOP classes that the peer will send to us: it accepted our SCP role.
    window
        How many requests may be under way at once.
    max_length
        Bytes that the peer takes in one PDU, 0 without limit.
    """

    proposed: frozenset[tuple[str, str]]
    contexts: Mapping[int, tuple[str, str]]
    roles: frozenset[str]
    window: int
    max_length: int

    @classmethod
    def of(cls, request: acse.AssociateRequest, answer: acse.AssociateAccept) -> Self:
        """What a peer's answer makes of our request."""
        return cls(
            proposed=frozenset((cx.abstract_syntax, each) for cx in request.contexts for each in cx.transfer_syntaxes),
            contexts=_accepted(request.contexts, answer),
            roles=frozenset(uid for uid, (_, scp) in answer.roles.items() if scp),
            window=_window(request.operations, answer.operations),
            max_length=answer.max_length,
        )


def propose(local: LocalAE, remote: RemoteAE, contexts: Sequence[Context], window: int) -> acse.AssociateRequest:
    """Give the request for an association.

    Parameters
    ----------
    window
        How many requests we would like to have under way at once (PS3.7 section D.3.3.3).

    Raises
    ------
    InvalidRequestError
        If no association carries so many contexts.
    """
    if not 1 <= len(contexts) <= MAX_CONTEXTS:
        raise InvalidRequestError(
            f"an association carries 1 to {MAX_CONTEXTS} presentation contexts, not {len(contexts)}; "
            "send in several associations"
        )
    proposed = tuple(
        acse.ProposedContext(2 * index + 1, cx.abstract_syntax, cx.transfer_syntaxes)
        for index, cx in enumerate(contexts)
    )
    # Ours alone: who receives by C-GET does not send instances as well.
    roles = {cx.abstract_syntax: (False, True) for cx in contexts if cx.scp_role}
    operations = (window, 1) if window > 1 else None
    return acse.AssociateRequest(remote.ae_title, local.ae_title, proposed, roles=roles, operations=operations)


def agree(wire: Wire, request: acse.AssociateRequest, local: LocalAE, remote: RemoteAE) -> Agreement:
    """Send the request and read the answer.

    Raises
    ------
    PeerUnavailableError
        If there is none, or it is an abort or none that can be read.
    AssociationError
        If the peer rejects the association.
    """
    wire.send([acse.encode_request(request)])
    return Agreement.of(request, _read_answer(wire, local, remote))


def _read_answer(wire: Wire, local: LocalAE, remote: RemoteAE) -> acse.AssociateAccept:
    kind, content = wire.receive_pdu("an answer to the association request")
    if kind == A_ASSOCIATE_AC:
        with suppress(ValueError):
            return acse.decode_accept(content)
        raise wire.protocol_error("sent a malformed A-ASSOCIATE-AC")
    if kind == A_ASSOCIATE_RJ:
        wire.close()
        raise rejected(bytes(content), local, remote)
    if kind == A_ABORT:
        raise aborted(wire, content, "instead of accepting it; check both AE titles: some peers say so in this way")
    raise wire.protocol_error(f"answered the association request with a PDU of type {kind}")


def _accepted(proposed: tuple[acse.ProposedContext, ...], answer: acse.AssociateAccept) -> dict[int, tuple[str, str]]:
    """Context id -> (abstract syntax, transfer syntax); a transfer syntax that was not proposed is no acceptance."""
    found: dict[int, tuple[str, str]] = {}
    for cx in proposed:
        result, syntax = answer.results.get(cx.context_id, (acse.USER_REJECTION, ""))
        if result == acse.ACCEPTED and syntax in cx.transfer_syntaxes:
            found[cx.context_id] = (cx.abstract_syntax, syntax)
    return found


def _window(asked: tuple[int, int] | None, agreed: tuple[int, int] | None) -> int:
    """How many operations the peer lets us have under way: no word of it is one, 0 is no limit."""
    if asked is None or agreed is None:
        return 1
    return min(asked[0], agreed[0] or asked[0])
