"""Audit messages: their content, their XML, and the places where they are written."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trustme

from pacs_tasks.errors import ConfigurationError
from pacs_tasks.journal.audit import (
    NODE_AUTHENTICATION,
    Event,
    FileSink,
    Kind,
    Party,
    SyslogSink,
    _is_closed,
    as_xml,
    message,
    privacy,
    sink_of,
)
from pacs_tasks.sealing import Sealing, new_key
from pacs_tasks.settings import AuditPatients, Settings
from tests.support.waiting import wait_until

NAME, PATIENT = "Secret^Patient", "ID-77"
EVENT = Event(
    Kind.TRANSFERRED,
    1_700_000_000.5,
    category="partial",
    enqueuer="me@workstation",
    source=Party("ARCHIVE", "192.168.1.100"),
    destination=Party("MINE"),
    job_id="job",
    task="pacs_tasks.retrieve",
    patient_id=PATIENT,
    patient_name=NAME,
    study_uid="1.2.3",
    keys='{"patient_id":"ID-77"}',
    instances=7,
)


def test_an_event_names_who_what_and_whom() -> None:
    found = message(EVENT)
    identification = found["EventIdentification"]
    assert identification["EventID"]["csd-code"] == "110104"
    assert (identification["EventDateTime"], identification["EventOutcomeIndicator"]) == (
        "2023-11-14T22:13:20.500+00:00",
        4,
    )
    participants = {each["UserID"]: each for each in found["ActiveParticipant"]}
    assert participants["ARCHIVE"]["RoleIDCode"]["csd-code"] == "110153"
    assert participants["ARCHIVE"]["NetworkAccessPointTypeCode"] == "2"
    assert participants["MINE"]["RoleIDCode"]["csd-code"] == "110152"
    assert participants["me@workstation"]["UserIsRequestor"] == "true"
    objects = {each["ParticipantObjectTypeCodeRole"]: each for each in found["ParticipantObjectIdentification"]}
    assert objects["3"]["ParticipantObjectID"] == "1.2.3"
    assert (objects["1"]["ParticipantObjectID"], objects["1"]["ParticipantObjectName"]) == (PATIENT, NAME)
    assert base64.b64decode(objects["24"]["ParticipantObjectQuery"]).decode() == EVENT.keys
    assert objects["20"]["ParticipantObjectID"] == "job"


@pytest.mark.parametrize("kind", Kind)
def test_every_event_survives_redis_and_is_xml_of_the_schema(kind: Kind) -> None:
    """Elements and attributes have the names and the order of PS3.15 section A.5.1."""
    event = Event(kind, 1.0, type=NODE_AUTHENTICATION, source=Party("X\0\ud800<&"), detail="why")
    assert Event.from_json(event.as_json()) == event
    root = ElementTree.fromstring(as_xml(message(event)))
    assert root.tag == "AuditMessage"
    order = [each.tag for each in root]
    assert order == sorted(order, key=["EventIdentification", "ActiveParticipant", "AuditSourceIdentification"].index)
    identification = root[0]
    assert [each.tag for each in identification] == ["EventID", "EventTypeCode", "EventOutcomeDescription"]
    assert set(identification.attrib) == {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"}


def test_what_identifies_a_patient_is_masked_or_encrypted() -> None:
    sealing = Sealing([new_key()])
    for how in (AuditPatients.MASKED, AuditPatients.SEALED):
        found = message(EVENT, privacy(how, sealing))
        query = str(found["ParticipantObjectIdentification"][2]["ParticipantObjectQuery"])
        text = json.dumps(found) + base64.b64decode(query).decode()
        assert not [each for each in (NAME, PATIENT, "1.2.3") if each in text], how
    sealed = found["ParticipantObjectIdentification"][1]["ParticipantObjectName"]
    assert sealing.unseal(sealed, "audit") == NAME
    with pytest.raises(ConfigurationError, match="PACS_TASKS_AUDIT_PATIENTS=sealed needs a key"):
        sink_of(Settings(audit="/tmp/audit", audit_patients=AuditPatients.SEALED))


def test_a_file_has_a_message_on_each_line_for_its_owner_only(tmp_path: Path) -> None:
    """It may be renamed between two writes, as programs do that rotate logs."""
    file = tmp_path / "audit.jsonl"
    sink = FileSink(str(file))
    sink.write([message(EVENT), message(EVENT)])
    file.rename(tmp_path / "audit.jsonl.1")
    sink.write([message(EVENT)])
    assert [len(each.read_text().splitlines()) for each in (tmp_path / "audit.jsonl.1", file)] == [2, 1]
    assert json.loads(file.read_text())["EventIdentification"]["EventActionCode"] == "C"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux")
def test_a_full_disk_is_an_error() -> None:
    """The caller keeps the messages."""
    with pytest.raises(OSError, match="No space left"):
        FileSink("/dev/full").write([message(EVENT)])


@pytest.mark.parametrize(
    "wrong", ["audit.jsonl", "syslog://host:514", "syslog+tls://", "syslog+tls://host:port", "udp:x"]
)
def test_a_wrong_place_is_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"the absolute path of a file, or syslog\+tls://HOST:PORT"):
        Settings(audit=wrong)


@contextmanager
def _syslog_server(authority: trustme.CA) -> Iterator[tuple[int, list[bytes]]]:
    """A server that takes messages as RFC 5425 frames them, and closes each connection after the second one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    found: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listening.accept()
                except OSError:
                    return
                with (
                    suppress(OSError),
                    plain,
                    context.wrap_socket(plain, server_side=True) as wire,
                    wire.makefile("rb") as file,
                ):
                    for _ in range(2):
                        length = b"".join(iter(lambda: file.read(1).strip(), b""))
                        if not length:
                            break
                        found.append(file.read(int(length)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], found
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_a_syslog_server_gets_xml_over_tls(tmp_path: Path) -> None:
    """A server that closes the connection gets the next message over a new one; a stranger gets none."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with _syslog_server(authority) as (port, found):
        config = Settings(audit=f"syslog+tls://localhost:{port}", audit_ca=str(tmp_path / "ca.pem"))
        sink = sink_of(config)
        assert isinstance(sink, SyslogSink)
        sink.write([message(EVENT), message(EVENT)])
        connection = sink._connection
        assert connection is not None
        wait_until(lambda: _is_closed(connection), 10, "the server to close the connection")
        sink.write([message(EVENT)])
        sink.write([message(EVENT)])
        wait_until(lambda: len(found) == 4, 10, "every message")
        stranger = tmp_path / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(str(stranger))
        distrustful = sink_of(config.model_copy(update={"audit_ca": str(stranger)}))
        assert distrustful is not None
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            distrustful.write([message(EVENT)])
        sink.close()
    head, _, xml = found[0].partition(b"\xef\xbb\xbf")
    assert head.startswith(b"<85>1 2023-11-14T22:13:20.500+00:00 ")
    assert head.endswith(b" DICOM+RFC3881 - ")
    assert ElementTree.fromstring(xml).tag == "AuditMessage"
