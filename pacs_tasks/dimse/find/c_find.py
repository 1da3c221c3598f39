"""C-FIND: query (PS3.4 sections C.4.1 and K.4.1, PS3.7 section 9.1.2)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.cancellation import Cancellation
from pacs_tasks.dimse.find import identifier, query, query_keys
from pacs_tasks.dimse.find.found import Found, Identity
from pacs_tasks.dimse.find.match import decode_match
from pacs_tasks.dimse.find.query_keys import Path
from pacs_tasks.dimse.find.splitting import Answer, Splitting
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import JobCancelledError, PeerUnavailableError
from pacs_tasks.outcome import Doubt, FindOutcome, Status, StatusCategory
from pacs_tasks.outcome.find import is_round
from pacs_tasks.request import FindRequest, Query

_CANCELLED = 0xFE00
#: What a peer says that does not like a key: no such attribute, invalid attribute value, processing failure.
_ABOUT_KEYS = frozenset({0x0105, 0x0106, 0x0110})


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
    started, finding = time.monotonic(), Finding(request)
    with Association.open(local, request.remote, [context_of(request)], timeouts, stop) as assoc:
        outcome = finding.on(assoc)
    return outcome.model_copy(update={"seconds": time.monotonic() - started})


def context_of(request: Query) -> Context:
    """The presentation context that a query needs."""
    return query.find_context(query.FIND[request.model])


def ask(assoc: Association, request: FindRequest) -> FindOutcome:
    """As :func:`find`, over an association that is open already.

    It is open for another query afterwards, also where a key was wrong; but not where another error passed, nor where
    the peer ignored that enough had come.
    """
    return Finding(request).on(assoc)


class Finding:
    """One query, on an association that somebody else opens with :func:`context_of` and keeps for further ones.

    Where the association is lost while the query is split, :meth:`on` goes on with what is left over another one.

    Attributes
    ----------
    queries
        How many C-FIND requests have been answered so far.

    Raises
    ------
    InvalidRequestError
        If a key is unknown or cannot be written in the peer's character set: that costs no association.
    """

    def __init__(self, request: FindRequest) -> None:
        self._request = request
        self._sop_class = query.FIND[request.model]
        self._keys = query_keys.keys_of(request)
        self._left_out: tuple[str, ...] = ()
        for syntax in context_of(request).transfer_syntaxes:
            identifier.encode_find(request, syntax, self._keys)
        self._found = Found(query_keys.unique_keys(request), request.limit)
        self._splitting = Splitting(self._keys, query_keys.dates_of(request.model)) if request.split_dates else None
        self.queries = 0

    def on(self, assoc: Association) -> FindOutcome:
        """Ask over this association; the errors are those of :func:`find`."""
        started = time.monotonic()
        splitting, found = self._splitting, self._found
        final = (
            self._ask(assoc, {}).status
            if splitting is None
            else splitting.run(lambda keys: self._ask_on(assoc, keys), found)
        )
        doubts = self._doubts(final) if splitting is None else splitting.doubts
        return FindOutcome(
            status=final,
            matches=tuple(found.matches),
            limit_hit=found.limit_hit,
            seconds=time.monotonic() - started,
            doubts=(Doubt.LIMIT,) if found.limit_hit else doubts,
            remarks=() if splitting is None else splitting.remarks,
            queries=self.queries,
            split=() if splitting is None else splitting.split,
            keys_left_out=self._left_out,
        )

    def _doubts(self, final: Status) -> tuple[Doubt, ...]:
        """Why the answer to a single request may not be all."""
        count = len(self._found.matches)
        if status.is_failure(final):
            return (Doubt.STATUS,) if count else ()
        return (Doubt.ROUND,) if final.category is not StatusCategory.CANCEL and is_round(count) else ()

    def _ask_on(self, assoc: Association, changed: Mapping[Path, str]) -> Answer:
        """Ask, unless it was cancelled: a quick peer leaves no moment within a request to notice that."""
        if self.queries and assoc.stop is not None and assoc.stop():
            return Answer(status.find_status(_CANCELLED), [])
        return self._ask(assoc, changed)

    def _ask(self, assoc: Association, changed: Mapping[Path, str]) -> Answer:
        """Ask once, with some keys changed; once more without optional keys where the peer refuses them.

        DCMTK's ``dcmqrscp --check-find`` answers so to keys of other levels, for one.
        """
        answer = self._ask_once(assoc, {**self._keys, **changed})
        if answer.identities or self._left_out or not _may_be_about_keys(answer.status):
            return answer
        fewer = query_keys.required_of(self._request, self._keys)
        refused = [path for path in self._keys if path not in fewer]
        again = self._ask_once(assoc, {**fewer, **changed}) if refused else answer
        if not again.identities and _may_be_about_keys(again.status):
            return answer
        self._keys, self._left_out = fewer, tuple(map(query_keys.name_of, refused))
        return again

    def _ask_once(self, assoc: Association, keys: Mapping[Path, str]) -> Answer:
        identities: list[Identity] = []
        try:
            final = self._exchange(assoc, keys, identities)
        except (PeerUnavailableError, JobCancelledError):
            if not self._found.limit_hit:
                raise
            # It ignores C-CANCEL, or hangs up at it; all that was asked for is here.
            final = status.find_status(_CANCELLED)
        self.queries += 1
        return Answer(final, identities)

    def _exchange(self, assoc: Association, keys: Mapping[Path, str], identities: list[Identity]) -> Status:
        context_id, syntax = query.accepted_context(assoc, self._sop_class)
        asked = identifier.encode_find(self._request, syntax, keys)
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
                answer, code = assoc.receive_response(context_id, message_id, command.C_FIND_RQ)
                content = assoc.receive_data(context_id, "the rest of a match") if answer.has_data_set else b""
                said = status.find_status(code, answer.text(command.ERROR_COMMENT))
                if said.category is not StatusCategory.PENDING:
                    return said
                self._take(content, syntax, cancellation, identities)

    def _take(self, content: bytes, syntax: str, cancellation: Cancellation, identities: list[Identity]) -> None:
        if self._found.limit_hit:
            return
        match = decode_match(content, syntax, identifier.charset_of(self._request))
        identity = self._found.add(match, once=self._splitting is not None)
        if identity is None:
            cancellation.ask()
        else:
            identities.append(identity)


def _may_be_about_keys(final: Status) -> bool:
    return final.code in _ABOUT_KEYS or final.code & 0xFF00 == 0xA900 or final.code & 0xF000 == 0xC000
