"""Many queries of one job over one association, opened anew where the peer ends it in between."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

from pacs_tasks.dimse.find import c_find
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import (
    InvalidRequestError,
    JobCancelledError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
)
from pacs_tasks.outcome import FindOutcome
from pacs_tasks.request import FindRequest, Level, Request
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import local_ae, timeouts
from pacs_tasks.tasks.engine.claim import Claim

#: Associations that one query may cost: some peers abort at what they do not understand, as they do at nothing at all.
_MOST_LOSSES = 2
#: Queries that may get no answer one after the other: a peer that has fallen silent is not asked for a thousand rows.
_MOST_UNANSWERED = 3


class UnansweredError(PeerUnavailableError):
    """The peer did not answer this query, or ended each association at it; others may be answered."""

    def told(self) -> PeerUnavailableError:
        """The same as an error that others know."""
        return PeerUnavailableError(self.message, self.subject)


class Asking:
    """Asks the peer of one request; a context manager, at whose end the association ends."""

    def __init__(self, request: Request, claim: Claim) -> None:
        self._request, self._claim = request, claim
        self._open = ExitStack()
        self._assoc: Association | None = None
        self._unanswered, self._answered = 0, False

    def find(self, level: Level, keys: Mapping[str, str]) -> FindOutcome:
        """Query the peer in the Study Root model, to its final status.

        Raises
        ------
        UnansweredError
            If it does not answer this query.
        PeerUnavailableError
            If it cannot be had, or answers nothing any more.
        AssociationError
            If it offers no such query.
        JobCancelledError
            If the job was cancelled meanwhile.
        """
        asked = self._request
        query = FindRequest(remote=asked.remote, local=asked.local, timeout=asked.timeout, level=level, keys=keys)
        losses = 0
        while True:
            new, begun = self._assoc is None, math.inf
            try:
                assoc = self._association(query)
                begun = time.monotonic()
                outcome = c_find.ask(assoc, query)
            except InvalidRequestError:
                raise  # Nothing was asked.
            except PeerUnavailableError as error:
                self._end(error)
                if isinstance(error, PeerBusyError | PeerUnreachableError):
                    raise
                silent = time.monotonic() - begun >= timeouts(query).dimse
                # One that was open before may have ended for any reason; who stays silent does so again.
                losses += new
                if silent or losses >= _MOST_LOSSES:
                    self._count_unanswered(error, silent=silent)
                continue
            except BaseException as error:
                self._end(error)
                raise
            if self._claim.cancelled:
                raise JobCancelledError("cancelled before anything was fetched")
            self._unanswered, self._answered = 0, True
            return outcome

    def _count_unanswered(self, error: PeerUnavailableError, *, silent: bool) -> None:
        self._unanswered += 1
        if self._unanswered >= _MOST_UNANSWERED or (silent and not self._answered):
            raise error
        raise UnansweredError(error.message, error.subject) from None

    def _association(self, query: FindRequest) -> Association:
        if self._assoc is None:
            remote, context = query.remote, c_find.context_of(query)
            stop = self._open.enter_context(leased(remote, self._claim))
            opened = Association.open(local_ae(query), remote, [context], timeouts(query), stop)
            self._assoc = self._open.enter_context(opened)
        return self._assoc

    def _end(self, error: BaseException) -> None:
        """The lease must know why its association has ended, or was not to be had."""
        self._assoc = None
        self._open.__exit__(type(error), error, error.__traceback__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._assoc = None
        self._open.close()


def value(match: Mapping[str, Any], tag: str) -> str:
    """The first value of an element of a DICOM JSON object, as text (PS3.18 section F.2.2)."""
    values = match.get(tag, {}).get("Value") or [""]
    return str(values[0])
