"""User identity negotiation as caller (PS3.7 section D.3.3.7): what the PACS gets, and what it makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import AssociationRejectedError, InvalidRequestError, PeerBusyError, UnreadableInputError
from pacs_tasks.outcome import Category
from pacs_tasks.request import EchoRequest
from pacs_tasks.settings import settings
from pacs_tasks.testing import TestPACS
from pacs_tasks.testing.faults import Faults, Identity, Rejection

LOCAL = LocalAE(ae_title="CALLER")
LIMITS = Timeouts.of(10)
SECRET = "Gr8-s3cret"
Named = Callable[..., RemoteAE]


@pytest.fixture
def named(pacs: TestPACS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Named]:
    """Name the PACS in the settings, with an identity."""
    monkeypatch.chdir(tmp_path)

    def name(tls: object = None, **identity: object) -> RemoteAE:
        remote = pacs.remote.model_dump(mode="json") | {"tls": tls, "identity": identity}
        monkeypatch.setenv("PACS_TASKS_REMOTES", json.dumps({"archive": remote}))
        settings.cache_clear()
        return settings().remote("archive")

    yield name
    settings.cache_clear()


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ({"username": "müller"}, (1, "müller".encode(), b"")),
        ({"username": "me", "passcode": SECRET}, (2, b"me", SECRET.encode())),
        ({"username": "me", "passcode_file": "secret"}, (2, b"me", SECRET.encode())),
        ({"kerberos_file": "secret"}, (3, f"{SECRET}\n".encode(), b"")),
        ({"saml_file": "secret"}, (4, SECRET.encode(), b"")),
        ({"jwt_file": "secret", "positive_response": True}, (5, SECRET.encode(), b"")),
        ({"username": "me", "passcode": SECRET, "positive_response": True}, (2, b"me", SECRET.encode())),
    ],
)
def test_each_type_reaches_the_pacs(
    pacs: TestPACS, named: Named, tmp_path: Path, identity: dict[str, object], expected: Identity
) -> None:
    """A PACS that accepts only this identity answers; the request itself contains none."""
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    pacs.faults = Faults(identities=[expected])
    remote = named(**identity)
    assert echo(LOCAL, remote, LIMITS).category is Category.SUCCESS
    assert pacs.identities == [expected]
    request = EchoRequest(remote=remote).model_dump_json()
    assert "identity" not in request
    assert SECRET not in request + repr(settings()) + repr(remote) + settings().model_dump_json()


def test_the_identity_belongs_to_one_remote(pacs: TestPACS, named: Named) -> None:
    """A remote with another AE title gets none."""
    named(username="me", passcode=SECRET)
    assert echo(LOCAL, pacs.remote.model_copy(update={"ae_title": "OTHER"}), LIMITS).category is Category.SUCCESS
    assert echo(LOCAL, pacs.remote, LIMITS).category is Category.SUCCESS
    assert pacs.identities == [None, (2, b"me", SECRET.encode())]


def test_an_identity_that_goes_over_tls_never_goes_in_clear(pacs: TestPACS, named: Named) -> None:
    """Whoever may enqueue could else have it sent so. One sentence says what to use."""
    named(tls={"ca_file": "/etc/ca.pem"}, username="me", passcode=SECRET)
    with pytest.raises(InvalidRequestError, match="goes over their TLS only"):
        echo(LOCAL, pacs.remote, LIMITS)
    assert not pacs.associations


@pytest.mark.parametrize("rejection", [Rejection(1, 1, 1), Rejection(2, 2, 1), Rejection(2, 1, 1)])
def test_a_rejection_may_be_about_the_identity(pacs: TestPACS, named: Named, rejection: Rejection) -> None:
    """It is for good even if the PACS says "for now": the same passcode again may lock the account."""
    pacs.faults = Faults(rejection=rejection)
    with pytest.raises(
        AssociationRejectedError, match=r"may not accept the user identity: check its .remotes.NAME"
    ) as e:
        echo(LOCAL, named(username="me", passcode=SECRET), LIMITS)
    assert SECRET not in str(e.value)
    pacs.faults = Faults(rejection=Rejection(2, 3, 2))
    with pytest.raises(PeerBusyError, match="local limit exceeded"):
        echo(LOCAL, named(username="me", passcode=SECRET), LIMITS)


def test_a_confirmation_that_does_not_come(pacs: TestPACS, named: Named) -> None:
    """A PACS that ignores the identity is not used where a confirmation is required."""
    pacs.faults = Faults(unconfirmed_identity=True)
    with pytest.raises(AssociationRejectedError, match="without confirming the user identity"):
        echo(LOCAL, named(username="me", positive_response=True), LIMITS)
    assert echo(LOCAL, named(username="me"), LIMITS).category is Category.SUCCESS


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"", "is empty"), (b"x" * 70_000, "too long")])
def test_a_secret_that_cannot_be_used(
    pacs: TestPACS, named: Named, tmp_path: Path, content: bytes | None, said: str
) -> None:
    """The PACS is not called, and the file is named only as the subject."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(UnreadableInputError, match=said) as caught:
        echo(LOCAL, named(username="me", passcode_file="secret"), LIMITS)
    assert caught.value.subject == str(tmp_path / "secret")
    assert not pacs.calling_aets


def test_no_request_may_contain_an_identity() -> None:
    """It would be in Redis."""
    with pytest.raises(ValidationError, match="identity"):
        EchoRequest.model_validate({"remote": {"identity": {"username": "me", "passcode": SECRET}}})
