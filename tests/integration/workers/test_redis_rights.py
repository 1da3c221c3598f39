"""Everything works over TLS as the user of Redis in the guide, who may do nothing else."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import celery.backends.redis
import kombu.transport.redis
import pytest
import redis

import pacs_tasks
from pacs_tasks.connection import connect
from pacs_tasks.errors import BrokerSettingError
from pacs_tasks.testing import TestPACS
from tests.support import workers
from tests.support.certificates import Authority
from tests.support.command import PACS_TASKS, Terminal
from tests.support.dicom_files import study_uid, write_many, write_series
from tests.support.documents import DOCS, blocks
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, Process, environment, started
from tests.support.redis_server import redis_server

PASSWORD, LOGIN = "tall-otter-92", "me:secret"
#: What kombu does only where messages were lost or a worker was killed, and what redis-py does beside it.
_ALIASES = {"delete": "del", "register_script": "evalsha", "script_load": "script|load"}
_RARE = {"watch", "unwatch", "discard", "select", "unsubscribe", "sismember", "multi", "exec", "evalsha"}


def rights() -> str:
    """The line of the guide, with a password."""
    (line,) = (each.text for each in blocks(DOCS / "howto/fleet.md", "text") if each.text.startswith("user pacs-tasks"))
    return line.strip().replace("PASSWORD", PASSWORD)


def granted() -> set[str]:
    return {each.removeprefix("+") for each in rights().split() if each.startswith("+")}


class Secured(NamedTuple):
    """The address of the Redis for our user, the settings of its TLS, and a client who may do everything."""

    url: str
    settings: dict[str, str]
    admin: redis.Redis


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    identity, port = Authority(tmp_path).identity("redis"), free_port()
    more = ["--tls-port", str(port), "--tls-cert-file", str(identity.certificate), "--tls-key-file", str(identity.key)]
    more += ["--tls-ca-cert-file", str(identity.authority), "--user", *rights().removeprefix("user ").split()]
    files = {"CA": identity.authority, "CERT": identity.certificate, "KEY": identity.key}
    settings = {f"PACS_TASKS_REDIS_{name}": str(file) for name, file in files.items()}
    with redis_server(tmp_path, durable=True, more=more) as server, redis.Redis(port=server.port) as admin:
        yield Secured(f"rediss://pacs-tasks:{PASSWORD}@127.0.0.1:{port}/0", settings, admin)


def test_every_process_and_command_works_with_these_rights(secured: Secured, tmp_path: Path) -> None:
    """And no right is missed: Redis logs each that was."""
    receiver, flower, settings = free_port(), free_port(), secured.settings
    variables = environment(
        PACS_TASKS_REDIS_URL=secured.url,
        PACS_TASKS_DATA_DIR=str(tmp_path / "data"),
        PACS_TASKS_RECEIVER_HOST="127.0.0.1",
        PACS_TASKS_RECEIVER_PORT=str(receiver),
        PACS_TASKS_RECEIVER_AE_TITLE="RECEIVER",
        PACS_TASKS_FLOWER_BASIC_AUTH=LOGIN,
        PACS_TASKS_FLOWER_PORT=str(flower),
        **settings,
    )
    (tmp_path / "terminal").mkdir()
    terminal = Terminal(tmp_path / "terminal", secured.url, tuple(settings.items()), PACS_TASKS)
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(workers.worker(secured.url, tmp_path, concurrency=2, options="", **settings))
        for name, port in (("receiver", receiver), ("flowerconfig", flower)):
            program = [sys.executable, "-m", f"workers.{name}"]
            enter(started(program, tmp_path / f"{name}.log", _listens(port), env=variables, cwd=ROOT, timeout=60))
        destinations = {"RECEIVER": ("127.0.0.1", receiver)}
        pacs = enter(TestPACS(instances=write_many(tmp_path / "held", (1, 1, 2)), destinations=destinations))
        _run_all(terminal, pacs, tmp_path)
        for page in ("/workers", "/tasks", "/broker", "/metrics", "/api/workers?refresh=1"):
            assert _status(flower, page) == 200, page
        for check in (["worker", f"worker@{socket.gethostname()}"], ["receiver"], ["redis"], ["flower"]):
            command = [sys.executable, "-m", "workers.health", *check]
            done = subprocess.run(
                command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
    missed = [entry for entry in secured.admin.acl_log() if entry["object"] != "client|setinfo"]
    assert not missed, [(each["reason"], each["object"]) for each in missed]


def _listens(port: int) -> Callable[[Process], bool]:
    return lambda _: answers(port)


def _run_all(terminal: Terminal, pacs: TestPACS, directory: Path) -> None:
    write_series(directory / "files", 3)
    (directory / "ids.csv").write_text("PatientID\n*\n")
    at = ["--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title]
    study = ["--study-uid", study_uid(1)]
    for command in (
        ["echo", *at],
        ["send-file", "--file", next((directory / "files").rglob("*.dcm")), *at],
        ["send-dir", "--dir", directory / "files", *at],
        ["verify", "last", *at],
        ["verify", "last", "--commit", *at],
        ["report", "last"],
        ["query", *at],
        ["query", "--batch", directory / "ids.csv", *at],
        ["retrieve", *study, "--output-dir", directory / "get", "--method", "get", *at],
        ["retrieve", *study, "--output-dir", directory / "move", "--method", "move", *at],
        ["jobs"],
        ["status"],
        ["status", "last"],
        ["wait", "last"],
        ["cancel", "last"],
        ["purge", "--older-than", "0s"],
    ):
        result = terminal.run(*command)
        assert result.code == 0, str(result)
    shutil.rmtree(directory / "get")


def _status(port: int, page: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{page}")
    request.add_header("Authorization", f"Basic {base64.b64encode(LOGIN.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return int(answer.status)


@pytest.mark.parametrize("lost", ["-evalsha", "-hmget", "resetkeys", "-ping"])
def test_a_right_less_is_one_sentence(secured: Secured, tmp_path: Path, lost: str) -> None:
    """That names where the rights are written."""
    secured.admin.execute_command("ACL", "SETUSER", "pacs-tasks", lost)
    (tmp_path / "terminal").mkdir()
    result = Terminal(tmp_path / "terminal", secured.url, tuple(secured.settings.items()), PACS_TASKS).run("echo")
    assert result.code == 2, str(result)
    assert "The user of the Redis at rediss://127.0.0.1" in result.stderr
    assert PASSWORD not in result.stderr


def test_every_script_may_run_and_no_right_is_superfluous() -> None:
    """The commands of our scripts are granted; each granted one is in a script, in our code, in kombu or in Celery."""
    package = Path(pacs_tasks.__file__).parent
    scripts = "\n".join(path.read_text() for path in package.rglob("*.lua"))
    in_scripts = {each.lower() for each in re.findall(r"redis\.call\('(\w+)'", scripts)}
    assert in_scripts <= granted()
    ours = "\n".join(path.read_text() for path in package.rglob("*.py"))
    commands = re.findall(r"(?:_redis|ledger\.client|self\.client|pipe)\.(\w+)\(", ours)
    called = {each.removesuffix("_iter") for each in commands}
    assert {_ALIASES.get(each, each) for each in called} - {"aclose", "close", "pipeline", "execute"} <= granted()
    foreign = [Path(module.__file__ or "") for module in (kombu.transport.redis, celery.backends.redis)]
    text = "\n".join(path.read_text() for path in (*package.rglob("*.py"), *(ROOT / "workers").rglob("*.py"), *foreign))
    in_code = {each.removesuffix("_iter") for each in re.findall(r"\.(\w+)\(", text)}
    used = in_scripts | in_code | _RARE | {_ALIASES[each] for each in in_code & _ALIASES.keys()}
    assert granted() - used <= {"getrange", "psubscribe", "punsubscribe", "brpop", "script|exists"}


def test_another_user_is_told_what_is_missing(secured: Secured) -> None:
    secured.admin.execute_command("ACL", "SETUSER", "nobody", "on", ">x", "+ping")
    url = secured.url.replace(f"pacs-tasks:{PASSWORD}", "nobody:x")
    names = dict(zip(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), secured.settings.values(), strict=True))
    client = connect(f"{url}?{'&'.join(f'{name}={value}' for name, value in names.items())}", 5)
    with pytest.raises(BrokerSettingError, match="may not do this"):
        client.get("pacs_tasks:x")
    client.close()
