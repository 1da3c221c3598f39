"""Request an association and read the answer (PS3.8 section 7.1, PS3.7 section D.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import pynetdicom.pdu

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.upper_layer import pdu
from pacs_tasks.dimse.upper_layer.stream import aborted
from pacs_tasks.dimse.upper_layer.wire import A_ABORT, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, Wire
from pacs_tasks.errors import AssociationError, AssociationRejectedError, InvalidRequestError, PeerBusyError

#: Context ids are the odd numbers up to 255 (PS3.8 section 9.3.2.2).
MAX_CONTEXTS = 128
# Result and source of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4).
_PERMANENT = 1
_SERVICE_USER, _ACSE_PROVIDER, _PRESENTATION_PROVIDER = 1, 2, 3


@dataclass(frozen=True)
class Context:
    """A presentation context to propose. ``scp_role`` requests the SCP role for us (PS3.7 section D.3.3.4)."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    scp_role: bool = False


@dataclass(frozen=True)
class Agreement:
    """The terms of an accepted association.

    Attributes
    ----------
    proposed
        Each (abstract syntax, transfer syntax) that we proposed, accepted or rejected.
    contexts
        Accepted presentation contexts: context id -> (abstract syntax, transfer syntax).
    roles
        SOP classes for which the remote accepted our SCP role.
    window
        How many requests may be outstanding at once.
    max_length
        Bytes that the remote accepts in one PDU; 0 means no limit.
    """

    proposed: frozenset[tuple[str, str]]
    contexts: Mapping[int, tuple[str, str]]
    roles: frozenset[str]
    window: int
    max_length: int

    @classmethod
    def of(cls, request: pdu.AssociateRequest, accept: pdu.AssociateAccept) -> Self:
        """Combine a request and its answer."""
        return cls(
            proposed=frozenset((cx.abstract_syntax, each) for cx in request.contexts for each in cx.transfer_syntaxes),
            contexts=_accepted_contexts(request.contexts, accept),
            roles=frozenset(uid for uid, (_, scp) in accept.roles.items() if scp),
            window=_window(request.operations, accept.operations),
            max_length=accept.max_length,
        )


def propose(local: LocalAE, remote: RemoteAE, contexts: Sequence[Context], window: int) -> pdu.AssociateRequest:
    """Make an association request.

    Parameters
    ----------
    window
        How many requests to propose for the asynchronous operations window (PS3.7 section D.3.3.3).

    Raises
    ------
    InvalidRequestError
        If there are no contexts or too many.
    """
    if not 1 <= len(contexts) <= MAX_CONTEXTS:
        raise InvalidRequestError(
            f"An association carries 1 to {MAX_CONTEXTS} presentation contexts, not {len(contexts)}. "
            "Use several associations."
        )
    proposed = tuple(
        pdu.ProposedContext(2 * index + 1, cx.abstract_syntax, cx.transfer_syntaxes)
        for index, cx in enumerate(contexts)
    )
    # The SCP role alone: the requestor of a C-GET sends no instances itself.
    roles = {cx.abstract_syntax: (False, True) for cx in contexts if cx.scp_role}
    operations = (window, 1) if window > 1 else None
    return pdu.AssociateRequest(remote.ae_title, local.ae_title, proposed, roles=roles, operations=operations)


def negotiate(wire: Wire, request: pdu.AssociateRequest, local: LocalAE, remote: RemoteAE) -> Agreement:
    """Send the request and read the answer.

    Raises
    ------
    PeerUnavailableError
        If there is no answer, or it is an abort or malformed.
    AssociationError
        If the remote rejects the association.
    """
    wire.send([pdu.encode_request(request)])
    kind, content = wire.receive_pdu("an answer to the association request")
    if kind == A_ASSOCIATE_AC:
        with suppress(ValueError):
            return Agreement.of(request, pdu.decode_accept(content))
        raise wire.protocol_error("sent a malformed A-ASSOCIATE-AC")
    if kind == A_ASSOCIATE_RJ:
        wire.close()
        raise _rejection(bytes(content), local, remote)
    if kind == A_ABORT:
        raise aborted(
            wire, content, "instead of accepting it", "Check both AE titles: some remotes abort if one is wrong."
        )
    raise wire.protocol_error(f"answered the association request with a PDU of type {kind}")


def _accepted_contexts(
    proposed: tuple[pdu.ProposedContext, ...], accept: pdu.AssociateAccept
) -> dict[int, tuple[str, str]]:
    """Give context id -> (abstract syntax, transfer syntax). A transfer syntax that we did not propose is rejected."""
    found: dict[int, tuple[str, str]] = {}
    for cx in proposed:
        result, syntax = accept.results.get(cx.context_id, (pdu.USER_REJECTION, ""))
        if result == pdu.ACCEPTED and syntax in cx.transfer_syntaxes:
            found[cx.context_id] = (cx.abstract_syntax, syntax)
    return found


def _window(proposed: tuple[int, int] | None, accepted: tuple[int, int] | None) -> int:
    """Give the number of outstanding requests: 1 if the remote does not answer the proposal; 0 means no limit."""
    if proposed is None or accepted is None:
        return 1
    return min(proposed[0], accepted[0] or proposed[0])


def _rejection(content: bytes, local: LocalAE, remote: RemoteAE) -> AssociationError:
    """Give the error for the content of an A-ASSOCIATE-RJ.

    It is permanent if the remote says so, except for reasons of the presentation provider: some remotes call "local
    limit exceeded" permanent.
    """
    rj = pynetdicom.pdu.A_ASSOCIATE_RJ()
    rj.result, rj.source, rj.reason_diagnostic = content[1:4] if len(content) >= 4 else (_PERMANENT, _SERVICE_USER, 1)
    try:
        reason = rj.reason_str[0].lower() + rj.reason_str[1:]
    except ValueError:
        reason = "no reason given"
    step = _NEXT_STEPS.get((rj.source, rj.reason_diagnostic), "Check --ae-title and --pacs-ae-title.").format(
        calling_aet=local.ae_title, called_aet=remote.ae_title
    )
    if rj.result == _PERMANENT and rj.source != _PRESENTATION_PROVIDER:
        return AssociationRejectedError(f"{remote} rejected the association: {reason}. {step}")
    return PeerBusyError(f"{remote} rejected the association for now: {reason}. {step}")


_NEXT_STEPS: Mapping[tuple[int, int], str] = {
    (_SERVICE_USER, 2): "Check that it is a PACS.",
    (_SERVICE_USER, 3): (
        "Check --ae-title, or ask its administrator to add {calling_aet!r} with the address of this machine."
    ),
    (_SERVICE_USER, 7): "Check --pacs-ae-title, which is {called_aet!r}.",
    (_ACSE_PROVIDER, 2): "Ask its administrator which protocol it supports.",
    (_PRESENTATION_PROVIDER, 1): "Try again later.",
    (_PRESENTATION_PROVIDER, 2): "Try again later, or use fewer workers.",
}
