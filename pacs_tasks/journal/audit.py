"""The audit trail: DICOM audit messages (PS3.15 section A.5, of RFC 3881), in a file or to a syslog server.

An :class:`Event` names what happened; :func:`message` makes the audit message of it, and a :class:`Sink` writes
messages. In a file, a message is a JSON object with the names of the schema. To ``syslog+tls://``, it is the XML of
the schema (section A.5.1), in RFC 5424 over TLS (RFC 5425), as section A.6 demands.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from pacs_tasks.errors import ConfigurationError
from pacs_tasks.sealing import Sealing
from pacs_tasks.settings import AuditPatients, Settings

#: A code: its value and its meaning in the coding scheme DCM (PS3.16 annex D).
Code = tuple[str, str]


class Kind(Enum):
    """What happened, with its code (PS3.16 context group 400) and its action (PS3.15 section A.5.3)."""

    APPLICATION = ("110100", "Application Activity"), "E"
    BEGIN = ("110102", "Begin Transferring DICOM Instances"), "E"
    TRANSFERRED = ("110104", "DICOM Instances Transferred"), "C"
    DELETED = ("110110", "Patient Record"), "D"
    QUERY = ("110112", "Query"), "E"
    ALERT = ("110113", "Security Alert"), "E"


START: Code = ("110120", "Application Start")
STOP: Code = ("110121", "Application Stop")
#: A caller that is not let in, and a message that is not genuine.
NODE_AUTHENTICATION: Code = ("110126", "Node Authentication")
RESTRICTED_FUNCTION: Code = ("110132", "Use of Restricted Function")

_APPLICATION: Code = ("110150", "Application")
_DESTINATION: Code = ("110152", "Destination Role ID")
_SOURCE: Code = ("110153", "Source Role ID")
_STUDY: Code = ("110180", "Study Instance UID")
_SOP_CLASS: Code = ("110181", "SOP Class UID")

#: EventOutcomeIndicator (PS3.15 section A.5.2.1) by the category of an outcome; any other is a serious failure.
_OUTCOMES: Mapping[str, int] = {"success": 0, "warning": 0, "partial": 4, "cancelled": 4}
_FAILURE = 8
_MASK = "***"
#: Jobs that one event names.
_NAMED = 100

#: Facility 10, security and authorisation, with severity 5, notice (PS3.15 section A.6.2).
_PRIORITY = 10 * 8 + 5
#: Seconds to connect to a syslog server and to hand it a message.
_LIMIT = 5.0
_SYSLOG = "syslog+tls://"
_SYSLOG_PORT = 6514


@dataclass(frozen=True)
class Party:
    """An application entity: its title, and its host where that is known."""

    ae_title: str
    host: str = ""


@dataclass(frozen=True)
class Event:
    """What happened once: to a job, to a study of a job, or to a process.

    Attributes
    ----------
    time
        Unix seconds.
    category
        The category of the outcome; empty for what has just begun.
    enqueuer, requester
        Who requested it; and for whom, where a service enqueues for others, and only the service is proven.
    source, destination
        Where data, or the query, came from and went to.
    job_id, task
        The job and its public task.
    patient_id, patient_name, study_uid
        Of the patient, where known.
    keys
        The keys of a query, or of a request whose studies are not known yet.
    sop_class_uid
        The query model.
    instances
        How many instances were transferred.
    detail
        For people; it holds no patient data.
    """

    kind: Kind
    time: float
    category: str = ""
    type: Code | None = None
    enqueuer: str = ""
    requester: str = ""
    source: Party | None = None
    destination: Party | None = None
    job_id: str = ""
    task: str = ""
    patient_id: str = ""
    patient_name: str = ""
    study_uid: str = ""
    keys: str = ""
    sop_class_uid: str = ""
    instances: int | None = None
    detail: str = ""

    def as_json(self) -> str:
        """Write the event as JSON."""
        return json.dumps({**asdict(self), "kind": self.kind.name})

    @classmethod
    def from_json(cls, text: str) -> Event:
        """Read what :meth:`as_json` wrote."""
        fields = json.loads(text)
        parties = {name: Party(**fields[name]) for name in ("source", "destination") if fields[name]}
        kind, code = Kind[fields["kind"]], tuple(fields["type"]) if fields["type"] else None
        return cls(**{**fields, **parties, "kind": kind, "type": code})


def purged_events(requester: str, job_ids: Sequence[str]) -> Iterator[Event]:
    """Give the events of a purge, whose requester nothing proves."""
    event = Event(Kind.DELETED, time.time(), category="success", enqueuer=f"{requester} (not proven)")
    for start in range(0, len(job_ids), _NAMED):
        named = ", ".join(job_ids[start : start + _NAMED])
        yield replace(event, detail=f"The records of these jobs were purged: {named}")


def message(event: Event, private: Callable[[str], str] = str) -> dict[str, Any]:
    """Make the audit message of an event, with the names of the schema.

    Parameters
    ----------
    private
        Masks or encrypts what identifies a patient; see :func:`privacy`.
    """
    code, action = event.kind.value
    happened = datetime.datetime.fromtimestamp(event.time, datetime.UTC).isoformat(timespec="milliseconds")
    identification: dict[str, Any] = {
        "EventActionCode": action,
        "EventDateTime": happened,
        "EventOutcomeIndicator": _OUTCOMES.get(event.category, _FAILURE) if event.category else 0,
        "EventID": _coded(code),
    }
    if event.type is not None:
        identification["EventTypeCode"] = _coded(event.type)
    if event.detail or event.category:
        identification["EventOutcomeDescription"] = event.detail or event.category
    return {
        "EventIdentification": identification,
        "ActiveParticipant": list(_participants(event)),
        "AuditSourceIdentification": {
            "AuditSourceID": f"pacs-tasks@{socket.gethostname()}",
            # Application server process (PS3.15 table A.5.1).
            "AuditSourceTypeCode": {"csd-code": "4"},
        },
        "ParticipantObjectIdentification": list(_objects(event, private)),
    }


def _coded(code: Code) -> dict[str, str]:
    return {"csd-code": code[0], "codeSystemName": "DCM", "originalText": code[1]}


def _participants(event: Event) -> Iterable[dict[str, Any]]:
    for party, role in ((event.source, _SOURCE), (event.destination, _DESTINATION)):
        if party is not None:
            host = party.host or socket.gethostname()
            yield {
                "UserID": party.ae_title,
                "AlternativeUserID": f"AETITLES={party.ae_title}",
                "UserIsRequestor": "false",
                "NetworkAccessPointID": host,
                # 2 is an address, 1 a name.
                "NetworkAccessPointTypeCode": "2" if host.replace(".", "").isdigit() or ":" in host else "1",
                "RoleIDCode": _coded(role),
            }
    if event.kind is Kind.APPLICATION:
        yield {
            "UserID": f"pacs-tasks {os.getpid()}",
            "UserIsRequestor": "false",
            "NetworkAccessPointID": socket.gethostname(),
            "NetworkAccessPointTypeCode": "1",
            "RoleIDCode": _coded(_APPLICATION),
        }
    if event.enqueuer:
        other = {"AlternativeUserID": event.requester} if event.requester else {}
        yield {"UserID": event.enqueuer, **other, "UserIsRequestor": "true"}


def _objects(event: Event, private: Callable[[str], str]) -> Iterable[dict[str, Any]]:
    if event.study_uid:
        found: dict[str, Any] = _object("2", "3", private(event.study_uid), _coded(_STUDY))
        if event.instances is not None:
            found["ParticipantObjectDetail"] = [_detail("NumberOfInstances", str(event.instances))]
        yield found
    if event.patient_id or event.patient_name:
        number = {"csd-code": "2", "codeSystemName": "RFC-3881", "originalText": "Patient Number"}
        patient = _object("1", "1", private(event.patient_id), number)
        yield {**patient, "ParticipantObjectName": private(event.patient_name)} if event.patient_name else patient
    if event.keys:
        model = _object("2", "24", event.sop_class_uid or event.task, _coded(_SOP_CLASS))
        yield {**model, "ParticipantObjectQuery": base64.b64encode(private(event.keys).encode()).decode("ascii")}
    if event.job_id:
        job = _object("2", "20", event.job_id, {"csd-code": "job", "codeSystemName": "pacs-tasks"})
        yield {**job, "ParticipantObjectDetail": [_detail("task", event.task)]} if event.task else job


def _object(kind: str, role: str, identity: str, code: Mapping[str, str]) -> dict[str, Any]:
    return {
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
        "ParticipantObjectID": identity,
        "ParticipantObjectIDTypeCode": code,
    }


def _detail(name: str, value: str) -> dict[str, str]:
    return {"type": name, "value": base64.b64encode(value.encode()).decode("ascii")}


def privacy(how: AuditPatients, sealing: Sealing) -> Callable[[str], str]:
    """Give what is done to names, ids and UIDs of patients and studies before they are written."""
    if how is AuditPatients.PLAIN:
        return str
    if how is AuditPatients.SEALED:
        return lambda text: sealing.seal(text, "audit") if text else ""
    return lambda text: _MASK if text else ""


#: Elements with a text; the other texts of a message are attributes.
_TEXTS = frozenset({"EventOutcomeDescription", "ParticipantObjectName", "ParticipantObjectQuery"})


def as_xml(content: Mapping[str, Any]) -> bytes:
    """Write a message as XML by the schema of PS3.15 section A.5.1."""
    return bytes(ElementTree.tostring(_element("AuditMessage", content), encoding="utf-8", xml_declaration=True))


def _element(name: str, content: Mapping[str, Any]) -> ElementTree.Element:
    element = ElementTree.Element(name)
    for key, value in content.items():
        if isinstance(value, Mapping):
            element.append(_element(key, value))
        elif isinstance(value, list):
            element.extend([_element(key, each) for each in value])
        elif key in _TEXTS:
            ElementTree.SubElement(element, key).text = _printable(str(value))
        else:
            element.set(key, _printable(str(value)))
    return element


def _printable(text: str) -> str:
    """Replace what XML cannot hold."""
    return "".join(each if each.isprintable() else "?" for each in text)


class FileSink:
    """A file with a JSON object on each line, readable for its owner only. It may be renamed at any time.

    Writing raises :class:`OSError` if that cannot be done now; the messages before the first that failed are written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        #: A full disk took only a part of the last line.
        self._broken = False

    def write(self, messages: Iterable[Mapping[str, Any]]) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            for each in messages:
                line = json.dumps(each, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
                line = b"\n" + line if self._broken else line
                self._broken = True
                written = os.write(file, line)
                if written < len(line):
                    raise OSError(28, os.strerror(28))
                self._broken = False
            os.fsync(file)
        finally:
            os.close(file)


class SyslogSink:
    """A syslog server over TLS (RFC 5425), over one connection; writing raises as for a file."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._host, self._port, self._context = host, port, context
        self._connection: ssl.SSLSocket | None = None

    def write(self, messages: Iterable[Mapping[str, Any]]) -> None:
        try:
            for each in messages:
                framed = _syslog(as_xml(each), each["EventIdentification"]["EventDateTime"])
                self._connected().sendall(framed)
        except OSError:
            self.close()
            raise

    def _connected(self) -> ssl.SSLSocket:
        """Give the connection, a new one if the server has closed it."""
        if self._connection is not None and _is_closed(self._connection):
            self.close()
        if self._connection is None:
            plain = socket.create_connection((self._host, self._port), timeout=_LIMIT)
            try:
                self._connection = self._context.wrap_socket(plain, server_hostname=self._host)
            except BaseException:
                plain.close()
                raise
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
        self._connection = None


def _is_closed(connection: ssl.SSLSocket) -> bool:
    """Whether the server has ended the connection. It sends nothing else but tickets of TLS 1.3 (section 4.4)."""
    connection.settimeout(0)
    try:
        connection.recv(1)
    except ssl.SSLWantReadError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_LIMIT)
    return True


def _syslog(xml: bytes, happened: str) -> bytes:
    """Frame a message (RFC 5425 section 4.3) with its header (RFC 5424 section 6.2); XML begins with a BOM."""
    head = f"<{_PRIORITY}>1 {happened} {socket.gethostname()} pacs-tasks {os.getpid()} DICOM+RFC3881 - "
    text = head.encode("ascii", "replace") + b"\xef\xbb\xbf" + xml
    return f"{len(text)} ".encode() + text


#: Where messages go.
Sink = FileSink | SyslogSink


def sink_of(config: Settings) -> Sink | None:
    """Give the sink that the settings name, or None.

    Raises
    ------
    ConfigurationError
        If its certificates cannot be read, or patients shall be encrypted and there is no key.
    """
    if config.audit is None:
        return None
    if config.audit_patients is AuditPatients.SEALED and not config.keys:
        raise ConfigurationError(
            "PACS_TASKS_AUDIT_PATIENTS=sealed needs a key. Set PACS_TASKS_ENCRYPTION_KEYS, or choose plain or masked."
        )
    if not config.audit.startswith(_SYSLOG):
        return FileSink(config.audit)
    address = urlsplit(config.audit)
    try:
        context = ssl.create_default_context(cafile=config.audit_ca)
        if config.audit_cert is not None:
            context.load_cert_chain(config.audit_cert, config.audit_key)
    except OSError as error:
        raise ConfigurationError(
            f"The certificates of the audit trail cannot be read ({error.strerror or error}). Correct "
            "PACS_TASKS_AUDIT_CA, PACS_TASKS_AUDIT_CERT and PACS_TASKS_AUDIT_KEY."
        ) from None
    return SyslogSink(address.hostname or "", address.port or _SYSLOG_PORT, context)
