"""What a request may name, by the settings of the worker."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pacs_tasks.ae import TLS, RemoteAE
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer import connecting
from pacs_tasks.dimse.upper_layer.connecting import may_be_called
from pacs_tasks.embedded.launch import environment
from pacs_tasks.errors import (
    AssociationError,
    ConfigurationError,
    InvalidRequestError,
    PeerUnavailableError,
    UnreadableInputError,
)
from pacs_tasks.request import (
    EchoRequest,
    GetRequest,
    MoveRequest,
    RetrieveRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
)
from pacs_tasks.settings import RemoteAddresses, Settings, load
from pacs_tasks.tasks import files
from pacs_tasks.tasks.engine import permissions

_ARCHIVE = RemoteAE(ae_title="ARCHIVE", host="pacs.example", port=104)


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what the worker allows."""

    def set_to(**values: object) -> None:
        config = Settings.model_validate(values)
        monkeypatch.setattr(permissions, "settings", lambda: config)
        monkeypatch.setattr(connecting, "settings", lambda: config)

    return set_to


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a file, and links out of it; beside it a secret."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "below/file").write_bytes(b"x")
    (tmp_path / "root2").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "dangling").symlink_to(tmp_path / "nothing")
    (root / "out").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    return root


_FORBIDDEN = ("../secret", "../nothing", "../root2", "below/../../secret", "link", "dangling", "out", "out/secret",
              "out/nothing", "circle/x", "..")  # fmt: skip


@pytest.mark.parametrize("name", _FORBIDDEN)
def test_a_path_outside_gets_the_same_answer_whether_it_exists_or_not(
    allow: Callable[..., None], tree: Path, name: str
) -> None:
    allow(source_roots=[tree], output_roots=[tree])
    answers = set()
    for check in (permissions.check_source, permissions.output_directory):
        with pytest.raises(InvalidRequestError) as raised:
            check(str(tree / name))
        answers.add(raised.value.message.replace("SOURCE", "OUTPUT").replace("sends from", "writes to"))
    assert answers == {
        "The path is outside the directories that this worker writes to. Name one below PACS_TASKS_OUTPUT_ROOTS."
    }


@pytest.mark.parametrize("name", ["", "below", "below/file", "missing", "below/../missing"])
def test_a_path_inside_may_be_named(allow: Callable[..., None], tree: Path, name: str) -> None:
    allow(source_roots=[tree.parent / "root2", tree], output_roots=[tree])
    permissions.check_source(str(tree / name))
    permissions.output_directory(str(tree / name))


def test_a_root_may_be_a_link(allow: Callable[..., None], tree: Path) -> None:
    (tree.parent / "alias").symlink_to(tree)
    allow(source_roots=[tree.parent / "alias"])
    permissions.check_source(str(tree / "below/file"))


def test_requests_are_checked_by_what_they_read_and_write(allow: Callable[..., None], tree: Path) -> None:
    allow(source_roots=[tree], output_roots=[tree])
    outside = str(tree.parent)
    for request in (
        StoreRequest(path=outside),
        StoreDirectoryRequest(directory=outside),
        RetrieveRequest(study_uid="1.2", output_dir=outside),
        GetRequest(study_uid="1.2", output_dir=outside),
        EchoRequest(remote=_ARCHIVE.model_copy(update={"tls": TLS(ca_file="/etc/shadow")})),
    ):
        with pytest.raises(InvalidRequestError, match="outside the directories"):
            permissions.check_request(request)
    permissions.check_request(StoreDirectoryRequest(directory=str(tree)))
    allow(source_roots=[tree], remotes={"a": {"host": "pacs.example", "tls": {"ca_file": "/etc/ca"}}})
    permissions.check_request(EchoRequest(remote=RemoteAE(tls=TLS(ca_file="/etc/ca"))))


