"""The kinds of settings: what each accepts, and why it is refused."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

import base64
import binascii
import json
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl, quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from pacs_tasks.ae import FileName, Network, Value, is_foreign_path, is_loopback
from pacs_tasks.errors import BrokerSettingError
from pacs_tasks.source import URL

#: Bytes of a key for AES-256.
_ENCRYPTION_KEY = 32

#: The shortest password that Flower accepts where other machines reach it, and what it must have beside known words.
PASSWORD, _BESIDE_WORDS = 12, 6
_WORDS = (
    "pass(?:word|wort|w0rd)|admin(?:istrator)?|changeme|flower|celery|secret|welcome|letmein|qwert[yz]|asdfgh|"
    "pacs|dicom|hospital|radiology|root|user|guest|0?123456789?0?|abcdefg?h?|(.)\\1{3,}|"
    "login|master|monkey|dragon|football|sunshine|princess|iloveyou|summer|winter|spring|autumn|tasks|clinic|doctor|"
    "patient(?:en)?|medi[cz]in(?:e|al)?|radiologie|r(?:ö|oe)ntgen|krankenhaus|klinik(?:um)?|praxis|archive?|orthanc|redis|"
    "geheim|kennwort|willkommen|hallo|schatz|sommer|herbst|fr(?:ü|ue)hling|"
    # Columns and rows of a keyboard.
    "qaz|wsx|edc|rfv|tgb|yhn|ujm|zaq|xsw|cde|vfr|qwer|asdf|[zy]xcv|[zu]iop|hjkl"
)
#: How people write letters of known words: 1 is an i or an l.
_SUBSTITUTES = tuple(str.maketrans("@40135$!", f"aao{one}ess{one}") for one in "il")

#: TLS has a scheme of its own, and redis-py accepts the parameters ssl_ only there.
_REDIS_URL = re.compile(
    r"(?:(?:redis(?!://[^?]*\?.*\bssl_)|rediss)://"
    r"(?:[^/?#\[\]\s]*@)?(?:\[[\da-fA-F:.]+\]|[^/?#\[\]\s@:]*)(?::\d{1,5})?(?:/\d*)?(?:\?[\w.]+=[^#@\s]*)?"
    r"|unix://[^?#]*/[^?#]+(?:\?[\w.]+=[^#\s]*)?)"
)
#: Parameters that decide whether the certificate of the Redis is checked, and their values with which it is. To a
#: client, optional means required.
_CHECKED = {"ssl_cert_reqs": ("required", "optional"), "ssl_check_hostname": ("true", "t", "yes", "y", "1")}


def check_redis_url(url: str) -> str:
    """Return the address of a Redis if it is well-formed.

    redis-py ignores much of what it does not understand. A password with ``#``, ``/`` or ``?`` then ends the host name
    early, and the client connects to whatever the rest of the password names.

    Raises
    ------
    BrokerSettingError
        If it is not, or if it switches off the check of the certificate: the password would go to anybody. No value
        is in the message, since any may belong to the password.
    """
    if _REDIS_URL.fullmatch(url) is None:
        raise BrokerSettingError(
            "PACS_TASKS_REDIS_URL is not the address of a Redis. Write it as redis://:PASSWORD@HOST:PORT/0, "
            "with / # ? @ : and % in the password percent-encoded (/ is %2F), and parameters ssl_ only after rediss://."
        )
    # Of several with one name, redis-py reads the first and Celery the last.
    for name, value in parse_qsl(url.partition("?")[2]):
        if value.lower() not in _CHECKED.get(name, (value.lower(),)):
            raise BrokerSettingError(
                f"PACS_TASKS_REDIS_URL switches off the check of the Redis's certificate with {name}. Remove that "
                "parameter, and name the authority of the certificate in PACS_TASKS_REDIS_CA, and its host in "
                "PACS_TASKS_REDIS_URL."
            )
    return url


def with_tls(url: str, ca: str | None, certificate: str | None, key: str | None) -> str:
    """Return the address of a Redis with the files of its TLS.

    Raises
    ------
    BrokerSettingError
        If the address is not one with TLS: everything would go unencrypted.
    """
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    files = {
        name: str(Path(file).expanduser().absolute())
        for name, file in zip(names, (ca, certificate, key), strict=True)
        if file
    }
    if files and not url.startswith("rediss://"):
        raise BrokerSettingError(
            "PACS_TASKS_REDIS_CA, PACS_TASKS_REDIS_CERT and PACS_TASKS_REDIS_KEY need TLS, which PACS_TASKS_REDIS_URL "
            "does not have. Begin it with rediss://, or unset them."
        )
    missing = [f"{name}={quote(file, safe='/:')}" for name, file in files.items() if f"{name}=" not in url]
    return f"{url}{'&' if '?' in url else '?'}{'&'.join(missing)}" if missing else url


def _check_directory(path: Path) -> Path:
    """Refuse to create a directory whose name is a path of Windows."""
    if is_foreign_path(str(path)):
        raise ValueError("this is a path of Windows; name a directory of this machine")
    return path


def check_encryption_keys(text: str) -> str:
    """Check keys for AES-256 as ``pacs-tasks config new-key`` prints them. No message holds any part of them."""
    for key in text.replace(",", " ").split():
        try:
            wrong = len(base64.b64decode(key, b"-_", validate=True)) != _ENCRYPTION_KEY
        except (binascii.Error, ValueError):
            wrong = True
        if wrong:
            raise ValueError("a key has 44 characters; print one with `pacs-tasks config new-key`")
    return text


Directory = Annotated[Path, AfterValidator(_check_directory)]


def _check_root(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("write it as an absolute path: a worker has another current directory")
    return path


def _split_paths(value: Any) -> Any:
    """Read a variable as ``PATH`` is read, or as the JSON list that one of our processes gives another."""
    if isinstance(value, str):
        return json.loads(value) if value.startswith("[") else [each for each in value.split(os.pathsep) if each]
    return value


Roots = Annotated[tuple[Annotated[Directory, AfterValidator(_check_root)], ...], BeforeValidator(_split_paths)]


def _split_words(value: Any) -> Any:
    """Read a variable as words between commas or spaces, or as the JSON list that a process of ours gives another."""
    if isinstance(value, str):
        return json.loads(value) if value.startswith("[") else value.replace(",", " ").split()
    return value


SourceURLs = Annotated[tuple[URL, ...], BeforeValidator(_split_words)]
Proxies = Annotated[tuple[Network, ...], BeforeValidator(_split_words)]

#: The key of an HMAC should be as long as its result (RFC 2104 section 3).
SigningKey = Annotated[str, StringConstraints(min_length=32)]


def _check_enqueuer(name: str) -> str:
    # As a `pattern` of pydantic it would take longer to compile than all other settings together.
    if re.fullmatch(r"[\w.@-]{1,64}", name) is None:
        raise ValueError("a name has 1 to 64 letters, digits, dots, dashes, underscores or @")
    return name


EnqueuerName = Annotated[str, AfterValidator(_check_enqueuer)]


def _check_header(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9-]{1,64}", name) is None:
        raise ValueError("the name of a header has letters, digits and dashes, such as X-Remote-User")
    return name


HeaderName = Annotated[str, AfterValidator(_check_header)]


def check_signing_key(value: str) -> str:
    if re.fullmatch(r"[\w.@-]{1,64}:.{32,}", value) is None:
        raise ValueError("write it as NAME:KEY, with a key of at least 32 characters, such as `openssl rand -hex 32`")
    return value


class Unsolicited(StrEnum):
    """How the receiver treats an instance that no job expects."""

    KEEP = "keep"
    REFUSE = "refuse"


class AuditPatients(StrEnum):
    """How the audit trail writes what identifies patients and studies."""

    PLAIN = "plain"
    MASKED = "masked"
    SEALED = "sealed"


def check_audit(value: str) -> str:
    """Accept the path of a file, or the address of a syslog server over TLS."""
    if re.fullmatch(r"/.+|syslog\+tls://(?:\[[\da-fA-F:.]+\]|[^/?#\[\]\s@:]+)(?::\d{1,5})?", value) is None:
        raise ValueError("write the absolute path of a file, or syslog+tls://HOST:PORT")
    return value


class WhenFull(StrEnum):
    """How the receiver treats an unsolicited instance for which the quota has no room."""

    REFUSE = "refuse"
    DROP_OLDEST = "drop-oldest"


class RemoteAddresses(StrEnum):
    """The addresses that a request may have called. Link-local, multicast and metadata addresses are never called."""

    ANY = "any"
    PRIVATE = "private"


class PrivateServerKind(StrEnum):
    """The program of the private server, the preferred one first."""

    VALKEY = "valkey"
    FAKEREDIS = "fakeredis"


def is_weak(user: str, password: str) -> bool:
    """Report whether a password is short, or little more than the name of the user and known words."""
    text = password.lower()
    # What is added to a word comes last, where a rule asks for a digit or a sign.
    word = re.sub(r"[\d\W_]{1,6}$", "", text)
    repeated = re.sub(r"^(.+?)(?:[\W_]?\1)+$", r"\1", word)
    # Digits alone hide no word.
    readings = (text, *(word.translate(each) for each in _SUBSTITUTES if re.search(r"[^\W\d_]", word)))
    known = f"{re.escape(user.lower())}|{_WORDS}"
    beside = min(len(set(re.sub(known, "", each))) for each in readings)
    return len(password) < PASSWORD or beside < _BESIDE_WORDS or len(repeated) < min(PASSWORD, len(word))


# Webhooks

#: What a secret begins with (Standard Webhooks), and the bytes that it may have after that.
SECRET = "whsec_"  # noqa: S105 - its beginning
_SECRET_BYTES = range(24, 65)
#: The category of the end of a job.
_End = Literal["success", "warning", "partial", "failed", "cancelled"]


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
    """A subscription to the ends of jobs."""

    #: Where events are posted: https, or http on this machine.
    url: Annotated[str, AfterValidator(_check_url)]
    #: The key that signs them, as ``pacs-tasks webhooks new-secret`` prints it.
    secret: Annotated[str, AfterValidator(_check_secret)] = Field(repr=False)
    #: The categories of the ends that are delivered.
    events: tuple[_End, ...] = get_args(_End)
    #: Whether events contain the request, and paths and UIDs of what failed.
    patients: bool = False
    #: The authorities that may sign the certificate of the host. None: those of the system.
    ca_file: FileName | None = None
    #: Seconds to connect, and then for the whole response.
    timeout: float = Field(default=10.0, gt=0, le=30)
