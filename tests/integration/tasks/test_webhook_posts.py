"""One delivery of a webhook: what it sends, whom it trusts, and how long it waits."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pacs_tasks.settings.values import Webhook
from pacs_tasks.tasks.webhooks import post, signature
from tests.support.certificates import Authority
from tests.support.http_service import service
from tests.support.ports import free_port

#: The example of the specification, https://github.com/standard-webhooks/standard-webhooks (its reference libraries).
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def webhook(url: str, timeout: float = 10.0, ca_file: str | None = None) -> Webhook:
    return Webhook(url=url, secret=SECRET, timeout=timeout, ca_file=ca_file)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The test vector of the reference libraries."""
    body = b'{"test": 2432232314}'
    signed = signature(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_is_posted() -> None:
    """The body, its id, its time and a signature of all three; the query of the URL stays."""
    with service() as running:
        assert post(webhook(f"{running.url}/hooks?tenant=7"), "evt_1", b'{"a":"\xc3\xa4"}') == (204, "")
        (received,) = running.received
    assert (received.path, received.body) == ("/hooks?tenant=7", '{"a":"ä"}'.encode())
    assert received.headers["webhook-id"] == "evt_1"
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    assert received.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert received.is_signed(SECRET)


def test_who_drips_is_cut_off() -> None:
    """The limit is one for the whole response, not one for each byte of it."""

    def drip(request: BaseHTTPRequestHandler, _: int) -> None:
        for _byte in range(1_000):
            request.wfile.write(b"H")
            if running.ended.wait(0.1):
                return

    with service({"/": drip}) as running:
        begun = time.monotonic()
        assert post(webhook(running.url, 0.5), "evt_1", b"{}") == (0, "No response within 0.5 s.")
        assert time.monotonic() - begun < 10


def test_who_says_nothing_or_is_not_there() -> None:
    """Each has a reason."""

    def silent(_: BaseHTTPRequestHandler, __: int) -> None:
        running.ended.wait(30)

    with service({"/": silent}) as running:
        assert post(webhook(running.url, 0.3), "evt_1", b"{}") == (0, "No response within 0.3 s.")
    absent = f"http://127.0.0.1:{free_port()}/"
    assert post(webhook(absent), "evt_1", b"{}") == (0, "No response (Connection refused).")


def test_a_redirect_is_not_followed() -> None:
    """It might lead anywhere."""
    with service({"/": lambda _, __: 307}) as running:
        status, error = post(webhook(running.url), "evt_1", b"{}")
        assert (status, "redirects are not followed" in error) == (307, True)
        assert not running.at("/elsewhere")


def test_only_a_trusted_host_is_told(tmp_path: Path) -> None:
    """The system does not know this authority; the webhook may name it."""
    authority = Authority(tmp_path)
    identity = authority.identity()
    with service(tls=identity.called()) as running:
        status, error = post(webhook(running.url), "evt_1", b"{}")
        assert (status, "certificate" in error) == (0, True), error
        assert post(webhook(running.url, ca_file=str(authority.file)), "evt_1", b"{}") == (204, "")
        assert len(running.received) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "http://169.254.169.254/latest",
        "ftp://hooks.example/",
        "https://user:secret@hooks.example/",
        "https:///path",
        "https://hooks.example:port/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nHost: other",
        "file:///etc/passwd",
    ],
)
def test_a_url_is_https_or_of_this_machine(url: str) -> None:
    """And has nothing in it that a log should not have."""
    with pytest.raises(ValueError, match="URL"):
        webhook(url)


@pytest.mark.parametrize("secret", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!" + "A" * 40])
def test_a_secret_is_long_enough(secret: str) -> None:
    """No message repeats it."""
    with pytest.raises(ValueError, match="whsec_ and 24 to 64 bytes") as refused:
        Webhook(url="https://hooks.example/", secret=secret)
    assert isinstance(refused.value, ValueError)


def test_nobody_reads_a_secret() -> None:
    """Not in a traceback either."""
    assert SECRET not in repr(webhook("https://hooks.example/"))
