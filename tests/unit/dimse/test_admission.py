"""Admission to the Storage SCP: places, shares, callers and what strangers may write into the log."""

from __future__ import annotations

import ipaddress
import logging
import struct

import pytest

from pacs_tasks.ae import plain_address
from pacs_tasks.dimse.scp.admission import Places, Sparing
from pacs_tasks.dimse.scp.callers import (
    ANY,
    CALLED_AET_NOT_RECOGNISED,
    CALLING_AET_NOT_RECOGNISED,
    LOOPBACK,
    OTHER_CERTIFICATE,
    UNCERTAIN,
    Caller,
    Callers,
    Rejection,
)
from pacs_tasks.dimse.upper_layer import negotiation as acse

HOST = "192.168.1.21"
AT_HOST = (ipaddress.ip_network(HOST),)
BOUND = Caller("ARCHIVE", AT_HOST, frozenset({"CN=archive"}))
NAMED = Caller("CT", AT_HOST)


class _Away(Callers):
    """Callers while Redis is away."""

    def refresh(self) -> bool:
        return False


class _Late(Callers):
    """Callers of which a job expects one that nobody knew before."""

    def refresh(self) -> bool:
        self.replace([Caller("LATE", AT_HOST)])
        return True


def test_a_quarter_of_all_places_is_for_known_remotes() -> None:
    """Strangers fill three quarters, known remotes all; a place that is given back can be taken again."""
    places = Places(8)
    assert [places.take(number, False, {"a": 99}) for number in range(7)] == [True] * 6 + [False]
    assert [places.take(f"known {number}", True, {"b": 99}) for number in range(3)] == [True] * 2 + [False]
    places.leave(0)
    places.leave(0)
    assert places.take("next", False, {"a": 99})
    assert not places.take("another", True, {})


def test_nobody_has_more_than_a_share() -> None:
    """It holds for each name, for known remotes and others apart."""
    places = Places(100)
    assert [places.take(("a", number), False, {"a": 2}) for number in range(3)] == [True, True, False]
    assert places.take("known", True, {"a": 2})
    assert not places.take("both", False, {"a": 2, "b": 2})
    assert places.take("other", False, {"b": 1})
    places.leave(("a", 0))
    assert places.take("both", False, {"a": 2})
    assert not places.crowded


@pytest.mark.parametrize(
    ("callers", "title", "host", "certificates", "expected"),
    [
        (Callers(), "ANYBODY", "10.0.0.1", (), None),
        (Callers([NAMED], everybody=False), "CT", HOST, (), None),
        (Callers([NAMED], everybody=False), "CT", "192.168.1.22", (), CALLING_AET_NOT_RECOGNISED),
        (Callers([NAMED], everybody=False), "MR", HOST, (), CALLING_AET_NOT_RECOGNISED),
        (Callers([NAMED], everybody=False), "*", HOST, (), CALLING_AET_NOT_RECOGNISED),
        (Callers([NAMED], everybody=False), "CT", "no address", (), CALLING_AET_NOT_RECOGNISED),
        (Callers([Caller(ANY, LOOPBACK)], everybody=False), "MR", "127.0.0.1", (), None),
        (Callers([Caller(ANY, LOOPBACK)], everybody=False), "MR", "::1", (), None),
        (Callers([Caller("CT")], everybody=False), "CT", "fe80::1%eth0", (), None),
        (_Away([NAMED], everybody=False), "MR", HOST, (), UNCERTAIN),
        (_Away([NAMED], everybody=False), "CT", HOST, (), None),
        (_Late([NAMED], everybody=False), "LATE", HOST, (), None),
        (Callers([BOUND], everybody=False), "ARCHIVE", HOST, ("CN=archive", "0" * 64), None),
        (Callers([BOUND], everybody=False), "ARCHIVE", HOST, (), OTHER_CERTIFICATE),
        (Callers([BOUND], everybody=False), "ARCHIVE", HOST, ("CN=other",), OTHER_CERTIFICATE),
        (Callers([BOUND]), "ARCHIVE", "10.0.0.1", ("CN=other",), OTHER_CERTIFICATE),
        (Callers([BOUND, Caller("ARCHIVE", LOOPBACK)]), "ARCHIVE", "127.0.0.1", (), OTHER_CERTIFICATE),
        (Callers([BOUND, Caller(ANY, LOOPBACK)], everybody=False), "ARCHIVE", "127.0.0.1", (), OTHER_CERTIFICATE),
        (Callers([BOUND, Caller(ANY, LOOPBACK)], everybody=False), "CT", "127.0.0.1", (), None),
        (Callers([NAMED], everybody=False, called="OTHER"), "CT", HOST, (), CALLED_AET_NOT_RECOGNISED),
    ],
)
def test_who_is_rejected(
    callers: Callers, title: str, host: str, certificates: tuple[str, ...], expected: Rejection | None
) -> None:
    """AE title, address and certificate must match one caller; an AE title with certificates is open to no other."""
    request = acse.AssociateRequest("RECEIVER", title, ())
    assert callers.rejection(request, host, frozenset(certificates)) == expected


