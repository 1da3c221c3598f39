"""A Redis behind TLS: what is trusted, and one sentence for what is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerSettingError, BrokerUnavailableError
from pacs_tasks.settings import Settings, load
from tests.support.certificates import Authority, Identity
from tests.support.ports import free_port
from tests.support.redis_server import redis_server


class Secured(NamedTuple):
    """A Redis with a plain port and one with TLS, at which it requires a certificate."""

    plain: int
    port: int
    identity: Identity
    other: Identity

    def load(self, host: str = "127.0.0.1", **settings: str | None) -> Settings:
        """Settings for it, that trust it and show a certificate unless ``settings`` say otherwise."""
        own = {"redis_ca": self.identity.authority, "redis_cert": self.identity.certificate}
        given = {**own, "redis_key": self.identity.key, **settings}
        files = {name: str(each) for name, each in given.items() if each}
        return load(redis_url=f"rediss://{host}:{self.port}/0", **files)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("redis-tls")
    identity, port = Authority(directory).identity("redis", "127.0.0.1"), free_port()
    more = ["--tls-port", port, "--tls-cert-file", identity.certificate, "--tls-key-file", identity.key]
    more += ["--tls-ca-cert-file", identity.authority]
    with redis_server(directory, more=[str(each) for each in more]) as server:
        yield Secured(server.port, port, identity, Authority(directory, "other").identity("redis"))


def _ping(config: Settings, patience: float = 5) -> bool:
    with closing(connect(config.redis_url or "", patience)) as client:
        return bool(client.ping())


def test_the_settings_are_enough(secured: Secured) -> None:
    """The address needs no parameter; its own win, such as in the environment of a process that we start."""
    assert _ping(secured.load())
    again = load(redis_url=secured.load().redis_url, redis_ca=str(secured.other.authority))
    assert again.redis_url == secured.load().redis_url


def test_the_authorities_of_the_system_are_trusted(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is named. OpenSSL reads them where this variable says."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.identity.authority))
    assert _ping(secured.load(redis_ca=None))


@pytest.mark.parametrize(
    ("host", "settings", "said"),
    [
        ("127.0.0.1", {"redis_ca": None}, r"does not trust \(certificate verify failed.*PACS_TASKS_REDIS_CA"),
        ("127.0.0.1", {"redis_ca": "{other}"}, r"does not trust \(certificate verify failed.*PACS_TASKS_REDIS_CA"),
        ("localhost", {}, "localhost:.* does not trust .*the host of its certificate in PACS_TASKS_REDIS_URL"),
        (
            "127.0.0.1",
            {"redis_cert": None, "redis_key": None},
            "There is no TLS.*PACS_TASKS_REDIS_CERT|does not answer",
        ),
        ("127.0.0.1", {"redis_ca": "/nowhere/ca.pem"}, "The file of PACS_TASKS_REDIS_CA cannot be read .No such file"),
        ("127.0.0.1", {"redis_key": "{key}"}, "There is no TLS"),
    ],
    ids=["nobody", "another authority", "another host", "no certificate", "no file", "another key"],
)
def test_what_is_wrong_is_one_sentence(secured: Secured, host: str, settings: dict[str, str | None], said: str) -> None:
    """With the setting to correct."""
    values = {"other": secured.other.authority, "key": secured.other.key}
    given = {name: each and each.format(**values) for name, each in settings.items()}
    with pytest.raises(BrokerUnavailableError, match=said):
        _ping(secured.load(host, **given))


def test_one_side_without_tls_is_told(secured: Secured) -> None:
    for url in (f"rediss://127.0.0.1:{secured.plain}/0", f"redis://127.0.0.1:{secured.port}/0"):
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            _ping(load(redis_url=url), 1)


@pytest.mark.parametrize("name", ["redis_ca", "redis_cert"])
def test_files_of_tls_are_not_ignored_without_it(name: str) -> None:
    """Passwords and patient data would go unencrypted."""
    for url in ("redis://127.0.0.1/0", "unix:///run/redis.sock"):
        with pytest.raises(BrokerSettingError, match="Begin it with rediss://"):
            load(redis_url=url, **{name: "/etc/x.pem"})
    # The private server is on this machine.
    assert load(redis_url=None, **{name: "/etc/x.pem"}).redis_url is None
