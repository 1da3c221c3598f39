"""The meaning of each setting in words for users. The code's comments give its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ip": "Host name or address of the PACS.",
        "port": "Port of the PACS.",
        "ae_title": "Your AE title (calling AE title).",
        "pacs_ae_title": "AE title of the PACS (called AE title).",
        "timeout": "Longest silence of the PACS: to connect, to accept the association, between two messages.",
        "operation_timeout": "Longest duration of one operation in all: an instance that is sent, a query, the C-MOVE "
        "or C-GET of a part.",
        "progress_timeout": "Longest time in which a C-MOVE or C-GET brings no instance and no new count, however "
        'often the PACS answers "pending". Missing instances are then requested again.',
        "tls": "Use TLS with the PACS. Each of the next five settings turns it on too.",
        "tls_ca": "Certificates of the authorities that may sign the certificate of the PACS, or that certificate "
        "itself. Unset: the authorities that the system trusts.",
        "tls_cert": "Your certificate, for a PACS that requires one.",
        "tls_key": "The private key of your certificate, if it is in another file.",
        "tls_server_name": "The name in the certificate of the PACS, if it is not its address.",
        "tls_no_hostname_check": "Accept a certificate for another host too.",
        "remotes": "The remotes by name. Write them as `[remotes.NAME]` tables in the file.",
        "language": "The language of the command line, `zh` or `en`. Unset: Chinese if the locale is Chinese, else "
        "English.",
        "log_format": "Write logs as `text`, or each line as a JSON object (`json`): those of workers, the receiver, "
        "Flower, the HTTP API, and of `--log-file`.",
        "redis_url": "The Redis of the fleet. Unset: a private server on this machine.",
        "redis_ca": "Certificates of the authorities that may sign the certificate of that Redis, beside those that "
        "the system trusts. The address begins with `rediss://` then.",
        "redis_cert": "Your certificate, for a Redis that requires one.",
        "redis_key": "The private key of your certificate, if it is in another file.",
        "redis_timeout": "Longest time that a command waits for a reply of that Redis.",
        "encryption_keys": "Keys, separated by commas, that encrypt what is private in Redis: the first encrypts, all "
        "decrypt. `pacs-tasks config new-key` prints one. Unset: Redis holds patient data in clear. See "
        "[Fleet](../howto/fleet.md#encryption).",
        "accept_plain": "With keys, also accept jobs and requests that are not encrypted, while the machines of a "
        "fleet are changed.",
        "keep_jobs": "How long Redis keeps the record of a job after its last change.",
        "group_access": "What the group of a file may do with received and retrieved files, receipts and logs: `none`, "
        "`read` or `write`. Others may do nothing with them.",
        "data_dir": "Directory for the files of the private server and of the receiver "
        "(Linux: `~/.local/share/pacs-tasks`).",
        "embedded": "Program of the private server: `valkey`, or `fakeredis`, which is slower. "
        "Unset: Valkey where it is installed, otherwise fakeredis (Windows).",
        "idle_timeout": "How long the private server keeps running after the last command and job.",
        "message_size": "Bytes that a message may have, also decompressed; larger ones become dead letters.",
        "max_deliveries": "Deliveries after which a message with which workers die becomes a dead letter.",
        "source_roots": "Directories below which requests may name files to send and certificates, as in `PATH` "
        "(in the file: a list). Links are followed first. Unset: all that the worker may read.",
        "source_urls": "URLs below which requests may name objects to send, between commas or spaces (in the file: a "
        "list). Unset: all that the worker may read in object stores, or none if there are source roots. `https://` "
        "must be named. See [Archives, object stores and stdin](../howto/sources.md).",
        "spool_dir": "Directory of what commands read from stdin until it is sent. All machines of a fleet must see it "
        "at the same path. Unset: `spool` in the data directory.",
        "output_roots": "Directories below which requests may write files. Unset: wherever the worker may write.",
        "named_remotes_only": "Serve only requests to the remotes of the worker's own settings.",
        "remote_addresses": "`any`, or `private`: call only addresses of private networks (RFC 1918, RFC 4193) and "
        "of this machine. Link-local, multicast and cloud metadata addresses are never called.",
        "signing_key": "`NAME:KEY`: sign the tasks that this command, service or worker enqueues.",
        "enqueuer_keys": "The keys of enqueuers by their names; workers verify signatures by them. Write them as an "
        "`[enqueuer_keys]` table in the file, or as JSON.",
        "require_signatures": "Workers refuse tasks without a valid signature.",
        "signature_lifetime": "How long the signature of a request is valid.",
        "files_per_task": "Files that one task sends. Unset: depends on the size of the directory.",
        "concurrency": "Tasks that a worker runs at once. Unset: one per core.",
        "associations_per_process": "Tasks that one process of a worker runs at once while they wait for their PACS. "
        "Parts of jobs take three quarters at most. 1: a task that waits holds its process.",
        "max_retries": "How often a part is retried after the PACS was lost or out of resources.",
        "give_up_after": "How long a job waits for a PACS that went down. `resume` continues it later.",
        "max_associations": "Associations with one PACS that all workers together may hold open at once. They use "
        "as many as they measure to be worthwhile.",
        "association_idle": "An unused association is released after this time.",
        "max_matches": "Matches that a PACS may return to one query: one that is broken does not stop by itself. A "
        "larger `--limit` gets so many.",
        "max_answer_bytes": "Bytes that all matches of one query may have together.",
        "max_match_elements": "Elements that one match may have, with those within sequences.",
        "operations_window": "C-STORE requests under way at once on one association, if the PACS agrees (asynchronous "
        "operations window). 1 does not negotiate it.",
        "sha256": "Record the SHA-256 of each data set that is sent. A gigabyte takes about a second of one core.",
        "commit_timeout": "Longest time that the PACS may take for its next report about storage commitment.",
        "receiver_ae_title": "AE title of the receiver.",
        "receiver_host": "Address at which the receiver listens.",
        "receiver_port": "Port of the receiver.",
        "receiver_allow": "Callers of the receiver, as tables `[receiver.allow.TITLE]` "
        "(see [Receiver](../howto/receiver.md#who-may-call)). In the environment: a JSON object.",
        "receiver_any_called_ae_title": "Whether named callers may call the receiver by any AE title.",
        "receiver_max_associations": "Associations that a process of the receiver serves at once. A quarter of them is "
        "for known remotes alone.",
        "receiver_max_per_caller": "How many of them one calling AE title may have. One address may have a quarter "
        "more.",
        "receiver_processes": "Processes that receive on that port, to use more cores.",
        "receiver_dir": "Directory of the receiver. Unset: `received` in the data directory.",
        "unsolicited": "`keep` or `refuse` instances that no job requested.",
        "unsolicited_quota": "Bytes that unsolicited instances may take. Unset: until twice the reserve of free space "
        "is left.",
        "unsolicited_when_full": "`refuse` further unsolicited instances when the quota is used up, or `drop-oldest`.",
        "max_instance_bytes": "Bytes of one instance that the receiver and a retrieve by C-GET accept.",
        "receiver_max_association_bytes": "Bytes that one association may bring to the receiver.",
        "keep_free_bytes": "Bytes of the disk that the receiver and a retrieve by C-GET leave free. Unset: 1 GiB, or a "
        "twentieth of a smaller disk.",
        "keep_incoming": "The receiver moves instances that no job has collected to `unsolicited` after this time.",
        "receiver_tls_certificate": "Certificate of the receiver. With it, the receiver accepts only TLS.",
        "receiver_tls_key": "The private key of that certificate, if it is in another file.",
        "receiver_tls_ca": "Authorities. The receiver accepts only callers whose certificate one of them signed.",
        "audit": "Where workers write the [audit trail](../howto/monitoring.md#audit-trail): the path of a file, or "
        "`syslog+tls://HOST:PORT`. Unset: nowhere.",
        "audit_patients": "How the trail writes ids, names and UIDs of patients and studies: `plain`, `masked`, or "
        "`sealed`, which encrypts them with the first of the encryption keys.",
        "audit_ca": "Certificates of the authorities of the syslog server. Unset: those of the system.",
        "audit_cert": "Our certificate for the syslog server, if it requires one.",
        "audit_key": "The private key of that certificate, if it is in another file.",
        "webhooks": "Who learns of the ends of jobs. Write them as `[webhooks.NAME]` tables in the file, or as JSON. "
        "See [Webhooks](../howto/webhooks.md).",
        "metrics_port": "Port at which each worker and receiver serves the metrics of the fleet for Prometheus, "
        "without a login. Unset: nowhere.",
        "metrics_address": "Address of that port.",
        "traces": "Where traces go by OTLP over HTTP, such as `http://collector:4318/v1/traces`. It needs the extra "
        "`otel`. Unset: nowhere.",
        "flower_basic_auth": "Login for Flower, as `user:password`.",
        "flower_address": "Address at which Flower listens.",
        "flower_port": "Port of Flower.",
        "serve_address": "Address at which the [HTTP API](../howto/http-api.md) and its console listen.",
        "serve_port": "Port of the HTTP API and its console.",
        "serve_uploads": "Directory of [uploads](../howto/http-api.md#uploads), which the workers must see too. Unset: "
        "`uploads` in the data directory.",
        "serve_upload_bytes": "Bytes that one upload may have, packed and unpacked.",
        "serve_keep_uploads": "How long to keep an upload that was not sent whole, after its last job began.",
        "serve_proxy_header": "The header in which a proxy names the user whom it has logged in to the "
        "[console](../howto/console.md#single-sign-on).",
        "serve_proxies": "IP addresses and networks of the proxies whose header counts, separated by commas.",
        "serve_users": "What these users may do: a table `[serve_users]`, or a JSON object; `*` is everybody else.",
    }
)
