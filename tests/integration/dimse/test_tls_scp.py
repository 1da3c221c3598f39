"""Our Storage SCP over TLS, called by DCMTK, by our own caller and by callers that it must refuse."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pacs_tasks.ae import TLS, LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.scp.admission import CROWDED_LIMIT
from pacs_tasks.dimse.scp.c_store import Arrival, Refusal, Sender
from pacs_tasks.dimse.scp.callers import Caller, Callers
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.errors import (
    AssociationRejectedError,
    InvalidRequestError,
    PeerUnavailableError,
    TLSError,
    UnreadableInputError,
)
from pacs_tasks.outcome import Category, InstanceCategory
from tests.support import dicom_files, scripted
from tests.support.attacks import connected
from tests.support.certificates import VERSIONS, Authority, Identity
from tests.support.processes import environment
from tests.support.sending import store
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
RECEIVER = LocalAE(ae_title="RECEIVER")
PATIENT = Timeouts.of(20)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make the authority that signs the certificates of both sides."""
    return Authority(tmp_path)


@pytest.fixture
def own(authority: Authority) -> Identity:
    """Make the certificate of the receiver."""
    return authority.identity("receiver")


@pytest.fixture
def scp(tmp_path: Path, own: Identity) -> Iterator[StorageSCP]:
    """Run a Storage SCP that requires no client certificate."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=own.shown) as running:
        yield running


@pytest.fixture
def strict(tmp_path: Path, own: Identity) -> Iterator[StorageSCP]:
    """Run a Storage SCP that requires a certificate of the authority."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=own.tls) as running:
        yield running


def _remote(scp: StorageSCP, tls: TLS | None) -> RemoteAE:
    return RemoteAE(ae_title="RECEIVER", host="127.0.0.1", port=scp.port, tls=tls)


def _dcmtk(
    program: str, scp: StorageSCP, options: Sequence[str | Path], files: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    command = [program, "-aec", "RECEIVER", *options, "127.0.0.1", scp.port, *files]
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(TCP_NODELAY="1"),
    )


def _wait_for_log(caplog: pytest.LogCaptureFixture, pattern: str) -> None:
    """Wait, because the thread of the association may lag behind the caller."""
    wait_until(lambda: re.search(pattern, caplog.text), 10, f"the log to say {pattern}")


def _held(scp: StorageSCP) -> dict[str, bytes]:
    return {path.stem: dicom_files.data_set(path) for path in scp.directory.rglob("*.dcm")}


def _expected(files: list[Path]) -> dict[str, bytes]:
    return {part10.read_instance(str(path)).sop_instance_uid: dicom_files.data_set(path) for path in files}


