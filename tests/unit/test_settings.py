"""Where settings come from."""

from __future__ import annotations

import base64
import random
import sys
from pathlib import Path

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.embedded.launch import environment
from pacs_tasks.errors import BrokerSettingError, ConfigurationError
from pacs_tasks.settings import check_redis_url, load, remark_on_variables
from pacs_tasks.settings.values import is_weak


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No file of the developer's own is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("PACS_TASKS_CONFIG", raising=False)
    return tmp_path


def test_the_defaults_are_those_that_users_know() -> None:
    """Documented in the users' guide, and fixed."""
    known = load(redis_url=None)
    assert (known.ip, known.port, known.ae_title, known.pacs_ae_title, known.timeout) == (
        "127.0.0.1",
        11112,
        "PYNETDICOM",
        "PACS",
        30.0,
    )


def test_the_environment_wins_over_the_file(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the file over the defaults."""
    (empty_directory / "pacs-tasks.toml").write_text(
        'port = 104\nae_title = "FILE"\n[remotes.main]\nae_title = "MAIN"\nhost = "10.0.0.1"\ncharset = "GB18030"\n'
    )
    monkeypatch.setenv("PACS_TASKS_AE_TITLE", "ENVIRONMENT")
    known = load()
    assert (known.port, known.ae_title) == (104, "ENVIRONMENT")
    assert str(known.remote("main")) == "MAIN at 10.0.0.1:11112"
    assert known.remote("main").charset == "GB18030"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("PACS_TASKS_PROT", "PORT"), ("pacs_tasks_timout", "TIMEOUT"), ("PACS_TASKS_REDIS_URI", "REDIS_URL")),
        *(("PACS_TASKS_RECEIVER_TLS_CERT", "RECEIVER_TLS_CERTIFICATE"), ("PACS_TASKS_TLS_CRT", "TLS_CERT")),
        *(
            ("PACS_TASK_PORT", ""),
            ("PACS_TASKS_REMOTE", ""),
            ("PACS_TASKS_REDIS_PASSWORD", ""),
            ("PACS_TASKS_SOMETHING", ""),
        ),
    ],
)
def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    """With the setting that was meant. A variable of something else is not refused."""
    monkeypatch.setenv(name, "1")
    if not meant:
        assert load().port == 11112
        return
    with pytest.raises(ConfigurationError, match=f"no setting {name.upper()}. Set PACS_TASKS_{meant} instead"):
        load()


def test_variables_that_nothing_reads_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are written. Those of docker-compose.yml are read there, and empty ones count as unset."""
    monkeypatch.setenv("PACS_TASKS_SOMETHING", "1")
    monkeypatch.setenv("pacs_tasks_x", "1")
    monkeypatch.setenv("PACS_TASKS_EMPTY", "")
    monkeypatch.setenv("PACS_TASKS_REDIS_PASSWORD", "secret")
    said = remark_on_variables()
    if sys.platform != "win32":
        assert said.startswith("There is no setting PACS_TASKS_SOMETHING, pacs_tasks_x. Correct")
    assert "secret" not in said
    # A process that this one starts would name them once more.
    assert "PACS_TASKS_SOMETHING" not in environment(load(), None)


@pytest.mark.parametrize(
    "prefix", ["PACS_TASK_", "PACSTASKS_", "PACS_TASKS-", "PACS-TASKS_", "PACS_TASKS__", "PACS_TAKS_", "PAC_TASKS_"]
)
def test_a_variable_that_begins_nearly_as_ours_is_named(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Whoever set it believes that callers must present a certificate."""
    monkeypatch.setenv(f"{prefix}RECEIVER_TLS_CA", "/ca.pem")
    monkeypatch.setenv("PACSTASKSERVER", "1")
    assert remark_on_variables().startswith(f"There is no setting {prefix}RECEIVER_TLS_CA. Correct")


@pytest.mark.parametrize(
    ("login", "address", "refused"),
    [
        *[
            (login, "0.0.0.0", True)
            for login in ("me:secret", "me:password1234", "pacs:PacsPacs2024", "me:aaaaaaaaaaaaaa")
        ],
        *[(login, "::", True) for login in ("archive:archive-2024", "me:123456789012", "me:Flower-Admin-1")],
        *[
            ("me:secret", address, False)
            for address in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1")
        ],
        *[("me:secret", address, True) for address in ("10.0.0.1", "fe80::1", "flower.hospital.example")],
        *[(login, "10.0.0.1", False) for login in ("me:tall-otter-92-lamp", "me:x7Gh2kPq9wLm", "pacs:6-Bäume-vor-Ort")],
    ],
)
def test_flower_refuses_a_weak_password_where_others_reach_it(login: str, address: str, *, refused: bool) -> None:
    """They could try passwords. On this machine's own address, any will do."""
    config = load(flower_basic_auth=login, flower_address=address)
    if not refused:
        assert config.flower_login() == login
        return
    with pytest.raises(ConfigurationError, match="too weak") as raised:
        config.flower_login()
    assert login.partition(":")[2] not in str(raised.value)


@pytest.mark.parametrize(
    "password",
    [
        *("P@ssw0rd1234", "P@$$w0rd1234!", "Passwort123456", "W3lc0me-2026!", "R@d1ology2026", "D1c0m-P4cs-2026"),
        *(
            "monkeymonkey",
            "Tiger-Tiger-26",
            "abcxyzabcxyz",
            "qazwsxedcrfv",
            "1qaz2wsx3edc",
            "qwertyuiop12",
            "asdfghjkl;12",
        ),
        *("Krankenhaus1", "Kr4nkenhaus2026", "Kl1n1kum2026!", "Roentgen2026", "Willkommen2026", "Radiologie-Praxis"),
    ],
)
def test_a_password_in_disguise_is_weak(password: str) -> None:
    """Programs that guess passwords try known words first, also with other signs for letters, twice, or in rows."""
    assert is_weak("me", password)


def test_random_passwords_and_phrases_are_not_weak() -> None:
    """Nor those that `up` makes, and that the guide shows."""
    some = random.Random(1)
    made = [base64.urlsafe_b64encode(some.randbytes(12)).decode() for _ in range(2000)]
    digits = ["".join(some.choices("0123456789", k=20)) for _ in range(200)]
    shown = ["ChangeThisPassword2", "tall-otter-92", "Xk4-98237498237", "vier Pferde ziehen 3 Wagen"]
    assert [each for each in (*made, *digits, *shown) if is_weak("pacs", each)] == []


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        *[(f"ssl_cert_reqs={value}", "ssl_cert_reqs") for value in ("none", "None", "CERT_NONE", "n%6fne", "0")],
        *[(f"ssl_check_hostname={value}", "ssl_check_hostname") for value in ("false", "False", "0", "no", "f")],
        *[("db=1&ssl_cert_reqs=required&ssl%5Fcert_reqs=none", "ssl_cert_reqs")],
    ],
)
def test_the_address_of_the_redis_may_not_switch_off_the_check_of_its_certificate(parameters: str, named: str) -> None:
    """Whoever answers at its address would get the password, in spite of the authority that the settings name."""
    for wrong in ({}, {"redis_ca": "/etc/ca.pem"}):
        with pytest.raises(BrokerSettingError, match=f"certificate with {named}. Remove") as raised:
            load(redis_url=f"rediss://:secret@h:1/0?{parameters}", **wrong)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize("parameters", ["ssl_cert_reqs=required", "ssl_check_hostname=True&ssl_cert_reqs=optional"])
