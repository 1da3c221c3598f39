"""The encryption of private values in Redis: requests, paths, outcomes, matches and UIDs.

Each job has a random key of its own. The record of the job holds it, encrypted with the first of
``PACS_TASKS_ENCRYPTION_KEYS``, and each value of the job is encrypted with it (AES-256-GCM, NIST SP 800-38D). So a new
key of the fleet replaces an old one in one field of each job, and the random nonces of 96 bits suffice for 2**32 values
of one job (section 8.3). Names of fields that must be equal for equal UIDs are encrypted with AES-SIV (RFC 5297), and
names that are only compared are hashed with a key. Job and field are authenticated with each value, so that no value
can take the place of another. Without a key, every value stays as it is, and ``cryptography`` is not loaded.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from pacs_tasks.errors import ConfigurationError, MissingKeyError, PlainRecordError, SealingError
from pacs_tasks.extras import require
from pacs_tasks.settings import Settings, settings

if TYPE_CHECKING:
    import redis

    from pacs_tasks.request import AnyRequest

_KEY = 32
_NONCE = 12
#: Names that are remembered with their encryption.
_NAMES = 256
_KEY_ID = re.compile(r"[0-9a-f]{8}")


def new_key() -> str:
    """Make a key for ``PACS_TASKS_ENCRYPTION_KEYS``."""
    return base64.urlsafe_b64encode(os.urandom(_KEY)).decode("ascii")


class Sealer(Protocol):
    """Encrypts the values of one job."""

    @property
    def active(self) -> bool:
        """Whether values change by it."""

    def seal(self, text: str, field: str) -> str:
        """Encrypt the value of a field. Another value each time."""

    def unseal(self, text: str, field: str) -> str:
        """Decrypt what :meth:`seal` returned for the same field.

        Raises
        ------
        SealingError
            If the value was changed, the key of the job is missing, or the job is not encrypted and must be.
        """

    def name(self, text: str, field: str) -> str:
        """Encrypt a name of a field: the same result for the same name."""

    def unname(self, text: str, field: str) -> str:
        """Decrypt what :meth:`name` returned; raises as :meth:`unseal`."""


class _Plain:
    """Leaves everything as it is."""

    active = False

    def seal(self, text: str, _: str) -> str:
        return text

    unseal = name = unname = seal


class _Locked:
    """The values of a job that this process cannot or may not use."""

    active = True

    def __init__(self, error: SealingError) -> None:
        self._error = error

    def seal(self, _: str, __: str) -> str:
        # A new one each time: each raise would add to the traceback of the same.
        raise type(self._error)(self._error.message)

    unseal = name = unname = seal


class _Sealed:
    """Encrypts with the key of one job."""

    active = True

    def __init__(self, key: bytes, scope: str) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

        self._scope, self._invalid = scope, InvalidTag
        # One key, one use each: HKDF-Expand of RFC 5869, one block of SHA-512.
        self._values = AESGCM(_derived(key, "values")[:_KEY])
        self._names = AESSIV(_derived(key, "names"))
        # Each instance of a series has the same.
        self.name = functools.lru_cache(_NAMES)(self._name)

    def seal(self, text: str, field: str) -> str:
        nonce = os.urandom(_NONCE)
        about = f"{self._scope}\0{field}".encode()
        return base64.b64encode(nonce + self._values.encrypt(nonce, _encoded(text), about)).decode("ascii")

    def unseal(self, text: str, field: str) -> str:
        about = f"{self._scope}\0{field}".encode()
        try:
            sealed = base64.b64decode(text, validate=True)
            return _decoded(self._values.decrypt(sealed[:_NONCE], sealed[_NONCE:], about))
        except (self._invalid, binascii.Error, ValueError):
            raise _changed() from None

    def _name(self, text: str, field: str) -> str:
        about = f"{self._scope}\0{field}".encode()
        return base64.urlsafe_b64encode(self._names.encrypt(_encoded(text), [about])).decode("ascii")

    def unname(self, text: str, field: str) -> str:
        about = f"{self._scope}\0{field}".encode()
        try:
            return _decoded(self._names.decrypt(base64.b64decode(text, b"-_", validate=True), [about]))
        except (self._invalid, binascii.Error, ValueError):
            raise _changed() from None


def _derived(key: bytes, use: str) -> bytes:
    return hmac.digest(key, use.encode() + b"\1", "sha512")


def _encoded(text: str) -> bytes:
    # A path of Linux may hold bytes that are not Unicode.
    return text.encode("utf-8", "surrogatepass")


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


def _changed() -> SealingError:
    return SealingError(
        "A value in Redis was changed, or belongs to another job or field: it does not match its encryption. "
        "Find out who can write to this Redis, then enqueue the job again."
    )


class _FleetKey:
    """One of ``PACS_TASKS_ENCRYPTION_KEYS``."""

    def __init__(self, text: str) -> None:
        self.secret = base64.urlsafe_b64decode(text)
        #: Names the key without revealing it.
        self.id = hashlib.sha256(b"pacs-tasks key\0" + self.secret).hexdigest()[:8]
        self._hashing = _derived(self.secret, "hash")[:_KEY]

    @functools.cached_property
    def sealer(self) -> _Sealed:
        return _Sealed(self.secret, "fleet")

    def hash(self, text: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._hashing, _encoded(text), "sha256")[:24]).decode("ascii")


class Sealing:
    """The encryption of one fleet.

    Parameters
    ----------
    keys
        From :func:`new_key`. The first encrypts, all decrypt.
    accept_plain
        Whether values that are not encrypted are used although there is a key.
    """

    def __init__(self, keys: Sequence[str], *, accept_plain: bool = False) -> None:
        self._keys = [_FleetKey(key) for key in keys]
        self._accept_plain = accept_plain
        self._plain: Sealer = _Plain()

    @property
    def active(self) -> bool:
        """Whether values are encrypted."""
        return bool(self._keys)

    @property
    def refuses_plain(self) -> bool:
        """Whether a request that is not encrypted is refused."""
        return self.active and not self._accept_plain

    def seal(self, text: str, context: str) -> str:
        """Encrypt a value that belongs to no record of a job; ``context`` names what it is."""
        if not self._keys:
            return text
        return f"{self._keys[0].id}.{self._keys[0].sealer.seal(text, context)}"

    def unseal(self, text: str, context: str) -> str:
        """Decrypt what :meth:`seal` returned for the same ``context``.

        Raises
        ------
        MissingKeyError
            If a key is missing.
        SealingError
            If the value was changed.
        """
        if not self.refuses_plain and not _KEY_ID.fullmatch(text.partition(".")[0]):
            return text
        return self._opened(text, context)

    def _opened(self, text: str, context: str) -> str:
        key_id, _, sealed = text.partition(".")
        for key in self._keys:
            if key.id == key_id:
                return key.sealer.unseal(sealed, context)
        if not _KEY_ID.fullmatch(key_id):
            raise _changed()
        raise MissingKeyError(
            f"This job is encrypted with key {key_id}, which {socket.gethostname()} does not have. Add the key to "
            "PACS_TASKS_ENCRYPTION_KEYS there."
        )

    def hashed(self, text: str) -> str:
        """Hash a name with the first key; the name itself without a key."""
        return self._keys[0].hash(text) if self._keys else text

    def hashes(self, text: str) -> list[str]:
        """Hash a name with each key, since other processes may have another first key."""
        found = [key.hash(text) for key in self._keys]
        return [*found, text] if not found or self._accept_plain else found

    def begin(self, job_id: str) -> str:
        """Make the key of a new job, encrypted for its record; empty without a key."""
        return self.seal(new_key(), _of_job(job_id)) if self._keys else ""

    def is_current(self, sealed: str) -> bool:
        """Whether the first key encrypted this."""
        return bool(self._keys) and sealed.startswith(f"{self._keys[0].id}.")

    def again(self, job_id: str, sealed_key: str) -> str:
        """Encrypt the key of a job again, with the first key of the fleet."""
        return self.seal(self._opened(sealed_key, _of_job(job_id)), _of_job(job_id))

    def of_job(self, job_id: str, sealed_key: str) -> Sealer:
        """Give the encryption of a job by what its record holds. It raises nothing: its methods do."""
        if not sealed_key and not self.refuses_plain:
            return self._plain
        if not sealed_key:
            return _Locked(
                PlainRecordError(
                    "This job is not encrypted, and PACS_TASKS_ENCRYPTION_KEYS is set here. Set the same keys where it "
                    "was enqueued, or PACS_TASKS_ACCEPT_PLAIN=true here until such jobs have ended."
                )
            )
        try:
            return _Sealed(base64.urlsafe_b64decode(self._opened(sealed_key, _of_job(job_id))), job_id)
        except SealingError as error:
            return _Locked(error)

    def of_nobody(self) -> Sealer:
        """Give an encryption for a job whose record has expired: nobody can decrypt what it returns."""
        return _Sealed(os.urandom(_KEY), "") if self._keys else self._plain


#: What a process of a fleet reports once if it has no key.
IN_CLEAR = (
    "Redis holds patient data in clear: PACS_TASKS_ENCRYPTION_KEYS is not set. Run `pacs-tasks config new-key` and set "
    "the key on every machine of the fleet."
)
#: The field of an encrypted request in a message.
SEALED = "sealed"


def sealed_request(request: AnyRequest, job_id: str) -> dict[str, str]:
    """Encrypt a request for a task that another service sends by name.

    Parameters
    ----------
    request
        What the task shall do.
    job_id
        The id of that task. The request belongs to this id: with another one it is refused.

    Returns
    -------
    The argument ``request`` of the task.

    Raises
    ------
    ConfigurationError
        If ``PACS_TASKS_ENCRYPTION_KEYS`` is not set.
    """
    sealing = sealing_by(settings())
    if not sealing.active:
        raise ConfigurationError("There is no key to encrypt with. Set PACS_TASKS_ENCRYPTION_KEYS as on the workers.")
    return {SEALED: sealing.seal(request.model_dump_json(), _of_request(request.task, job_id))}


def unsealed_request(sealing: Sealing, payload: Mapping[str, Any], task: str, job_id: str) -> Mapping[str, Any]:
    """Decrypt what :func:`sealed_request` returned for this task and id.

    Raises
    ------
    MissingKeyError
        If a key is missing.
    SealingError
        If it was changed, or made for another task or id.
    """
    found = json.loads(sealing.unseal(str(payload[SEALED]), _of_request(task, job_id)))
    return cast("Mapping[str, Any]", found)


def _of_request(task: str, job_id: str) -> str:
    return f"request {task} {job_id}"


def _of_job(job_id: str) -> str:
    return f"key of job {job_id}"


@functools.cache
def _of(keys: tuple[str, ...], accept_plain: bool) -> Sealing:
    if keys:
        require("encryption")
    return Sealing(keys, accept_plain=accept_plain)


def sealing_by(config: Settings) -> Sealing:
    """Give the encryption that these settings ask for.

    Raises
    ------
    ConfigurationError
        If they have keys, and the extra ``encryption`` is not installed.
    """
    return _of(config.keys, config.accept_plain)


def sealing_of(client: redis.Redis) -> Sealing:
    """Give the encryption of a connection of :func:`pacs_tasks.connection.connect`, or that of the settings."""
    found: Any = getattr(client, "sealing", None)
    return found if isinstance(found, Sealing) else sealing_by(settings())
