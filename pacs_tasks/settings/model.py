"""The settings, with their defaults."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pacs_tasks.ae import (
    DEFAULT_CALLED_AET,
    DEFAULT_CALLING_AET,
    DEFAULT_PORT,
    TLS,
    AETitle,
    AllowedCaller,
    AnswerLimits,
    FileName,
    Host,
    LocalAE,
    MaxAnswerBytes,
    MaxAssociations,
    MaxMatchElements,
    MaxMatches,
    Port,
    RemoteAE,
    ServerName,
    UserIdentity,
    Value,
    check_key_has_certificate,
    is_loopback,
)
from pacs_tasks.errors import ConfigurationError, InvalidRequestError
from pacs_tasks.journal.logs import LogFormat
from pacs_tasks.privacy import GroupAccess
from pacs_tasks.settings.pace import Hours, Pace, check_hours, check_time_zone, parse_size, parse_window
from pacs_tasks.settings.values import (
    PASSWORD,
    AuditPatients,
    Directory,
    EnqueuerName,
    HeaderName,
    PrivateServerKind,
    Proxies,
    RemoteAddresses,
    Roots,
    SigningKey,
    SourceURLs,
    Unsolicited,
    Webhook,
    WhenFull,
    check_audit,
    check_encryption_keys,
    check_redis_url,
    check_signing_key,
    is_weak,
    with_tls,
)

#: The name of the settings file.
CONFIG_NAME = "pacs-tasks.toml"
_REDIS_TLS = ("redis_ca", "redis_cert", "redis_key")


def config_file() -> Path | None:
    """Return the path of the settings file, or None if there is none."""
    named = os.environ.get("PACS_TASKS_CONFIG")
    if named:
        return Path(named)
    import platformdirs

    candidates = (Path(CONFIG_NAME), platformdirs.user_config_path("pacs-tasks") / CONFIG_NAME)
    return next((path for path in candidates if path.is_file()), None)


def _user_data_path() -> Path:
    import platformdirs

    return platformdirs.user_data_path("pacs-tasks")


def _several(value: object) -> object:
    """Read a single text as a list of one."""
    return [value] if isinstance(value, str) else value


class NamedRemote(RemoteAE):
    """A remote in the settings of a process."""

    #: On whose behalf associations are requested.
    identity: UserIdentity | None = None
    #: The hours in which jobs of priority ``bulk`` run: ``22:00-06:00``, or ``sat,sun 00:00-24:00``. None: always.
    bulk_hours: Annotated[tuple[str, ...], BeforeValidator(_several), AfterValidator(check_hours)] | None = None
    #: The time zone of these hours, such as ``Europe/Berlin``. None: that of the worker's machine.
    time_zone: Annotated[str, AfterValidator(check_time_zone)] | None = None
    # One in 100 seconds at least: a job that waits for hours between two instances looks as if it stood still.
    #: What the whole fleet may send to it, or have it deliver. None: not limited.
    instances_per_second: Annotated[float, Field(ge=0.01, le=100_000)] | None = None
    bytes_per_second: Annotated[float, BeforeValidator(parse_size), Field(ge=1000)] | None = None

    def public(self) -> RemoteAE:
        """Give what requests may contain."""
        return RemoteAE.model_construct(**{name: getattr(self, name) for name in RemoteAE.model_fields})

    @property
    def pace(self) -> Pace:
        """Its pace."""
        hours = tuple(map(parse_window, self.bulk_hours or ()))
        return Pace(self.instances_per_second, self.bytes_per_second, Hours(hours, self.time_zone) if hours else None)


class Settings(Value):
    """All settings with their defaults. Times are in seconds."""

    # The options of the command line have the same names.
    ip: Host = "127.0.0.1"
    port: Port = DEFAULT_PORT
    ae_title: AETitle = DEFAULT_CALLING_AET
    pacs_ae_title: AETitle = DEFAULT_CALLED_AET
    timeout: float = Field(default=30.0, gt=0, le=86_400)
    #: Limit of one operation, from its request to its last response: one C-STORE, one query, one C-MOVE or C-GET.
    operation_timeout: float = Field(default=3600.0, gt=0, le=86_400)
    #: Limit of a C-MOVE or C-GET without an instance and without a change of its counts. Archives fetch from tape for
    #: minutes and respond "pending" meanwhile.
    progress_timeout: float = Field(default=600.0, gt=0, le=86_400)
    #: Use TLS with that PACS. Each of the other tls_ settings implies it.
    tls: bool = False
    tls_ca: FileName | None = None
    tls_cert: FileName | None = None
    tls_key: FileName | None = None
    tls_server_name: ServerName | None = None
    tls_no_hostname_check: bool = False
    remotes: dict[str, NamedRemote] = Field(default_factory=dict)
    #: The language of the command line. Unset: Chinese if the locale is Chinese, else English.
    language: Literal["zh", "en"] | None = None

    #: How processes and commands write their log: as text, or each line as a JSON object.
    log_format: LogFormat = "text"

    #: The Redis of jobs, results and ledger. Unset: a private server on this machine.
    redis_url: Annotated[str, AfterValidator(check_redis_url)] | None = None
    #: TLS with that Redis, whose address begins with rediss:// then. The authorities to trust beside those of the
    #: system, and the certificate and key of this machine, if the Redis requires one.
    redis_ca: FileName | None = None
    redis_cert: FileName | None = None
    redis_key: FileName | None = None
    #: How long to wait for a reply of that Redis. The client promises an answer within 5 s.
    redis_timeout: float = Field(default=3.0, gt=0)
    #: Keys, separated by commas, that encrypt what is private in Redis. The first encrypts, all decrypt. Every machine
    #: of the fleet needs them; `pacs-tasks config new-key` prints one. Unset: Redis holds patient data in clear.
    encryption_keys: Annotated[str, AfterValidator(check_encryption_keys)] | None = Field(default=None, repr=False)
    #: With keys, also accept jobs and requests that are not encrypted, while the machines of a fleet are changed.
    accept_plain: bool = False
    #: How long to keep a job after its last change.
    keep_jobs: int = Field(default=7 * 86_400, ge=60)
    #: What the group of a file may do with what this machine writes: received and retrieved files, receipts, logs.
    #: Others may do nothing with them, whatever the umask is. Windows knows no such groups.
    group_access: GroupAccess = "none"
    #: The directory of the private server and the receiver.
    data_dir: Directory = Field(default_factory=_user_data_path)
    #: The program of the private server. Unset: Valkey where there is one, or else fakeredis, which is slower.
    embedded: PrivateServerKind | None = None
    #: How long the private server and worker stay after the last command and the last job.
    idle_timeout: float = Field(default=60.0, ge=0)

    #: Bytes that a message may have, also after it is decompressed. Larger ones become dead letters.
    message_size: int = Field(default=32 << 20, ge=64 << 10, le=512 << 20)
    #: How often a message is delivered, after workers died with it, before it becomes a dead letter.
    max_deliveries: int = Field(default=20, ge=1)

    #: Directories below which a request may name files to send, and certificates. Unset: all that the worker may read.
    source_roots: Roots = ()
    #: URLs below which a request may name objects to send. Unset: all that the worker may read in object stores, or
    #: none if there are source roots. Those of web servers must be named.
    source_urls: SourceURLs = ()
    #: The directory of what commands read from stdin, which workers must see. Unset: ``spool`` in ``data_dir``.
    spool_dir: Directory | None = None
    #: Directories below which a request may have files written. Unset: wherever the worker may write.
    output_roots: Roots = ()
    #: Serve only requests to remotes of the worker's own settings.
    named_remotes_only: bool = False
    #: The addresses that a request may have called.
    remote_addresses: RemoteAddresses = RemoteAddresses.ANY

    #: ``NAME:KEY``, by which this process signs the tasks that it enqueues.
    signing_key: Annotated[str, AfterValidator(check_signing_key)] | None = Field(default=None, repr=False)
    #: The keys of enqueuers by their names, by which workers verify signatures. A worker knows its own key anyway.
    enqueuer_keys: dict[EnqueuerName, SigningKey] = Field(default_factory=dict, repr=False)
    #: Refuse tasks without a signature.
    require_signatures: bool = False
    #: How long the signature of a request is valid: it may wait for a worker for so long.
    signature_lifetime: int = Field(default=86_400, ge=60)

    #: Files that one task sends. Unset: depends on the size of the directory.
    files_per_task: int | None = Field(default=None, ge=1)
    #: Tasks that a worker runs at once. Unset: one per core.
    concurrency: int | None = Field(default=None, ge=1)
    #: Tasks that one process runs at once while they wait for their remotes. Parts of jobs take three quarters at most.
    #: 1: a task that waits holds its process.
    associations_per_process: int = Field(default=40, ge=1, le=1000)
    #: How often to requeue a part after the remote was lost or out of resources, before its files fail.
    max_retries: int = Field(default=4, ge=0)
    #: How long a job waits for a remote that is down. Then it ends, and `resume` continues it.
    give_up_after: float = Field(default=3600.0, ge=0)
    #: Associations that the whole fleet may have open at once with a remote that sets no limit of its own. It uses as
    #: many of them as it measures to be worthwhile.
    max_associations: MaxAssociations = 64
    #: Release an idle association after this long. The next part of a job comes within milliseconds; with a remote that
    #: accepts one association at a time, another worker waits for this long.
    association_idle: float = Field(default=0.5, ge=0)

    #: Matches that a remote may return to one query. A remote that is broken does not stop by itself. A request with a
    #: larger ``limit`` (--limit) gets so many.
    max_matches: MaxMatches = AnswerLimits.matches
    #: Bytes that all matches of one query may have together.
    max_answer_bytes: MaxAnswerBytes = AnswerLimits.answer_bytes
    #: Elements that one match may have, with those within sequences.
    max_match_elements: MaxMatchElements = AnswerLimits.match_elements

    #: C-STORE requests in flight on one association, if the remote agrees (few do). 1 negotiates nothing.
    operations_window: int = Field(default=16, ge=1, le=1000)
    #: Whether receipts hold the SHA-256 of each data set that was sent.
    sha256: bool = True

    #: How long to wait for the next report about storage commitment.
    commit_timeout: float = Field(default=60.0, ge=0, le=86_400)

    receiver_ae_title: AETitle = "PACS_TASKS"
    receiver_host: Host = "0.0.0.0"  # noqa: S104 - a PACS on another machine must reach it
    receiver_port: int = Field(default=11113, ge=0, le=65_535)
    #: Callers of the receiver by AE title, as tables ``[receiver.allow.TITLE]``. With any, or with a named remote, it
    #: rejects all others; see docs/howto/receiver.md.
    receiver_allow: dict[AETitle, AllowedCaller] = Field(default_factory=dict)
    #: Whether callers that must be named may call any AE title, instead of that of the receiver.
    receiver_any_called_ae_title: bool = False
    #: Associations that one process of the receiver serves at once. A quarter of them is for known remotes alone.
    receiver_max_associations: int = Field(default=128, ge=1, le=10_000)
    #: How many of them one calling AE title may have. One address may have a quarter more.
    receiver_max_per_caller: int = Field(default=64, ge=1, le=10_000)
    #: Processes that receive on that port.
    receiver_processes: int = Field(default=1, ge=1, le=64)
    #: The directory of received instances. Unset: ``received`` in ``data_dir``.
    receiver_dir: Directory | None = None
    #: How to treat instances that no job expects.
    unsolicited: Unsolicited = Unsolicited.KEEP
    #: Bytes that unsolicited instances may take. Unset: until twice the reserve of free space is left.
    unsolicited_quota: int | None = Field(default=None, ge=0)
    #: What happens when they have taken that much.
    unsolicited_when_full: WhenFull = WhenFull.REFUSE
    #: Bytes of one instance that the receiver and C-GET accept. Whole slide images have a few gigabytes.
    max_instance_bytes: int = Field(default=32 << 30, ge=1)
    #: Bytes that one association may bring to the receiver.
    receiver_max_association_bytes: int = Field(default=1 << 40, ge=1)
    #: Bytes of a disk that the receiver and C-GET leave free. Unset: 1 GiB, or a twentieth of a smaller disk.
    keep_free_bytes: int | None = Field(default=None, ge=0)
    #: How long to keep expected instances that no job has collected.
    keep_incoming: int = Field(default=86_400, ge=60)
    #: With a certificate the receiver accepts TLS only; with authorities, only callers with a certificate of theirs.
    receiver_tls_certificate: FileName | None = None
    receiver_tls_key: FileName | None = None
    receiver_tls_ca: FileName | None = None

    #: Where workers write the audit trail: a file, or ``syslog+tls://host:port``. Unset: nowhere.
    audit: Annotated[str, AfterValidator(check_audit)] | None = None
    #: How the trail writes ids, names and UIDs of patients and studies. ``sealed`` encrypts them with the first key.
    audit_patients: AuditPatients = AuditPatients.PLAIN
    #: The authorities of the syslog server (unset: those of the system), and our certificate for it.
    audit_ca: FileName | None = None
    audit_cert: FileName | None = None
    audit_key: FileName | None = None

    #: Who learns of the ends of jobs, by names, as tables ``[webhooks.NAME]``.
    webhooks: dict[EnqueuerName, Webhook] = Field(default_factory=dict)

    #: Where each worker and receiver serves the metrics of the fleet for Prometheus, without a login. Unset: nowhere.
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    metrics_address: Host = "127.0.0.1"
    #: Where traces go by OTLP over HTTP, with the extra ``otel``: ``http://collector:4318/v1/traces``. Unset: nowhere.
    traces: str | None = Field(default=None, pattern="^https?://")

    #: ``user:password`` for Flower.
    flower_basic_auth: str | None = None
    flower_address: Host = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65_535)

    #: The HTTP API and its console. Where other machines reach it, put a proxy with TLS before it.
    serve_address: Host = "127.0.0.1"
    serve_port: int = Field(default=5556, ge=0, le=65_535)
    #: The directory of uploads, which the workers must see too. Unset: ``uploads`` in ``data_dir``.
    serve_uploads: Directory | None = None
    #: Bytes that one upload may have, packed and unpacked.
    serve_upload_bytes: int = Field(default=4 << 30, ge=1)
    #: How long to keep an upload that was not sent whole, after its last job began.
    serve_keep_uploads: int = Field(default=86_400, ge=60)
    #: The header in which a proxy, at one of these addresses, names the user whom it has logged in to the console. The
    #: proxy must remove that header from requests of its own clients.
    serve_proxy_header: HeaderName | None = None
    serve_proxies: Proxies = ()
    #: What these users may do, as a table ``[serve_users]``: ``anna = ["read", "submit"]``. ``"*"`` is everybody else.
    serve_users: dict[str, tuple[Literal["read", "submit", "admin", "patients"], ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _complete_redis_url(cls, given: Any) -> Any:
        """Write the TLS settings of the Redis into its address, in which redis-py, Celery and Flower read them."""
        if isinstance(given, dict) and isinstance(given.get("redis_url"), str):
            return {**given, "redis_url": with_tls(given["redis_url"], *(given.get(name) for name in _REDIS_TLS))}
        return given

    @model_validator(mode="after")
    def _keys_have_certificates(self) -> Self:
        check_key_has_certificate(self.tls_cert, self.tls_key)
        check_key_has_certificate(self.audit_cert, self.audit_key)
        if self.redis_key and not self.redis_cert:
            raise ValueError("redis_key needs redis_cert")
        # Authorities without a certificate would accept unencrypted callers that they should keep out.
        if self.receiver_tls_certificate is None and (self.receiver_tls_key or self.receiver_tls_ca):
            raise ValueError("receiver_tls_key and receiver_tls_ca need receiver_tls_certificate")
        if self.receiver_tls_ca is None and any(each.certificates for each in self.receiver_allow.values()):
            raise ValueError("certificates in receiver_allow need receiver_tls_ca: without it, callers present none")
        if self.serve_proxy_header and not self.serve_proxies:
            raise ValueError("serve_proxy_header needs serve_proxies: anybody could send that header")
        if self.require_signatures and self.signing_key is None:
            raise ValueError("require_signatures needs signing_key: the worker signs the parts of jobs")
        return self

    def flower_login(self) -> str:
        """The ``user:password`` that Flower requires.

        Raises
        ------
        ConfigurationError
            If none is set: everybody who reaches the port could see tasks. If the password is weak and other machines
            reach the port: they could try passwords.
        """
        user, _, password = (self.flower_basic_auth or "").partition(":")
        if not user or not password:
            raise ConfigurationError(
                "Flower does not start without a login. Set PACS_TASKS_FLOWER_BASIC_AUTH to user:password."
            )
        if not is_loopback(self.flower_address) and is_weak(user, password):
            raise ConfigurationError(
                "The password of Flower is too weak for an address that other machines reach. Set "
                f"PACS_TASKS_FLOWER_BASIC_AUTH to user:password with {PASSWORD} or more random characters, or "
                "PACS_TASKS_FLOWER_ADDRESS to 127.0.0.1."
            )
        return f"{user}:{password}"

    def with_tls(self, redis_url: str) -> str:
        """Return another address of a Redis, with the files of TLS that these settings name."""
        return with_tls(redis_url, self.redis_ca, self.redis_cert, self.redis_key)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that encrypt what is private in Redis."""
        return tuple((self.encryption_keys or "").replace(",", " ").split())

    @property
    def local(self) -> LocalAE:
        return LocalAE(ae_title=self.ae_title)

    @property
    def default_remote(self) -> RemoteAE:
        """The remote of a request that names none."""
        tls = TLS(
            ca_file=self.tls_ca,
            certificate_file=self.tls_cert,
            key_file=self.tls_key,
            server_name=self.tls_server_name,
            check_hostname=not self.tls_no_hostname_check,
        )
        wanted = self.tls or tls != TLS()
        return RemoteAE(ae_title=self.pacs_ae_title, host=self.ip, port=self.port, tls=tls if wanted else None)

    @property
    def receiver_tls(self) -> TLS | None:
        """The certificate that the receiver presents, and the authorities that it trusts. None: no TLS."""
        if self.receiver_tls_certificate is None:
            return None
        return TLS(
            certificate_file=self.receiver_tls_certificate,
            key_file=self.receiver_tls_key,
            ca_file=self.receiver_tls_ca,
        )

    @property
    def spool(self) -> Path:
        """The directory of what has no file of its own."""
        return (self.spool_dir or self.data_dir / "spool").expanduser().absolute()

    @property
    def received(self) -> Path:
        """The directory of received instances."""
        return (self.receiver_dir or self.data_dir / "received").absolute()

    @property
    def uploads(self) -> Path:
        """The directory of uploads to the HTTP API."""
        return (self.serve_uploads or self.data_dir / "uploads").absolute()

    def limit(self, remote: RemoteAE) -> int:
        """Return how many associations the fleet may have open at once with a remote.

        The limit is its own, or that of a remote in the settings file with the same AE title, host and port.
        """
        return self._limit(remote, "max_associations")

    def answer_limits(self, remote: RemoteAE) -> AnswerLimits:
        """Return how much a remote may answer to one query; found as :meth:`limit` finds its limit."""
        return AnswerLimits(
            matches=self._limit(remote, "max_matches"),
            answer_bytes=self._limit(remote, "max_answer_bytes"),
            match_elements=self._limit(remote, "max_match_elements"),
        )

    def _limit(self, remote: RemoteAE, name: str) -> int:
        for each in self.known_as(remote):
            if getattr(each, name) is not None:
                return int(getattr(each, name))
        return int(getattr(self, name))

    def known_as(self, remote: RemoteAE) -> list[RemoteAE]:
        """Return a remote, and those of the settings file with the same AE title, host and port."""
        return [remote, *self._named(remote)]

    def identity(self, remote: RemoteAE) -> UserIdentity | None:
        """Return the user identity for a remote: that of one in the settings with the same AE title, host and port.

        Raises
        ------
        InvalidRequestError
            If it goes over another TLS there, or would go in clear.
        """
        named = [each for each in self._named(remote) if each.identity is not None]
        found = next((each for each in named if each.tls in {None, remote.tls}), None)
        if named and found is None:
            raise InvalidRequestError(
                f"The settings have a user identity for {remote}, which goes over their TLS only. "
                "Use the TLS that the remote has in the settings."
            )
        return None if found is None else found.identity

    def pace(self, remote: RemoteAE) -> Pace | None:
        """Return the pace of a remote, found as :meth:`identity` finds its identity; None if it has none."""
        paces = (each.pace for each in self._named(remote))
        return next((pace for pace in paces if pace != Pace()), None)

    def _named(self, remote: RemoteAE) -> list[NamedRemote]:
        """Give the remotes of the settings that are this one."""
        same = (remote.ae_title, remote.host.lower(), remote.port)
        return [each for each in self.remotes.values() if (each.ae_title, each.host.lower(), each.port) == same]

    def names_host(self, host: str) -> bool:
        """Whether a remote of the settings has this host."""
        return any(each.host.lower() == host.lower() for each in self.remotes.values())

    def remote(self, name: str) -> RemoteAE:
        """Return the remote that the settings file calls ``name``.

        Raises
        ------
        ConfigurationError
            If the file has no such remote.
        """
        try:
            return self.remotes[name].public()
        except KeyError:
            known = ", ".join(sorted(self.remotes)) or "none"
            raise ConfigurationError(
                f"No remote is called {name!r} in {config_file() or CONFIG_NAME} (known: {known}). "
                f"Add a [remotes.{name}] table there."
            ) from None