def test_the_address_of_the_redis_may_ask_for_the_check_of_its_certificate(parameters: str) -> None:
    assert check_redis_url(f"rediss://h:1/0?{parameters}")


@pytest.mark.skipif(sys.platform == "win32", reason="it is a path of this machine there")
@pytest.mark.parametrize("name", ["data_dir", "receiver_dir"])
@pytest.mark.parametrize("path", [r"D:\received", "d:/received", r"\\server\share", r"received\new"])
def test_a_directory_of_windows_is_refused_elsewhere(name: str, path: str) -> None:
    """It would be created under that name."""
    with pytest.raises(ConfigurationError, match=f"{name}: this is a path of Windows"):
        load(**{name: path})


def test_a_remote_bears_what_it_says_itself_or_what_the_file_says_of_its_address(empty_directory: Path) -> None:
    """However it was named when it was asked; else what all bear."""
    (empty_directory / "pacs-tasks.toml").write_text(
        'max_associations = 3\n[remotes.main]\nae_title = "MAIN"\nhost = "pacs.example"\nmax_associations = 1\n'
    )
    known = load()
    assert known.limit(known.remote("main")) == 1
    assert known.limit(RemoteAE(ae_title="MAIN", host="PACS.example", charset="GBK")) == 1
    assert known.limit(RemoteAE(ae_title="MAIN", host="PACS.example", max_associations=2)) == 2
    assert known.limit(RemoteAE(ae_title="OTHER", host="pacs.example")) == 3