@pytest.mark.parametrize(
    ("settings", "allowed", "forbidden"),
    [
        ({}, ["s3://any/1", "gs://any", "az://any/1"], ["https://server/1"]),
        ({"source_roots": ["/data"]}, [], ["s3://any/1", "https://server/1", "/elsewhere/1"]),
        (
            {"source_urls": ["s3://bucket/a", "https://server/b/"]},
            ["s3://bucket/a", "s3://bucket/a/1", "https://server/b/1", "/data/1"],
            [
                "s3://bucket/ab",
                "s3://bucket",
                "s3://other/a/1",
                "https://server/c/1",
                "https://server.evil/b/1",
                "gs://a/1",
            ],
        ),
        ({"source_urls": ["s3://bucket"], "source_roots": ["/data"]}, ["s3://bucket/1"], ["s3://other/1", "/1"]),
    ],
    ids=["neither", "roots", "urls", "both"],
)
def test_urls_are_allowed_by_prefixes(
    allow: Callable[..., None], settings: dict[str, object], allowed: list[str], forbidden: list[str]
) -> None:
    allow(**settings)
    for each in allowed:
        permissions.check_request(StorePathsRequest(paths=(each,)))
    for each in forbidden:
        with pytest.raises(InvalidRequestError, match=r"does not send from this URL|outside the directories"):
            permissions.check_request(StorePathsRequest(paths=(each,)))


def test_links_out_of_a_directory_are_not_listed(allow: Callable[..., None], tree: Path) -> None:
    allow(source_roots=[tree])
    found = [path for path, _ in files.files_below(str(tree))]
    assert str(tree / "below/file") in found
    assert not [path for path in found if path.startswith(f"{tree}/out/")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows itself as files")
def test_what_the_system_shows_as_files_is_not_listed(tree: Path) -> None:
    """A link to it would be followed for minutes. The job says so instead, as it does for a directory that it names."""
    (tree / "system").symlink_to("/proc/self")
    assert [path for path, _ in files.files_below(str(tree)) if "/system" in path] == [str(tree / "system")]
    with pytest.raises(UnreadableInputError, match="it is a directory of the system, not of files"):
        part10.read_instance(str(tree / "system"))
    with pytest.raises(UnreadableInputError, match="in /proc or /sys"):
        files.readable_directory("/sys/kernel")


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "169.254.169.254"},
        {"port": 22},
        {"ae_title": "OTHER"},
        {"tls": TLS(ca_file="/etc/shadow")},
        {"receive_from": ("10.0.0.0/8", "0.0.0.0/0")},
        {"receive_from_ae_titles": ("EVIL",)},
        {"receive_from_certificates": ("a" * 64,)},
        {"max_associations": 9},
        {"max_matches": 200_001},
        {"max_answer_bytes": 1 << 40},
        {"max_match_elements": 10_001},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_only_named_remotes_are_served(allow: Callable[..., None], changed: dict[str, object]) -> None:
    """As they are in the settings: a request neither opens the receiver to others, nor raises a limit."""
    own = {"max_associations": 8, "receive_from": ("10.0.0.0/8", "10.1.2.3"), "receive_from_ae_titles": ("MOVER",)}
    first = RemoteAE(ae_title="FIRST")
    allow(named_remotes_only=True, remotes={"archive": _ARCHIVE.model_dump() | own, "first": first.model_dump()})
    less = {"host": "PACS.example", "max_associations": 1, "max_matches": 5, "receive_from": ("10.1.2.3",)}
    for allowed in ({"host": "PACS.example"}, own, less):
        permissions.check_request(EchoRequest(remote=_ARCHIVE.model_copy(update=allowed)))
    other = _ARCHIVE.model_copy(update=changed)
    for request in (EchoRequest(remote=other), RetrieveRequest(remote=first, study_uid="1.2", to=other)):
        with pytest.raises(InvalidRequestError, match="NAMED_REMOTES_ONLY"):
            permissions.check_request(request)
    with pytest.raises(InvalidRequestError, match="NAMED_REMOTES_ONLY"):
        permissions.check_request(EchoRequest())


def test_a_remote_is_told_to_send_to_named_remotes_only(allow: Callable[..., None]) -> None:
    """By C-MOVE it sends to any AE title that it knows."""
    allow(named_remotes_only=True, ae_title="HERE", remotes={"archive": _ARCHIVE.model_dump()})
    for ae_title in ("HERE", _ARCHIVE.ae_title):
        permissions.check_request(MoveRequest(remote=_ARCHIVE, move_aet=ae_title, study_uid="1.2"))
    elsewhere = MoveRequest(remote=_ARCHIVE, move_aet="EVIL", study_uid="1.2")
    with pytest.raises(InvalidRequestError, match="NAMED_REMOTES_ONLY"):
        permissions.check_request(elsewhere)
    allow(remotes={"archive": _ARCHIVE.model_dump()})
    permissions.check_request(elsewhere)


def test_a_host_is_not_a_network() -> None:
    """The receiver, which expects the remote of a job, would accept callers from all of it."""
    with pytest.raises(ValidationError, match="not a host"):
        EchoRequest.model_validate({"remote": {"host": "0.0.0.0/0"}})


