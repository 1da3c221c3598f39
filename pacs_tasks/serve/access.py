"""What the routes depend on: what they share, and who calls with what they may do.

Callers are known by bearer tokens, and by what the console knows of its visitors.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, cast
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from pacs_tasks.client import PacsClient
from pacs_tasks.ledger.tokens import Scope, Tokens, digest_of
from pacs_tasks.serve.problems import RefusedError
from pacs_tasks.serve.spool import Spool
from pacs_tasks.serve.watch import Watch
from pacs_tasks.settings import Settings

_BEARER = HTTPBearer(auto_error=False, description="A token of `pacs-tasks token new`.", scheme_name="token")
_IMPLIED = frozenset({Scope.READ, Scope.SUBMIT})
#: Methods that change nothing (RFC 9110 section 9.2.1).
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Seconds for which a token that was just found may still read, so that a thousand who watch a job ask Redis once.
_RECENT = 1.0
#: Tokens that are remembered for so long.
_MOST_RECENT = 1_000


@dataclass(frozen=True)
class Caller:
    """Who calls: the name of a token, or of a person whom the console knows.

    Attributes
    ----------
    digest
        The hash of the token; nothing for a person whom a proxy names.
    """

    name: str
    scopes: frozenset[Scope]
    digest: str = field(default="", repr=False)

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope. ``admin`` implies ``read`` and ``submit``, and never ``patients``."""
        return scope in self.scopes or (scope in _IMPLIED and Scope.ADMIN in self.scopes)

    def own(self, key: str) -> str:
        """Make an idempotency key of this caller alone: by the key of another, one could hold or find its job."""
        return f"{'token' if self.digest else 'user'} {quote(self.name, safe='')} {key}"


#: How the console says who calls, by a cookie or by what a trusted proxy says. None: it does not know.
SignOn = Callable[[Request], Caller | None]


@dataclass(frozen=True)
class Access:
    """Finds the caller of a request."""

    tokens: Tokens
    sign_ons: list[SignOn] = field(default_factory=list)
    _recent: dict[str, tuple[float, Caller]] = field(default_factory=dict, repr=False)
    _asking: dict[str, asyncio.Task[Caller | None]] = field(default_factory=dict, repr=False)

    def by_digest(self, digest: str) -> Caller | None:
        """Return the caller whose token has this hash; None if it is nobody's."""
        found = self.tokens.of_digest(digest)
        return None if found is None else Caller(found.name, found.scopes, digest)

    async def reader(self, digest: str) -> Caller | None:
        """As :meth:`by_digest`, but what was found a second ago still counts: for requests that change nothing."""
        return self._found(digest) or await asyncio.shield(self._ask(digest))

    def _ask(self, digest: str) -> asyncio.Task[Caller | None]:
        """Ask Redis for a token: once for all who want to know at the same time."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(run_in_threadpool(self.by_digest, digest))
            task.add_done_callback(partial(self._remember, digest))
        return task

    def _remember(self, digest: str, task: asyncio.Task[Caller | None]) -> None:
        del self._asking[digest]
        found = None if task.cancelled() or task.exception() else task.result()
        if found is not None:
            if len(self._recent) >= _MOST_RECENT:
                self._recent.clear()
            self._recent[digest] = time.monotonic() + _RECENT, found

    def _found(self, digest: str) -> Caller | None:
        until, found = self._recent.get(digest, (0.0, None))
        if until > time.monotonic():
            return found
        self._recent.pop(digest, None)
        return None

    def caller(self, request: Request, token: str | None) -> Caller | None:
        """Return who calls; None if nobody knows.

        Raises
        ------
        RefusedError
            If a browser sends what its user may not know of: it adds cookies to requests of other pages too.
        """
        if token is not None:
            return self.by_digest(digest_of(token))
        found = next(filter(None, (sign_on(request) for sign_on in self.sign_ons)), None)
        if found is not None and request.method not in _SAFE and not _same_origin(request):
            raise RefusedError(403, "OtherOriginError", "Another page sent this request. Send it from the console.")
        return found


@dataclass(frozen=True)
class Services:
    """The settings, the client, the access, the watch and the uploads of one application."""

    settings: Settings
    client: PacsClient
    access: Access
    watch: Watch
    spool: Spool


async def _services_of(request: Request) -> Services:
    """Return what belongs to the application of a request. FastAPI would run it in a thread if it were not async."""
    return cast(Services, request.app.state.services)


Shared = Annotated[Services, Depends(_services_of)]


def _same_origin(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")


def _requires(scope: Scope) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """Make the dependency that refuses whoever has not this scope."""

    async def find_caller(
        request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)] = None
    ) -> Caller:
        access: Access = request.app.state.services.access
        if bearer is not None and request.method in _SAFE:
            caller = await access.reader(digest_of(bearer.credentials))
        else:
            caller = await run_in_threadpool(access.caller, request, None if bearer is None else bearer.credentials)
        if caller is None:
            raise RefusedError(
                401,
                "UnknownTokenError",
                "This request has no token that is known here. Send `Authorization: Bearer TOKEN` with one that "
                "`pacs-tasks token new` has printed.",
            )
        check_scope(caller, scope)
        request.state.caller = caller
        return caller

    return find_caller


def check_scope(caller: Caller, scope: Scope) -> None:
    """Check that a caller has a scope.

    Raises
    ------
    RefusedError
        If the caller has not.
    """
    if not caller.may(scope):
        raise RefusedError(
            403,
            "MissingScopeError",
            f"This token may not do this: it needs the scope {scope}. Make one with `pacs-tasks token new NAME --scope "
            f"{scope}`.",
        )


Reader = Annotated[Caller, Depends(_requires(Scope.READ))]
Submitter = Annotated[Caller, Depends(_requires(Scope.SUBMIT))]