@pytest.mark.dcmtk
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_dcmtk_sends_with_a_certificate(strict: StorageSCP, authority: Authority, tmp_path: Path, profile: str) -> None:
    """Instances arrive unchanged under each BCP 195 profile of DCMTK, with both certificates verified."""
    caller = authority.identity("modality")
    files = dicom_files.write_series(tmp_path / "files", 20, rows=256)
    done = _dcmtk("storescu", strict, ["+tls", caller.key, caller.certificate, "+cf", caller.authority, profile], files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _held(strict) == _expected(files)


@pytest.mark.dcmtk
def test_dcmtk_without_a_certificate(scp: StorageSCP, strict: StorageSCP, own: Identity) -> None:
    """DCMTK without a certificate is accepted only if none is required; it always verifies ours."""
    nameless: list[str | Path] = ["+tla", "+cf", own.authority]
    assert _dcmtk("echoscu", scp, nameless).returncode == 0
    assert _dcmtk("echoscu", strict, nameless).returncode != 0
    assert _dcmtk("echoscu", scp, ["+tla"]).returncode != 0
    assert _dcmtk("echoscu", scp, []).returncode != 0


@VERSIONS
def test_it_receives_over_both_versions(scp: StorageSCP, own: Identity, version: ssl.TLSVersion) -> None:
    """All shipped files arrive unchanged over TLS 1.2 and 1.3."""
    files = [path for path in dicom_files.sendable() if len(dicom_files.data_set(path)) % 2 == 0]
    assert scp.context is not None
    scp.context.maximum_version = version
    for proposed, batch in contexts.contexts_for(part10.read_instance(str(path)) for path in files):
        with Association.open(LOCAL, _remote(scp, own.trusted), proposed, PATIENT) as assoc:
            for instance in batch:
                assert store(assoc, instance).category is InstanceCategory.SUCCESS
    assert _held(scp) == _expected(files)


def test_several_stores_are_under_way(scp: StorageSCP, own: Identity, tmp_path: Path) -> None:
    """Outstanding and answered requests are told apart, although TLS reads ahead."""
    files = dicom_files.write_series(tmp_path / "files", 200, rows=100)
    [(proposed, batch)] = contexts.contexts_for(part10.read_instance(str(path)) for path in files)
    with Association.open(LOCAL, _remote(scp, own.trusted), proposed, PATIENT, window=16) as assoc:
        assert assoc.window == 16
        answered = [(instance, outcome.category) for instance, outcome in store_all(assoc, batch)]
        assert not assoc.stream.has_input(0.1)
        assert assoc.reusable()
    assert answered == [(instance, InstanceCategory.SUCCESS) for instance in batch]
    assert _held(scp) == _expected(files)


def test_who_is_not_known_stays_out(
    strict: StorageSCP, authority: Authority, own: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Callers without a trusted certificate or without TLS are refused, and the log names caller and reason."""
    stranger = Authority(tmp_path, "stranger").identity("caller")
    trusting = {"ca_file": str(authority.file)}
    assert echo(LOCAL, _remote(strict, authority.identity("caller").tls), PATIENT).category is Category.SUCCESS
    for tls, told, logged in (
        (own.trusted, "requires a client certificate", "127.0.0.1 sent no certificate, which this receiver requires"),
        (
            stranger.tls.model_copy(update=trusting),
            "refused our certificate: its issuer is unknown",
            "127.0.0.1 has a certificate of an untrusted issuer.*PACS_TASKS_RECEIVER_TLS_CA",
        ),
        (
            authority.expired().tls,
            "refused our certificate: it has expired",
            "127.0.0.1 has a certificate that has expired",
        ),
        (None, "expects TLS on this port", "127.0.0.1 does not use TLS on this port. Have it use TLS"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises((TLSError, PeerUnavailableError), match=told):
            echo(LOCAL, _remote(strict, tls), PATIENT)
        _wait_for_log(caplog, logged)
        assert "Traceback" not in caplog.text
        assert str(tmp_path) not in caplog.text


@pytest.mark.parametrize("by", ["fingerprint", "name"])
def test_an_ae_title_is_bound_to_a_certificate(
    own: Identity, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    """Another caller with a trusted certificate cannot use the AE title; titles that are not bound stay open."""
    right, wrong = authority.identity("modality"), authority.identity("workstation")
    der = ssl.PEM_cert_to_DER_cert(right.certificate.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----")
    names = {"fingerprint": hashlib.sha256(der).hexdigest(), "name": "CN=modality"}
    callers = Callers([Caller(LOCAL.ae_title, certificates=frozenset({names[by]}))])
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=own.tls, callers=callers) as bound:
        assert echo(LOCAL, _remote(bound, right.tls), PATIENT).category is Category.SUCCESS
        with pytest.raises(AssociationRejectedError, match="calling AE title not recognised"):
            echo(LOCAL, _remote(bound, wrong.tls), PATIENT)
        assert echo(LocalAE(ae_title="OTHER"), _remote(bound, wrong.tls), PATIENT).category is Category.SUCCESS
    assert "CALLER at 127.0.0.1 was rejected: its certificate is not the one" in caplog.text


def test_a_remote_is_bound_to_its_certificate(scp: StorageSCP, own: Identity) -> None:
    """A remote that presents another certificate of a trusted authority is not called."""
    right = own.trusted.model_copy(update={"certificates": ("CN=receiver",)})
    wrong = own.trusted.model_copy(update={"certificates": ("CN=archive",)})
    assert echo(LOCAL, _remote(scp, right), PATIENT).category is Category.SUCCESS
    with pytest.raises(TLSError, match="presented another certificate than the one bound to it"):
        echo(LOCAL, _remote(scp, wrong), PATIENT)


def test_a_caller_that_does_not_trust_us(
    scp: StorageSCP, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs up with an alert, which is logged, and noted for the audit trail."""
    stranger, noted = Authority(tmp_path, "stranger").identity("other"), list[str]()
    monkeypatch.setattr(scp.callers, "note_failed_handshake", noted.append)
    with caplog.at_level(logging.WARNING), pytest.raises(TLSError, match="untrusted issuer"):
        echo(LOCAL, _remote(scp, stranger.trusted), PATIENT)
    _wait_for_log(caplog, "refused our certificate: its issuer is unknown")
    assert noted == ["127.0.0.1"]


def test_a_caller_with_tls_at_a_port_without(own: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both sides report the reason."""
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received") as plain,
        caplog.at_level(logging.WARNING),
        pytest.raises(TLSError, match="does not use TLS on this port"),
    ):
        echo(LOCAL, _remote(plain, own.trusted), PATIENT)
    _wait_for_log(caplog, "127.0.0.1 uses TLS, but this connection does not. Set PACS_TASKS_RECEIVER_TLS_CERTIFICATE")


@pytest.mark.parametrize("begun", [b"", b"\x16\3\1\2\0\1", b"\x16\3\1\0\4abcd", b"GET / HTTP/1.1\r\n\r\n"])
def test_who_does_not_shake_hands_holds_nobody_up(tmp_path: Path, own: Identity, begun: bytes) -> None:
    """Others are served meanwhile, and it is closed after the limit for association requests."""
    # A caller that had to wait for it would time out after 20 seconds.
    patient, hasty = (Timeouts(connect=20, acse=seconds, dimse=20) for seconds in (60, 1))
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received", patient, tls=own.shown) as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=20) as silent,
    ):
        silent.sendall(begun)
        assert echo(LOCAL, _remote(scp, own.trusted), PATIENT).category is Category.SUCCESS
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received", hasty, tls=own.shown) as scp,
        socket.create_connection(("127.0.0.1", scp.port), timeout=10) as silent,
    ):
        silent.sendall(begun)
        with contextlib.suppress(ConnectionResetError):  # It had not read everything.
            scripted.wait_for_end(silent)


def test_handshakes_without_end_leave_threads_for_known_remotes(tmp_path: Path, own: Identity) -> None:
    """A crowd that begins handshakes takes all threads for strangers, and a known remote still gets in."""
    known = Callers([Caller(LOCAL.ae_title, (ipaddress.ip_network("127.0.0.1"),))])
    with (
        StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=own.shown, callers=known) as scp,
        contextlib.ExitStack() as stack,
    ):
        for number in range(200):
            stack.enter_context(connected(scp.port, f"127.0.0.{2 + number}", b"\x16\3\1\2\0\1"))
        began = time.monotonic()
        assert echo(LOCAL, _remote(scp, own.trusted), PATIENT).category is Category.SUCCESS
        assert time.monotonic() - began < CROWDED_LIMIT, "it does not wait until the others have to go"


def test_stopping_does_not_wait_for_a_handshake(tmp_path: Path, own: Identity) -> None:
    """Stopping waits neither for a handshake nor for a caller that is silent after it."""
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=own.shown) as scp:
        context = ssl.create_default_context(cafile=own.authority)
        with (
            socket.create_connection(("127.0.0.1", scp.port), timeout=20) as silent,
            socket.create_connection(("127.0.0.1", scp.port), timeout=20) as spoken,
            context.wrap_socket(spoken, server_hostname="127.0.0.1") as secured,
        ):
            began = time.monotonic()
            scp.stop(20)
            assert time.monotonic() - began < 5
            assert scripted.wait_for_end(silent) == b""
            scripted.wait_for_end(secured)


def test_a_certificate_that_cannot_be_used_is_told_before_it_listens(tmp_path: Path, own: Identity) -> None:
    """An unusable or missing certificate is reported before the receiver listens."""
    nowhere = str(tmp_path / "nowhere.pem")
    with pytest.raises(UnreadableInputError, match="cannot read our certificate") as caught:
        StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=TLS(certificate_file=nowhere))
    assert caught.value.subject == nowhere
    with pytest.raises(InvalidRequestError, match="needs a certificate for TLS"):
        StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=own.trusted)


def test_the_certificate_of_a_caller_identifies_it(own: Identity, authority: Authority, tmp_path: Path) -> None:
    """The receiver sees the marks that the caller shows when it is called, if only in its names; no others."""
    senders: list[Sender | None] = []

    def refuse(arrival: Arrival) -> Refusal:
        senders.append(arrival.sender)
        return Refusal(0xA700, "not here")

    [file] = dicom_files.write_series(tmp_path / "files", 1)
    marks: list[tuple[str, ...]] = []
    with StorageSCP("127.0.0.1", 0, tmp_path / "received", tls=own.tls, place=refuse) as scp:
        for name in ("pacs", "pacs", "another"):
            # The second is the first, renewed.
            caller = authority.identity(name, organization_unit_name="Radiology")
            [(proposed, batch)] = contexts.contexts_for([part10.read_instance(str(file))])
            with Association.open(LOCAL, _remote(scp, caller.tls), proposed, PATIENT) as assoc:
                assert store(assoc, batch[0]).category is InstanceCategory.FAILED
                marks.append(assoc.wire.certificate_marks())
    assert len(set(marks)) == 1
    assert len(marks[0]) == 2
    seen = [each.certificate for each in senders if each is not None]
    assert [each.address for each in senders if each is not None] == ["127.0.0.1"] * 3
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1] != seen[2][1]
    assert not set(seen[0]) & set(seen[2])
