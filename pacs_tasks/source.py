"""What a request may name to send: a path that every worker reads as the same, or the URL of an object store.

A URL holds no secret: requests, manifests, receipts and messages repeat it. Credentials come from the environment of
the worker.
"""

import os
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, Field

#: The schemes of object stores, and of web servers, from which a worker reads only below PACS_TASKS_SOURCE_URLS.
STORES, WEB = ("s3", "gs", "az", "abfs"), "https"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: A container in front of its account: abfs://container@account.dfs.core.windows.net/name.
_WITH_ACCOUNT = frozenset(("az", "abfs"))
#: Names within these lead elsewhere, also where a server decodes them once more.
_LEADING_AWAY = frozenset((".", ".."))
_CODINGS = 5


def is_url(source: str) -> bool:
    """Whether a source is a URL, of whatever scheme, and not a path."""
    return _SCHEME.match(source) is not None


def check_url(url: str) -> str:
    """Return a URL if it names an object or a prefix, and nothing else.

    Raises
    ------
    ValueError
        If it does not. No part of the URL is in the message, since it may hold a secret.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in (*STORES, WEB):
        raise ValueError("a URL begins with s3://, gs://, az://, abfs:// or https://")
    user, at, host = rest.partition("/")[0].rpartition("@")
    if ":" in user or (at and scheme not in _WITH_ACCOUNT):
        raise ValueError("a URL has no user and no password; set credentials in the environment of the worker")
    # Signed URLs hold a secret there. In the names of objects, they are ordinary characters.
    if scheme == WEB and {"?", "#"} & set(url):
        raise ValueError("a URL has no query, which may hold a secret, and no fragment")
    if not host or "::" in rest or "\\" in rest or not url.isprintable():
        raise ValueError("a URL names a bucket or host, and has no ::, no backslash and no control character")
    decoded = rest
    for _ in range(_CODINGS):
        if _LEADING_AWAY & set(decoded.split("/")):
            raise ValueError("a URL has no . or .. between slashes")
        decoded = unquote(decoded)
    return url


def is_below(url: str, prefixes: Sequence[str]) -> bool:
    """Whether a URL is one of some, or below it."""
    return any(url == each or url.startswith(f"{each.rstrip('/')}/") for each in prefixes)


def check_absolute(value: str) -> str:
    """Refuse a relative path: it would be another one in the current directory of a worker."""
    # On Windows, a path of another machine may begin with a slash.
    if value and not value.startswith("/") and not (os.name == "nt" and PurePath(value).is_absolute()):
        raise ValueError("a path must be absolute, since a worker has another current directory; begin it at the root")
    return value


def _check_source(value: str) -> str:
    return check_url(value) if is_url(value) else check_absolute(value)


#: A path that every process reads as the same.
AbsolutePath = Annotated[str, Field(min_length=1), AfterValidator(check_absolute)]
#: The same, or a URL.
Source = Annotated[str, Field(min_length=1), AfterValidator(_check_source)]
URL = Annotated[str, AfterValidator(check_url)]
