"""Commands over TLS: against Orthanc, DCMTK and TestPACS, and into our receiver."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacs_tasks.connection import connect
from pacs_tasks.dimse.files import part10
from pacs_tasks.fleet.receivers import running
from pacs_tasks.testing import TestPACS
from tests.support import dicom_files, peers, workers
from tests.support.certificates import Authority, Identity
from tests.support.command import Terminal
from tests.support.ports import free_port
from tests.support.processes import ROOT, Process, environment
from tests.support.waiting import wait_until

_RECEIVER = "PACS_TASKS"


@dataclass(frozen=True)
class Certificates:
    """An authority and whom it has signed."""

    authority: Authority
    pacs: Identity
    ours: Identity
    receiver: Identity


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """For both sides, of one authority."""
    authority = Authority(tmp_path)
    return Certificates(
        authority, authority.identity("pacs"), authority.identity("ours"), authority.identity("receiver")
    )


@pytest.fixture
def secured(certificates: Certificates) -> list[str]:
    """The options that a person types: whom to trust, and what to show."""
    ours = certificates.ours
    return list(map(str, ["--tls-ca", ours.authority, "--tls-cert", ours.certificate, "--tls-key", ours.key]))


def _receiver_settings(own: Identity) -> dict[str, str]:
    """Show a certificate, and take only callers of its authority."""
    files = {"CERTIFICATE": own.certificate, "KEY": own.key, "CA": own.authority}
    return {f"PACS_TASKS_RECEIVER_TLS_{name}": str(file) for name, file in files.items()}


@pytest.fixture
def receiver_port(tmp_path: Path, shared_redis_url: str, certificates: Certificates) -> Iterator[int]:
    """The port of a receiver of two processes that takes known callers only."""
    port = free_port()
    settings = {**_receiver_settings(certificates.receiver), "PACS_TASKS_RECEIVER_PROCESSES": "2"}
    with workers.receiver(shared_redis_url, tmp_path, port, _RECEIVER, **settings) as process:
        wait_until(lambda: "Add this destination to your PACS" in process.said(), 10, "the receiver to say where it is")
        assert f"AE title {_RECEIVER}, host 127.0.0.1, port {port}, TLS" in process.said()
        yield port


@pytest.mark.orthanc
@pytest.mark.parametrize("method", ["get", "move"])
def test_orthanc_takes_and_gives_over_tls(
    terminal: Terminal,
    tmp_path: Path,
    certificates: Certificates,
    secured: list[str],
    receiver_port: int,
    method: str,
) -> None:
    """Echo, store, query and retrieve with mutual authentication; C-MOVE delivers to our receiver over TLS as well."""
    files = dicom_files.write_series(tmp_path / "files", 20, rows=300)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(certificates.pacs.authority.read_bytes())
    modality = {"AET": _RECEIVER, "Host": "127.0.0.1", "Port": receiver_port, "UseDicomTls": True}
    with peers.orthanc(
        tmp_path,
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(certificates.pacs.certificate),
        DicomTlsPrivateKey=str(certificates.pacs.key),
        DicomTlsTrustedCertificates=str(trusted),
        DicomModalities={_RECEIVER: modality},
    ) as orthanc:

        def run(*arguments: object) -> str:
            result = terminal.run(*arguments, *orthanc.options, *secured)
            assert result.code == 0, str(result)
            return result.stdout

        assert "over TLS answered" in run("echo")
        run("send-dir", "--dir", tmp_path / "files")
        held = orthanc.instances()
        assert {uid: orthanc.data_set(own) for uid, own in held.items()} == {
            part10.read_instance(str(path)).sop_instance_uid: dicom_files.data_set(path) for path in files
        }
        assert dicom_files.CHINESE_NAME in run("query", "--patient-name", "张*")
        study = dicom_files.study_uid()
        run("retrieve", "--study-uid", study, "--output-dir", tmp_path / "out", "--method", method)
        came = {path.stem: dicom_files.data_set(path) for path in (tmp_path / "out").rglob("*.dcm")}
        assert came == {uid: orthanc.data_set(own) for uid, own in held.items()}

        nameless = terminal.run("echo", *orthanc.options, "--tls-ca", trusted)
        assert nameless.code == 4, str(nameless)
        assert "requires a client certificate" in nameless.stderr
        plain = terminal.run("echo", *orthanc.options)
        assert plain.code == 4, str(plain)
        assert "Check whether it expects TLS on this port (--tls)" in plain.stderr


@pytest.mark.dcmtk
def test_storescp_takes_a_directory_over_tls(
    terminal: Terminal, tmp_path: Path, certificates: Certificates, secured: list[str]
) -> None:
    """DCMTK demands our certificate and gets every instance to the byte."""
    files = dicom_files.write_series(tmp_path / "files", 30, rows=300)
    own = certificates.pacs
    options = ["+tls", own.key, own.certificate, "+cf", own.authority]
    with peers.storescp(tmp_path, "STORESCP", *map(str, options)) as storescp:
        result = terminal.run("send-dir", "--dir", tmp_path / "files", *storescp.options, *secured)
        assert result.code == 0, str(result)
        assert "over TLS" in result.stdout
        held = sorted(dicom_files.data_set(path) for path in storescp.files())
        assert held == sorted(dicom_files.data_set(path) for path in files)


def test_associations_are_kept_for_the_next_part(
    terminal: Terminal, tmp_path: Path, certificates: Certificates
) -> None:
    """As without TLS: a handshake for each file would be the larger part of the work."""
    dicom_files.write_series(tmp_path / "files", 60)
    with TestPACS("ARCHIVE", tls=certificates.pacs.shown) as pacs:
        (terminal.directory / "pacs-tasks.toml").write_text(
            f'[remotes.archive]\nhost = "127.0.0.1"\nport = {pacs.port}\nae_title = "ARCHIVE"\n'
            f'[remotes.archive.tls]\nca_file = "{certificates.pacs.certificate}"\n'
        )
        result = terminal.run("send-dir", "--dir", tmp_path / "files", "--remote", "archive", "--json")
        assert result.code == 0, str(result)
        assert len(pacs.instances) == 60
        assert pacs.associations <= 15


def test_what_goes_wrong_is_one_sentence_for_whom_asked(
    terminal: Terminal, shared_worker: Process, tmp_path: Path, certificates: Certificates
) -> None:
    """A PACS that is not trusted is unreachable; a file that is not there is named to the person, and not in logs."""
    [file] = dicom_files.write_series(tmp_path / "files", 1)
    with TestPACS(tls=certificates.pacs.shown) as pacs:
        address = ["--ip", pacs.host, "--port", pacs.port]
        for command in (["echo"], ["send-file", "--file", file], ["send-dir", "--dir", tmp_path / "files"]):
            result = terminal.run(*command, *address, "--tls")
            assert result.code == 4, str(result)
            assert "has a certificate of an untrusted issuer" in result.stdout + result.stderr
        nowhere = tmp_path / "nowhere.pem"
        for command in (["echo"], ["query"], ["send-dir", "--dir", tmp_path / "files"]):
            result = terminal.run(*command, *address, "--tls-ca", nowhere)
            assert result.code == 2, str(result)
            assert f"{nowhere}: " in result.stderr
            assert "cannot read the trusted certificates" in result.stderr
        result = terminal.run("send-file", "--file", file, *address, "--tls-ca", nowhere)
        assert result.code == 2, str(result)
        assert "cannot read the trusted certificates" in result.stdout
        assert pacs.instances == {}
    assert "nowhere.pem" not in shared_worker.said()


def test_a_receiver_over_tls_is_announced_and_can_be_asked_whether_it_is_well(
    shared_redis_url: str, tmp_path: Path, receiver_port: int, certificates: Certificates
) -> None:
    """The health check calls it as itself."""
    client = connect(shared_redis_url, 5)
    try:
        (found,) = wait_until(lambda: [each for each in running(client) if each.port == receiver_port], 10, "it")
    finally:
        client.close()
    assert found.tls
    values = {"PACS_TASKS_RECEIVER_HOST": "127.0.0.1", "PACS_TASKS_RECEIVER_PORT": str(receiver_port)}
    stranger = Authority(tmp_path, "stranger").identity("receiver")
    for shown, code, told in (
        (certificates.receiver, 0, "over TLS answers"),
        (stranger, 1, "a certificate of an untrusted issuer"),
    ):
        done = _python("workers.health", "receiver", **values, **_receiver_settings(shown))
        assert done.returncode == code
        assert told in done.stdout + done.stderr


def test_a_receiver_whose_callers_have_another_authority_is_well(
    shared_redis_url: str, tmp_path: Path, certificates: Certificates
) -> None:
    """It does not take its own certificate for a caller's, and the health check knows that."""
    port = free_port()
    settings = _receiver_settings(certificates.receiver)
    settings["PACS_TASKS_RECEIVER_TLS_CA"] = str(Authority(tmp_path, "callers").file)
    with workers.receiver(shared_redis_url, tmp_path, port, _RECEIVER, **settings):
        values = {"PACS_TASKS_RECEIVER_HOST": "127.0.0.1", "PACS_TASKS_RECEIVER_PORT": str(port)}
        done = _python("workers.health", "receiver", **values, **settings)
    assert done.returncode == 0, done.stderr
    assert "answers. It accepts only callers with a certificate that it trusts" in done.stdout


def test_a_receiver_without_its_certificate_does_not_start(shared_redis_url: str, tmp_path: Path) -> None:
    """It says why, in one sentence."""
    done = _python(
        "workers.receiver",
        PACS_TASKS_REDIS_URL=shared_redis_url,
        PACS_TASKS_DATA_DIR=str(tmp_path / "data"),
        PACS_TASKS_RECEIVER_PORT="0",
        PACS_TASKS_RECEIVER_TLS_CERTIFICATE=str(tmp_path / "nowhere.pem"),
    )
    assert done.returncode == 2
    assert "nowhere.pem" in done.stderr
    assert "cannot read our certificate: the file does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def _python(*module: str, **values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *module],
        env=environment(**values),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
