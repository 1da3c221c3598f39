"""Who visits: a session that a token has begun, or whom a trusted proxy names.

The browser has the id of a session in a cookie that no script reads and that no other site's page sends; Redis has its
hash. A session remembers the hash of its token and has what that token may at each request, so that revoking the token
ends it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from typing import TYPE_CHECKING, cast

from fastapi import Request, Response

from pacs_tasks.ledger.tokens import Scope, digest_of
from pacs_tasks.serve.access import Access, Caller
from pacs_tasks.settings import Settings

if TYPE_CHECKING:
    import redis

#: Seconds of a session: a long shift.
LIFETIME = 12 * 3600
#: Bytes of chance in the id of a session.
_BYTES = 32
_COOKIE = "pacs_tasks_session"
_FORM_COOKIE = "pacs_tasks_form"
#: The hidden field of each form.
FORM_FIELD = "form_token"
_KEY = "pacs_tasks:console:session:"
#: The user of the setting who stands for all others.
_ANYBODY = "*"


class Sessions:
    """The sessions of the visitors of one Redis.

    Parameters
    ----------
    client
        The connection to it.
    access
        Knows the tokens.
    settings
        Whom to trust with the names of users.
    """

    def __init__(self, client: redis.Redis, access: Access, settings: Settings) -> None:
        self._redis, self._access, self._settings = client, access, settings
        self._proxies = [ipaddress.ip_network(each) for each in settings.serve_proxies]

    def visitor(self, request: Request) -> Caller | None:
        """Return who visits; None if nobody knows."""
        return self._by_proxy(request) or self._by_cookie(request)

    def _by_cookie(self, request: Request) -> Caller | None:
        session = request.cookies.get(_COOKIE)
        digest = cast("str | None", self._redis.get(_key(session))) if session else None
        return self._access.by_digest(digest) if digest else None

    def _by_proxy(self, request: Request) -> Caller | None:
        """Return whom the proxy names. A name that comes from elsewhere, or twice, counts for nothing."""
        header = self._settings.serve_proxy_header
        names = request.headers.getlist(header) if header else []
        if len(names) != 1 or not names[0].strip() or not self._from_proxy(request):
            return None
        name, users = names[0].strip(), self._settings.serve_users
        scopes = users.get(name, users.get(_ANYBODY, ()))
        return Caller(name, frozenset(map(Scope, scopes)))

    def _from_proxy(self, request: Request) -> bool:
        try:
            address = ipaddress.ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(address in each for each in self._proxies)

    def begin(self, token: str, request: Request, response: Response) -> bool:
        """Begin a session for the holder of a token; false if it is nobody's."""
        digest = digest_of(token)
        if self._access.by_digest(digest) is None:
            return False
        session = secrets.token_urlsafe(_BYTES)
        self._redis.set(_key(session), digest, ex=LIFETIME)
        _set_cookie(request, response, _COOKIE, session, LIFETIME)
        return True

    def end(self, request: Request, response: Response) -> None:
        """End the session of a request."""
        session = request.cookies.get(_COOKIE)
        if session:
            self._redis.delete(_key(session))
        response.delete_cookie(_COOKIE, path="/", httponly=True, samesite="strict")


def _key(session: str) -> str:
    return _KEY + hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()


def _set_cookie(request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
    # A proxy says how it was reached, since serve has no TLS. Whoever lies about that harms his own cookie alone.
    secure = "https" in {request.url.scheme, request.headers.get("x-forwarded-proto", "")}
    response.set_cookie(name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


class FormToken:
    """What shows that a form comes from a page of ours: a text that follows from two cookies, which no script reads.

    Parameters
    ----------
    request
        The request for the page, or of the form.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._known = request.cookies.get(_FORM_COOKIE, "")
        self._secret = self._known or secrets.token_urlsafe(_BYTES)
        session = request.cookies.get(_COOKIE, "")
        self.value = hashlib.sha256(f"{session} {self._secret}".encode("utf-8", "surrogatepass")).hexdigest()

    def write(self, response: Response) -> None:
        """Give the browser the cookie that it has not got yet."""
        if not self._known:
            _set_cookie(self._request, response, _FORM_COOKIE, self._secret, None)

    def fits(self, given: str) -> bool:
        """Whether a form was sent with this text."""
        return bool(self._known) and hmac.compare_digest(self.value.encode(), given.encode("utf-8", "surrogatepass"))