def test_a_caller_at_another_address_of_this_machine_is_local() -> None:
    """A PACS beside the receiver may call it by the address that other machines use."""
    callers = Callers([Caller(ANY, LOOPBACK)], everybody=False)
    request = acse.AssociateRequest("RECEIVER", "ORTHANC", ())
    assert callers.rejection(request, HOST, frozenset(), own=True) is None
    assert callers.rejection(request, HOST, frozenset()) == CALLING_AET_NOT_RECOGNISED


def test_places_are_kept_for_those_with_an_address() -> None:
    """An AE title alone is no secret, and this machine is not a remote."""
    callers = Callers([NAMED, Caller("MR"), Caller(ANY, LOOPBACK, known=False)])
    assert (callers.has_at(HOST), callers.has_at("127.0.0.1"), callers.has_at("10.0.0.1")) == (True, False, False)
    assert callers.knows("CT", HOST)
    assert not callers.knows("MR", HOST)
    assert not callers.knows("CT", "10.0.0.1")
    callers.replace([])
    assert not callers.has_at(HOST)


def test_addresses_are_written_as_in_settings() -> None:
    """A socket for both versions of IP reports IPv4 addresses in a form of IPv6."""
    assert [plain_address(each) for each in ("::ffff:10.0.0.1", "10.0.0.1", "::1", "name")] == [
        "10.0.0.1",
        "10.0.0.1",
        "::1",
        "name",
    ]


def test_strangers_write_few_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of one address, fifty of all; what is left out is counted."""
    now = [1000.0]
    monkeypatch.setattr("pacs_tasks.dimse.scp.admission.time.monotonic", lambda: now[0])
    sparing = Sparing(logging.getLogger("pacs_tasks.test"))
    for number in range(100):
        sparing.warning("10.0.0.1", "caller %d", number)
    assert [each.getMessage() for each in caplog.records] == [f"caller {number}" for number in range(10)]
    for number in range(100):
        sparing.warning(f"10.0.1.{number}", "caller %d", number)
    assert len(caplog.records) == 50
    now[0] += 61
    sparing.warning("10.0.0.1", "caller %d", 100)
    assert [each.getMessage() for each in caplog.records[50:]] == [
        "150 more warnings within a minute were left out.",
        "caller 100",
    ]


@pytest.mark.parametrize(
    "items",
    [
        struct.pack(">BxH", 0x99, 0) * 200_000,
        (struct.pack(">BxH", 0x20, 4) + b"\1\0\0\0") * 1_000,
    ],
    ids=["long", "contexts"],
)
def test_a_request_without_end_is_not_decoded(items: bytes) -> None:
    """A request that no caller needs is malformed before it costs a second."""
    content = acse.encode_request(acse.AssociateRequest("A", "B", ()))[6:] + items
    with pytest.raises(ValueError, match=r"longer than any valid one|more presentation contexts than there are ids"):
        acse.decode_request(memoryview(content))
