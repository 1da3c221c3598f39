"""TLS as people ask for it: in Python, in the settings, on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from pydantic import ValidationError

from pacs_tasks.ae import TLS, RemoteAE
from pacs_tasks.cli.invocation import Invocation, Program
from pacs_tasks.cli.program import commands
from pacs_tasks.embedded.launch import environment
from pacs_tasks.errors import ConfigurationError, InvalidRequestError
from pacs_tasks.request import EchoRequest, build
from pacs_tasks.settings import load


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No file and no variable of the developer's own is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("PACS_TASKS_CONFIG", raising=False)
    return tmp_path


def _remote(*argv: str) -> RemoteAE:
    """Whom a command line calls."""
    invocation = Invocation(Program(), argv)
    with commands.make_context("pacs-tasks", list(argv), obj=invocation) as group:
        name, command, rest = commands.resolve_command(group, [*group._protected_args, *group.args])
        assert command is not None
        with command.make_context(name, rest, parent=group):
            invocation.begin()
    invocation.close()
    return invocation.remote


def test_files_are_named_so_that_a_worker_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has another current directory; what is absolute, on Windows too, stays as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    tls = TLS(ca_file="a/../ca.pem", certificate_file="~/me.pem", key_file="/etc/../me.key")
    assert tls.ca_file == str(tmp_path / "ca.pem")
    assert tls.certificate_file == "/home/me/me.pem"
    assert tls.key_file == "/etc/../me.key"
    assert TLS(ca_file=r"C:\\pacs\\ca.pem").ca_file == r"C:\\pacs\\ca.pem"
    crossed = EchoRequest.model_validate_json(EchoRequest(remote=RemoteAE(tls=tls)).model_dump_json())
    assert crossed.remote.tls == tls


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"key_file": "me.key"}, "a private key needs its certificate"),
        ({"ca_file": " "}, "a file needs a name"),
        ({"ca_file": "a\0b"}, "a file needs a name"),
        ({"server_name": ".example.org"}, "not a host name"),
        ({"server_name": ""}, "at least 1 character"),
        ({"server_name": "a" * 64}, "not a host name"),
        ({"verify": False}, "not permitted"),
    ],
)
def test_what_cannot_be_is_refused_where_it_enters(fields: dict[str, object], told: str) -> None:
    """Also in a request that another service made; there is no way to leave certificates unchecked."""
    with pytest.raises(ValidationError, match=told):
        TLS.model_validate(fields)
    with pytest.raises(InvalidRequestError, match=told):
        build(EchoRequest, {"remote": {"tls": fields}})


def test_true_and_false_stand_for_tls_with_nothing_special() -> None:
    """As people write it in a file."""
    assert RemoteAE.model_validate({"tls": True}).tls == TLS()
    assert RemoteAE.model_validate({"tls": False}).tls is None
    assert RemoteAE().tls is None


def test_a_peer_says_that_it_is_called_over_tls() -> None:
    """In messages and tables."""
    assert str(RemoteAE(tls=TLS())) == "PACS at 127.0.0.1:11112 over TLS"
    assert str(RemoteAE()) == "PACS at 127.0.0.1:11112"


def test_a_remote_has_its_tls_in_the_file(tmp_path: Path) -> None:
    """As a table, or as a word; a typing error in it is told."""
    file = tmp_path / "pacs-tasks.toml"
    file.write_text(
        '[remotes.a]\ntls = true\n[remotes.b.tls]\nca_file = "/etc/ca.pem"\ncheck_hostname = false\n'
        'certificate_file = "me.pem"\nserver_name = "pacs.example.org"\n'
    )
    known = load()
    assert known.remote("a").tls == TLS()
    assert known.remote("b").tls == TLS(
        ca_file="/etc/ca.pem",
        check_hostname=False,
        certificate_file=str(tmp_path / "me.pem"),
        server_name="pacs.example.org",
    )
    file.write_text('[remotes.b.tls]\ncafile = "/etc/ca.pem"\n')
    with pytest.raises(ConfigurationError, match=r"remotes\.b\.tls\.cafile: there is no setting of this name"):
        load()


@pytest.mark.parametrize(
    ("variables", "tls"),
    [
        ({}, None),
        ({"TLS": "false"}, None),
        ({"TLS": "1"}, TLS()),
        ({"TLS_CA": "/ca.pem"}, TLS(ca_file="/ca.pem")),
        (
            {"TLS_CERT": "/me.pem", "TLS_KEY": "/me.key"},
            TLS(certificate_file="/me.pem", key_file="/me.key"),
        ),
        ({"TLS_SERVER_NAME": "pacs"}, TLS(server_name="pacs")),
        ({"TLS_NO_HOSTNAME_CHECK": "yes"}, TLS(check_hostname=False)),
    ],
)
def test_the_environment_says_it_for_the_peer_without_a_name(
    variables: dict[str, str], tls: TLS | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is said about TLS asks for it: a connection that somebody secured is never plain."""
    for name, value in variables.items():
        monkeypatch.setenv(f"PACS_TASKS_{name}", value)
    assert load().default_remote.tls == tls
    assert _remote("echo").tls == tls


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"TLS_KEY": "/me.key"}, "a private key needs its certificate"),
        ({"RECEIVER_TLS_KEY": "/me.key"}, "need receiver_tls_certificate"),
        ({"RECEIVER_TLS_CA": "/ca.pem"}, "need receiver_tls_certificate"),
        ({"TLS_SERVER_NAME": ".x"}, "tls_server_name: this is not a host name"),
    ],
)
def test_settings_that_do_not_fit_are_told(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, and before anything is opened."""
    for name, value in variables.items():
        monkeypatch.setenv(f"PACS_TASKS_{name}", value)
    with pytest.raises(ConfigurationError, match=told):
        load()


def test_the_receiver_has_settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the one who calls mean nothing to it; a process of its own finds its files wherever it runs."""
    monkeypatch.setenv("PACS_TASKS_TLS_CA", "/ca.pem")
    assert load().receiver_tls is None
    monkeypatch.setenv("PACS_TASKS_RECEIVER_TLS_CERTIFICATE", "us.pem")
    monkeypatch.setenv("PACS_TASKS_RECEIVER_TLS_CA", "/callers.pem")
    known = load()
    assert known.receiver_tls == TLS(certificate_file=str(tmp_path / "us.pem"), ca_file="/callers.pem")
    assert environment(known, None)["PACS_TASKS_RECEIVER_TLS_CERTIFICATE"] == str(tmp_path / "us.pem")
    assert "PACS_TASKS_TLS_CERT" not in environment(load(tls_cert="/me.pem"), None)


def test_options_override_what_is_known_of_a_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one; the environment does not, since it is about the peer without a name."""
    (tmp_path / "pacs-tasks.toml").write_text('[remotes.open]\n[remotes.safe.tls]\nca_file = "/ca.pem"\n')
    monkeypatch.setenv("PACS_TASKS_TLS_CA", "/other.pem")
    assert _remote("echo", "--remote", "open").tls is None
    assert _remote("echo", "--remote", "open", "--tls").tls == TLS()
    assert _remote("echo", "--remote", "safe").tls == TLS(ca_file="/ca.pem")
    shown = _remote("echo", "--remote", "safe", "--tls-cert", "me.pem", "--tls-key", "me.key", "--tls-server-name", "x")
    assert shown.tls == TLS(
        ca_file="/ca.pem",
        certificate_file=str(tmp_path / "me.pem"),
        key_file=str(tmp_path / "me.key"),
        server_name="x",
    )
    assert _remote("echo", "--remote", "safe", "--tls-no-hostname-check").tls == TLS(
        ca_file="/ca.pem", check_hostname=False
    )
    with pytest.raises(ConfigurationError, match="a private key needs its certificate"):
        _remote("echo", "--remote", "open", "--tls-key", "me.key")
    with pytest.raises(click.BadParameter, match="not a host name"):
        _remote("echo", "--tls-server-name", ".x")


def test_options_ask_for_tls(tmp_path: Path) -> None:
    """Before the command and after it; a file is one of the directory where it was typed."""
    assert _remote("--tls", "echo").tls == TLS()
    assert _remote("echo", "--tls-ca", "ca.pem").tls == TLS(ca_file=os.fspath(tmp_path / "ca.pem"))
    assert _remote("echo").tls is None
