"""A webhook in the settings of the workers: who learns of the ends of jobs."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

import base64
import binascii
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from pacs_tasks.ae import FileName, Value, is_loopback

#: What a secret begins with (Standard Webhooks), and the bytes that it may have after that.
SECRET = "whsec_"  # noqa: S105 - its beginning
_SECRET_BYTES = range(24, 65)


def _check_url(url: str) -> str:
    """Accept https, and http to this machine. What else a URL may hold would end up in logs of proxies."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isascii() or not url.isprintable() or " " in url or "@" in parts.netloc or parts.fragment:
        raise ValueError("this is not a URL; write it as https://HOST/PATH, without a user")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("the URL of a webhook begins with https://; only this machine may be called with http://")
    return url


def _check_secret(secret: str) -> str:
    if not secret.startswith(SECRET) or key_of(secret) is None:
        raise ValueError(
            "a secret is whsec_ and 24 to 64 bytes in Base64; print one with `pacs-tasks webhooks new-secret`"
        )
    return secret


def key_of(secret: str) -> bytes | None:
    """Decode the key of a secret; None if it is not one."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) in _SECRET_BYTES else None


class Webhook(Value):
    """A subscription to the ends of jobs.

    Attributes
    ----------
    url
        Where events are posted: https, or http on this machine.
    secret
        The key that signs them, as ``pacs-tasks webhooks new-secret`` prints it.
    events
        The categories of the ends that are delivered.
    patients
        Whether events contain the request, and paths and UIDs of what failed.
    ca_file
        The authorities that may sign the certificate of the host. None: those of the system.
    timeout
        Seconds to connect, and then for the whole response.
    """

    url: Annotated[str, AfterValidator(_check_url)]
    secret: Annotated[str, AfterValidator(_check_secret)] = Field(repr=False)
    events: tuple[Literal["success", "warning", "partial", "failed", "cancelled"], ...] = (
        "success",
        "warning",
        "partial",
        "failed",
        "cancelled",
    )
    patients: bool = False
    ca_file: FileName | None = None
    timeout: float = Field(default=10.0, gt=0, le=30)
