"""The queries with which a retrieve finds out what a remote has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, Self, TypeVar

from pacs_tasks.dimse.find.c_find import FindOperation, contexts_of
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import JobCancelledError, PeerUnavailableError, PeerUnreachableError
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindRequest, Level, RetrieveRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import Loss, Session, new_association
from pacs_tasks.tasks.engine.base import timeouts
from pacs_tasks.tasks.engine.claim import Claim

#: Associations that one query may cost: some remotes abort at a query they do not understand.
_MOST_LOSSES = 2
#: Queries in a row without an answer after which the remote counts as silent.
_MOST_UNANSWERED = 3

T = TypeVar("T")


class UnansweredError(PeerUnavailableError):
    """The remote did not answer this query, or ended each association at it; it may answer others."""

    def as_unavailable(self) -> PeerUnavailableError:
        """The same error in a class that clients know."""
        return PeerUnavailableError(self.message, self.subject)


class _Rows(Generic[T]):
    """What is kept of the matches of a query."""

    def __init__(self, read: Callable[[Mapping[str, Any]], T]) -> None:
        self._read = read
        self.read: list[T] = []

    def append(self, match: Mapping[str, Any]) -> None:
        self.read.append(self._read(match))

    def clear(self) -> None:
        self.read.clear()


class QuerySession:
    """The queries of one request; a context manager, at whose end the association ends."""

    def __init__(self, request: RetrieveRequest, claim: Claim) -> None:
        self._request, self._claim = request, claim
        contexts = contexts_of(FindRequest(remote=request.remote, query_model=request.query_model))
        self._session = Session(lambda: new_association(request, claim.job_id, contexts, claim))
        self._unanswered, self._answered = 0, False

    def find(
        self, level: Level, keys: Mapping[str, str], read: Callable[[Mapping[str, Any]], T]
    ) -> tuple[FindOutcome, list[T]]:
        """Query the remote to the final status, in the model that the request names or that the remote offers.

        Give the outcome without the matches, and what ``read`` gave of each: all of a hundred thousand matches would
        not fit into memory.

        Raises
        ------
        UnansweredError
            If the remote does not answer this query.
        PeerUnavailableError
            If there is no association, or the remote answers nothing any more.
        AssociationError
            If the remote does not offer the query model.
        JobCancelledError
            If the job was cancelled meanwhile.
        """
        query = self._query(level, keys)
        begun, losses = 0.0, 0
        rows = _Rows(read)
        finding = FindOperation(query, settings().answer_limits(query.remote), rows)

        def query_remote(assoc: Association) -> FindOutcome:
            nonlocal begun
            begun = time.monotonic()
            return finding.run(assoc)

        def lost(loss: Loss) -> None:
            nonlocal losses
            if isinstance(loss.error, PeerUnreachableError):
                raise loss.error
            # A remote that was silent will be silent again; an association from before may have ended for any reason.
            silent = loss.opened and time.monotonic() - begun >= timeouts(query).dimse
            losses += loss.first
            if silent or losses >= _MOST_LOSSES:
                self._count_unanswered(loss.error, silent=silent)

        while (outcome := self._session.attempt(query_remote, lost)) is None:
            pass
        if self._claim.cancelled:
            raise JobCancelledError("The job was cancelled before it fetched anything.")
        self._unanswered, self._answered = 0, True
        return outcome, rows.read

    def _query(self, level: Level, keys: Mapping[str, str]) -> FindRequest:
        request = self._request
        return FindRequest(
            remote=request.remote,
            local=request.local,
            timeout=request.timeout,
            level=level,
            keys=keys,
            query_model=request.query_model,
            priority=request.priority,
        )

    def _count_unanswered(self, error: PeerUnavailableError, *, silent: bool) -> None:
        self._unanswered += 1
        if self._unanswered >= _MOST_UNANSWERED or (silent and not self._answered):
            raise error
        raise UnansweredError(error.message, error.subject) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


def value(match: Mapping[str, Any], tag: str) -> str:
    """The first value of an element of a DICOM JSON object, as text (PS3.18 section F.2.2)."""
    values = match.get(tag, {}).get("Value") or [""]
    return str(values[0])