_NEVER = ("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "0.0.0.0", "0.1.2.3",
          "::", "255.255.255.255", "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::a9fe:a9fe",
          "2002:a9fe:a9fe::1", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:fffe::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00:808:808",
          "64:ff9b:1:a9:fe:a9fe:808:808", "64:ff9b:1:0:a9:fea9:fe08:808", "64:ff9b:1::224.0.0.1",
          "::ffff:0:169.254.169.254", "::ffff:0:100.100.100.200", "fd00:ec2::254", "fd20:ce::254",
          "100.100.100.200", "192.0.0.192")  # fmt: skip
_NAMED_ONLY = ("fec0::1", "feff::1", "240.0.0.1", "254.1.2.3", "::ffff:240.0.0.1", "64:ff9b::240.0.0.1")
_PRIVATE = ("10.1.2.3", "172.31.0.1", "192.168.1.1", "127.0.0.1", "::1", "fd12::1", "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1", "64:ff9b:1:fffe::10.0.0.1")  # fmt: skip
_PUBLIC = ("8.8.8.8", "172.32.0.1", "2001:4860::1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b:1::8.8.8.8",
           "64:ff9b:1:fffe::8.8.8.8")  # fmt: skip


@pytest.mark.parametrize("address", [*_NEVER, *_PRIVATE, *_PUBLIC])
def test_some_addresses_are_never_called_and_public_ones_only_by_default(address: str) -> None:
    assert may_be_called(address, RemoteAddresses.ANY) is (address not in _NEVER)
    assert may_be_called(address, RemoteAddresses.PRIVATE) is (address in _PRIVATE)


@pytest.mark.parametrize("address", _NAMED_ONLY)
def test_site_local_and_reserved_addresses_are_called_only_if_the_settings_name_them(
    allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    assert not may_be_called(address, RemoteAddresses.ANY)
    assert may_be_called(address, RemoteAddresses.ANY, named=True)
    assert not may_be_called(address, RemoteAddresses.PRIVATE, named=True)
    monkeypatch.setattr(
        "pacs_tasks.dimse.upper_layer.connecting.socket.getaddrinfo",
        lambda *_, **__: [(socket.AF_UNSPEC, 0, 0, "", (address, 104))],
    )
    allow()
    with pytest.raises(AssociationError, match="workers do not call"):
        connecting.connect("old.example", 104, "X", 1, lambda: None)
    allow(remotes={"old": {"host": "OLD.example"}})
    # It gets as far as the socket, which has no family.
    with pytest.raises(PeerUnavailableError, match="Cannot connect"):
        connecting.connect("old.example", 104, "X", 1, lambda: None)


def test_the_address_is_checked_that_is_connected_to(
    allow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to a forbidden address, also as one of several, and each time to another."""
    asked = []

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in (["169.254.169.254"] if len(asked) > 1 else ["8.8.8.8"])]

    def no_socket(*_: object) -> None:
        raise AssertionError("it was connected to")

    allow(remote_addresses="private")
    monkeypatch.setattr("pacs_tasks.dimse.upper_layer.connecting.socket.getaddrinfo", resolve)
    monkeypatch.setattr("pacs_tasks.dimse.upper_layer.connecting.socket.socket", no_socket)
    for _ in range(2):
        with pytest.raises(AssociationError, match="workers do not call") as raised:
            connecting.connect("rebinding.example", 80, "X at rebinding.example:80", 1, lambda: None)
        assert type(raised.value) is AssociationError, "it is not tried again"


def test_roots_are_read_as_a_path_or_a_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PACS_TASKS_SOURCE_ROOTS", f"{tmp_path}{os.pathsep}/data")
    assert load().source_roots == (tmp_path, Path("/data"))
    monkeypatch.setenv("PACS_TASKS_SOURCE_ROOTS", environment(load(), None)["PACS_TASKS_SOURCE_ROOTS"])
    assert load().source_roots == (tmp_path, Path("/data"))
    monkeypatch.setenv("PACS_TASKS_SOURCE_URLS", "s3://a/b, gs://c")
    monkeypatch.setenv("PACS_TASKS_SOURCE_URLS", environment(load(), None)["PACS_TASKS_SOURCE_URLS"])
    assert load().source_urls == ("s3://a/b", "gs://c")
    monkeypatch.setenv("PACS_TASKS_SOURCE_ROOTS", "data")
    with pytest.raises(ConfigurationError, match="absolute"):
        load()
