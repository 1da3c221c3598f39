"""C-FIND: query (PS3.4 section C.4.1, PS3.7 section 9.1.2)."""

from __future__ import annotations

import time
from typing import Any

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse import command, identifier, query, status
from pacs_tasks.dimse.association import Association, Context, StopCheck, Timeouts
from pacs_tasks.dimse.cancellation import Cancellation
from pacs_tasks.errors import JobCancelledError, PeerUnavailableError
from pacs_tasks.outcome import FindOutcome, Status, StatusCategory
from pacs_tasks.request import FindRequest, Level, Query, QueryModel

_CANCELLED = 0xFE00


def find(request: FindRequest, local: LocalAE, timeouts: Timeouts, stop: StopCheck | None = None) -> FindOutcome:
    """Query the peer, to its final status or until ``request.limit`` matches have come.

    Raises
    ------
    PeerUnavailableError, AssociationRejectedError
        As :meth:`Association.open`, and when the association is lost before the final status.
    ContextRejectedError
        If the peer does not offer the query model.
    InvalidRequestError
        If a key is unknown or cannot be written in the peer's character set.
    JobCancelledError
        If ``stop`` said so and the peer did not answer C-CANCEL; where it did, the outcome holds what came.
    """
    started = time.monotonic()
    context = context_of(request)
    # A wrong key must cost no association.
    for syntax in context.transfer_syntaxes:
        identifier.encode_find(request, syntax)
    with Association.open(local, request.remote, [context], timeouts, stop) as assoc:
        outcome = ask(assoc, request)
    return outcome.model_copy(update={"seconds": time.monotonic() - started})


def context_of(request: Query) -> Context:
    """The presentation context that a query needs."""
    return query.find_context(_sop_class(request))


def _sop_class(request: Query) -> str:
    by_level = QueryModel.PATIENT_ROOT if request.level is Level.PATIENT else QueryModel.STUDY_ROOT
    return query.FIND[request.query_model or by_level]


def ask(assoc: Association, request: FindRequest) -> FindOutcome:
    """As :func:`find`, over an association that is open already.

    It is open for another query afterwards, also where a key was wrong; but not where another error passed, nor where
    the peer ignored that enough had come.
    """
    return _Finding(request).run(assoc)


class _Finding:
    """One query."""

    def __init__(self, request: FindRequest) -> None:
        self._request = request
        self._sop_class = _sop_class(request)
        self._matches: list[dict[str, Any]] = []
        self._limit_hit = False

    def run(self, assoc: Association) -> FindOutcome:
        started = time.monotonic()
        try:
            final = self._exchange(assoc)
        except (PeerUnavailableError, JobCancelledError):
            if not self._limit_hit:
                raise
            # It ignores C-CANCEL, or hangs up at it; all that was asked for is here.
            final = status.find_status(_CANCELLED)
        seconds = time.monotonic() - started
        return FindOutcome(status=final, matches=tuple(self._matches), limit_hit=self._limit_hit, seconds=seconds)

    def _exchange(self, assoc: Association) -> Status:
        context_id, syntax = query.accepted_context(assoc, self._sop_class)
        asked = identifier.encode_find(self._request, syntax)
        with assoc.exchange() as message_id, Cancellation(assoc, context_id, message_id) as cancellation:
            assoc.send(
                context_id,
                command.encode(
                    {
                        command.AFFECTED_SOP_CLASS_UID: self._sop_class,
                        command.COMMAND_FIELD: command.C_FIND_RQ,
                        command.MESSAGE_ID: message_id,
                        command.PRIORITY: command.MEDIUM,
                    },
                    data_set=True,
                ),
                asked,
            )
            while True:
                answer, code = assoc.read_response(context_id, message_id, command.C_FIND_RQ)
                content = assoc.read_data(context_id, "the rest of a match") if answer.has_data_set else b""
                said = status.find_status(code, answer.text(command.ERROR_COMMENT))
                if said.category is not StatusCategory.PENDING:
                    return said
                self._take(content, syntax, cancellation)

    def _take(self, content: bytes, syntax: str, cancellation: Cancellation) -> None:
        limit = self._request.limit
        if limit is not None and len(self._matches) >= limit:
            # One more than the limit: only now is it known that there are more.
            self._limit_hit = True
            cancellation.ask()
            return
        self._matches.append(identifier.decode_match(content, syntax, self._request.remote.charset))
