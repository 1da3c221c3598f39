"""Who may deliver what a job expects: addresses in all their forms, AE titles, certificates, Move Originators."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.scp.c_store import Originator, Sender
from pacs_tasks.fleet import senders
from pacs_tasks.fleet.senders import Expectation, expectation

OURS = ("ME", 7)
FINGERPRINT = "ab" * 32


def expected(
    host: str = "192.0.2.1",
    fields: Mapping[str, object] = MappingProxyType({}),
    *,
    receiver: str = "192.0.2.9",
    certificates: tuple[str, ...] = (),
) -> Expectation:
    """What a worker expects after a C-MOVE to a PACS; ``fields`` are those of the remote."""
    remote = RemoteAE.model_validate({"ae_title": "PACS", "host": host, **fields})
    return expectation("owner", [remote], receiver, certificates, OURS)


def own_address() -> str:
    """An address of this machine that is not the loopback address, or that one where there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    ("host", "fields", "address", "accepted"),
    [
        ("192.0.2.1", {}, "192.0.2.1", True),
        ("::ffff:192.0.2.1", {}, "192.0.2.1", True),
        ("2001:DB8::0:1", {}, "2001:db8::1", True),
        ("192.0.2.1", {}, "192.0.2.2", False),
        ("192.0.2.1", {}, "", False),
        ("192.0.2.1", {}, "nonsense", False),
        ("192.0.2.1", {"receive_from": ["192.0.2.0/30"]}, "192.0.2.2", True),
        ("192.0.2.1", {"receive_from": ["192.0.2.0/30"]}, "192.0.2.4", False),
        ("192.0.2.1", {"receive_from": ["192.0.2.0/30"]}, "192.0.2.1", True),
        ("192.0.2.1", {"receive_from": ["2001:db8::/64"]}, "192.0.2.2", False),
        ("192.0.2.1", {"receive_from": ["2001:db8::/64"]}, "2001:db8::77", True),
        ("no-such-host.invalid", {"receive_from": ["192.0.2.5"]}, "192.0.2.5", True),
        ("no-such-host.invalid", {"receive_from": ["::ffff:192.0.2.5"]}, "192.0.2.5", True),
        ("no-such-host.invalid", {}, "192.0.2.5", False),
    ],
)
def test_addresses(host: str, fields: dict[str, object], address: str, accepted: bool) -> None:
    """The PACS delivers from its own address or from one that is named, in whatever form."""
    assert expected(host, fields).accepts(Sender(address, "PACS"), None) is accepted


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.1.1"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.0.2.77"])
def test_a_pacs_on_this_machine(host: str, address: str) -> None:
    """It may call from any address of this machine; another loopback address is somebody else's."""
    found = expected(host, receiver="127.0.0.1")
    assert found.accepts(Sender(address, "PACS", local=True), None)
    assert not found.accepts(Sender("127.0.0.2", "PACS"), None)
    assert not found.accepts(Sender("192.0.2.77", "PACS"), None)


def test_a_pacs_on_the_machine_of_the_receiver() -> None:
    """It is called by an address of that machine, and delivers over the loopback address."""
    own = own_address()
    assert expected(own, receiver=own).accepts(Sender("127.0.0.1", "PACS", local=True), None)
    assert not expected("192.0.2.1", receiver=own).accepts(Sender("127.0.0.1", "PACS", local=True), None)


def test_a_pacs_on_the_machine_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback address is another machine's for a receiver elsewhere, which sees the worker's machine call."""
    sources = {"192.0.2.9": "192.0.2.5"}
    monkeypatch.setattr(senders, "_source_towards", lambda host: sources.get(host, ""))
    assert expected("127.0.0.1", receiver="192.0.2.9").addresses == ("192.0.2.5",)


@pytest.mark.parametrize(
    ("fields", "calling_aet", "originator", "accepted"),
    [
        ({}, "PACS", None, True),
        ({}, "PACS", Originator("ME", 7), True),
        ({}, "pacs", None, False),
        ({}, "OTHER", Originator("ME", 7), False),
        ({}, "PACS", Originator("ME", 8), False),
        ({}, "PACS", Originator("ME", None), False),
        ({}, "PACS", Originator("YOU", 7), False),
        ({}, "PACS", Originator("PACS", 7), False),
        ({"receive_from_ae_titles": ["NODE"]}, "NODE", None, True),
        ({"receive_from_ae_titles": ["NODE"]}, "PACS", Originator("NODE", 99), True),
        ({"receive_from_ae_titles": ["PACS"]}, "PACS", Originator("PACS", 99), True),
        ({"receive_from_ae_titles": ["ME"]}, "PACS", Originator("ME", 99), True),
    ],
)
def test_ae_titles_and_originators(
    fields: dict[str, list[str]], calling_aet: str, originator: Originator | None, accepted: bool
) -> None:
    """A remote that names a Move Originator names our request, or a node that is named."""
    found = expected(fields=fields)
    sender = Sender("192.0.2.1", calling_aet)
    assert found.accepts(sender, originator) is accepted
    # What the settings name is accepted then.
    named = {} if accepted else dict(line.split(" = ") for line in found.stranger(sender, originator).settings)
    for name, value in named.items():
        fields = {**fields, name: [*fields.get(name, []), *json.loads(value)]}
    assert expected(fields=fields).accepts(sender, originator)


@pytest.mark.parametrize(
    ("shown", "named", "certificate", "accepted"),
    [
        ((), (), ("1", "names 1"), True),
        (("1", "names 1"), (), (), True),
        (("1", "names 1"), (), ("1", "names 1"), True),
        (("1", "names 1"), (), ("2", "names 1"), True),
        (("1", "names 1"), (), ("2", "names 2"), False),
        (("1", "names 1"), (FINGERPRINT,), (FINGERPRINT, "names 2"), True),
        ((), (FINGERPRINT,), ("2", "names 2"), False),
    ],
)
def test_certificates(
    shown: tuple[str, ...], named: tuple[str, ...], certificate: tuple[str, ...], accepted: bool
) -> None:
    """A PACS delivers with the certificate that it shows, one of the same names, or one that is named."""
    found = expected(fields={"receive_from_certificates": named}, certificates=shown)
    assert found.accepts(Sender("192.0.2.1", "PACS", certificate=certificate), None) is accepted


def test_a_stranger_is_told_every_setting_that_it_needs() -> None:
    """Each with its value, for the table of the remote."""
    sender = Sender("192.0.2.2", "NODE", certificate=(FINGERPRINT, "names 2"))
    found = expected(certificates=("1",)).stranger(sender, Originator("FRONT", 3))
    assert str(found) == "NODE at 192.0.2.2"
    assert found.settings == (
        'receive_from = ["192.0.2.2"]',
        'receive_from_ae_titles = ["NODE", "FRONT"]',
        f'receive_from_certificates = ["{FINGERPRINT}"]',
    )


def test_wrong_settings_are_refused() -> None:
    """The error says what may stand there; other forms are made one."""
    good = RemoteAE.model_validate(
        {
            "receive_from": ["10.1.2.3/8", " 10.0.0.1 "],
            "receive_from_certificates": [f"sha256 Fingerprint={':'.join(['AB'] * 32)}"],
        }
    )
    assert good.receive_from == ("10.0.0.0/8", "10.0.0.1")
    assert good.receive_from_certificates == (FINGERPRINT,)
    for name, value in (
        ("receive_from", "pacs.example"),
        ("receive_from_ae_titles", "A" * 17),
        ("receive_from_certificates", "ab"),
    ):
        with pytest.raises(ValueError, match=name):
            RemoteAE.model_validate({name: [value]})
