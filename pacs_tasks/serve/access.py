"""Who calls and what they may do: bearer tokens, and what the console knows of its visitors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from pacs_tasks.ledger.tokens import Scope, Tokens
from pacs_tasks.serve.problems import RefusedError

_BEARER = HTTPBearer(auto_error=False, description="A token of `pacs-tasks token new`.", scheme_name="token")
_IMPLIED = frozenset({Scope.READ, Scope.SUBMIT})
#: Methods that change nothing (RFC 9110 section 9.2.1).
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """Who calls: the name of a token, or of a person whom the console knows."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope. ``admin`` implies ``read`` and ``submit``, and never ``patients``."""
        return scope in self.scopes or (scope in _IMPLIED and Scope.ADMIN in self.scopes)


#: How the console says who calls, by a cookie or by what a trusted proxy says. None: it does not know.
SignOn = Callable[[Request], Caller | None]


@dataclass(frozen=True)
class Access:
    """Finds the caller of a request."""

    tokens: Tokens
    sign_ons: list[SignOn] = field(default_factory=list)

    def by_token(self, token: str) -> Caller | None:
        """Return the caller whose token this is; None if it is nobody's."""
        found = self.tokens.find(token)
        return None if found is None else Caller(found.name, found.scopes)

    def caller(self, request: Request, token: str | None) -> Caller | None:
        """Return who calls; None if nobody knows.

        Raises
        ------
        RefusedError
            If a browser sends what its user may not know of: it adds cookies to requests of other pages too.
        """
        if token is not None:
            return self.by_token(token)
        found = next(filter(None, (sign_on(request) for sign_on in self.sign_ons)), None)
        if found is not None and request.method not in _SAFE and not _same_origin(request):
            raise RefusedError(403, "OtherOriginError", "Another page sent this request. Send it from the console.")
        return found


def _same_origin(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")


def _requires(scope: Scope) -> Callable[..., Caller]:
    """Make the dependency that refuses whoever has not this scope."""

    def find_caller(
        request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)] = None
    ) -> Caller:
        access: Access = request.app.state.services.access
        caller = access.caller(request, None if bearer is None else bearer.credentials)
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
Administrator = Annotated[Caller, Depends(_requires(Scope.ADMIN))]
