"""The tokens of the HTTP API: their SHA-256, what each may do, and since when."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, cast

from pacs_tasks.errors import InvalidRequestError

if TYPE_CHECKING:
    import redis

_TOKENS = "pacs_tasks:tokens"
#: Programs that search files for secrets know ours by this.
_PREFIX = "pacstasks_"
#: Bytes of chance in a token.
_BYTES = 32


class Scope(StrEnum):
    """What a token may do."""

    #: See jobs, remotes and counts.
    READ = "read"
    #: Enqueue, cancel, retry, resume and verify jobs; upload files; echo remotes.
    SUBMIT = "submit"
    #: Everything that READ and SUBMIT may, and see what is kept about all services.
    ADMIN = "admin"
    #: See patient data too: names and ids of patients, UIDs, paths, matches, receipts. No other scope implies it.
    PATIENTS = "patients"


class Token(NamedTuple):
    """What is known of a token. ``created`` is in Unix seconds."""

    name: str
    scopes: frozenset[Scope]
    created: float


class Tokens:
    """The tokens in one Redis, which holds the hash of each only: nobody can read a token there."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def new(self, name: str, scopes: Collection[Scope]) -> str:
        """Make a token, and return it: it can never be read again.

        Raises
        ------
        InvalidRequestError
            If the name is malformed or is that of another token.
        """
        if re.fullmatch(r"[\w.@-]{1,64}", name) is None:
            raise InvalidRequestError(
                "This is not a name for a token. Write 1 to 64 letters, digits, dots, dashes, underscores or @."
            )
        if any(each.name == name for each in self.all()):
            raise InvalidRequestError(
                f"Token {name!r} exists already. Choose another name, or run `pacs-tasks token revoke {name}` first."
            )
        token = _PREFIX + secrets.token_urlsafe(_BYTES)
        record = {"name": name, "scopes": sorted(scopes), "created": time.time()}
        self._redis.hset(_TOKENS, digest_of(token), json.dumps(record))
        return token

    def of_digest(self, digest: str) -> Token | None:
        """Return what is known of the token with this hash; None if there is none, or it was revoked."""
        text = cast("str | None", self._redis.hget(_TOKENS, digest))
        return None if text is None else _read(text)

    def all(self) -> list[Token]:
        """Return all tokens, the oldest first."""
        return sorted(map(_read, cast("list[str]", self._redis.hvals(_TOKENS))), key=lambda token: token.created)

    def revoke(self, name: str) -> None:
        """Delete a token. It is not accepted any more from now on.

        Raises
        ------
        InvalidRequestError
            If there is none of this name.
        """
        texts = cast("dict[str, str]", self._redis.hgetall(_TOKENS))
        found = [digest for digest, text in texts.items() if _read(text).name == name]
        if not found:
            raise InvalidRequestError(
                f"There is no token {name!r}. Run `pacs-tasks token list` to list the known tokens."
            )
        self._redis.hdel(_TOKENS, *found)


def digest_of(token: str) -> str:
    """Hash a token. It is chance all through, so that neither salt nor a slow hash would add anything."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _read(text: str) -> Token:
    record = json.loads(text)
    return Token(record["name"], frozenset(map(Scope, record["scopes"])), record["created"])