def test_an_unknown_remote_is_told_with_those_that_are_known(empty_directory: Path) -> None:
    """And with the file in which to add it."""
    (empty_directory / "pacs-tasks.toml").write_text('[remotes.main]\nae_title = "MAIN"\n')
    with pytest.raises(ConfigurationError, match=r"known: main.*\[remotes.other\]"):
        load().remote("other")


@pytest.mark.parametrize("text", ["port = 0\n", "port =\n", '[remotes.x]\nae_title = ""\n'])
def test_a_wrong_file_is_one_sentence(empty_directory: Path, text: str) -> None:
    """Not a traceback of a parser."""
    (empty_directory / "pacs-tasks.toml").write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert "\n" not in str(raised.value).strip()


def test_an_editor_of_windows_may_write_the_file(empty_directory: Path) -> None:
    """With a byte order mark and its line ends; in another encoding than UTF-8, the sentence says what to do."""
    file = empty_directory / "pacs-tasks.toml"
    file.write_bytes(b"\xef\xbb\xbftimeout = 5\r\nport = 104\r\n")
    assert (load().timeout, load().port) == (5, 104)
    file.write_bytes("# 中文\n".encode("gbk"))
    with pytest.raises(ConfigurationError, match="Save it as UTF-8"):
        load()


def test_a_named_file_must_be_there(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on without it would call another PACS than the one that it names."""
    monkeypatch.setenv("PACS_TASKS_CONFIG", str(empty_directory / "nowhere.toml"))
    with pytest.raises(ConfigurationError, match=r"nowhere.toml: .*cannot be read: No such file") as raised:
        load()
    assert "nowhere" not in raised.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tiemout = 5\n", "tiemout: there is no setting of this name"),
        ('[remotes.main]\nhots = "10.0.0.1"\n', r"remotes\.main\.hots: there is no setting of this name"),
        ('[remotes.main]\ncharset = "GB18031"\n', r"remotes\.main\.charset: this is not a .*'GB18030'"),
    ],
)
def test_a_typing_error_in_the_file_is_told(empty_directory: Path, text: str, told: str) -> None:
    """A name that nobody reads would be an instruction that nobody follows."""
    (empty_directory / "pacs-tasks.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        load()


def test_a_character_set_may_be_written_in_small_letters(empty_directory: Path) -> None:
    """The PACS gets the defined term."""
    (empty_directory / "pacs-tasks.toml").write_text('[remotes.main]\ncharset = "gbk"\n')
    assert load().remote("main").charset == "GBK"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 65, "a\n"])
def test_the_name_of_an_enqueuer_is_a_word(name: str) -> None:
    """A signature separates it from the rest by a colon."""
    assert load(enqueuer_keys={"pacs.admin@ward-1_\u00e4": "k" * 32}).enqueuer_keys
    with pytest.raises(ConfigurationError, match="a name has 1 to 64 letters"):
        load(enqueuer_keys={name: "k" * 32})
