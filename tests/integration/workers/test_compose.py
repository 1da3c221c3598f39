"""The compose file: docker-compose reads it, and each service runs by it without Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pacs_tasks.sealing import new_key
from pacs_tasks.settings import unread_variables
from tests.support.peers import orthanc_program
from tests.support.ports import free_port
from tests.support.processes import ROOT, Process, environment, started
from tests.support.waiting import wait_until

NEEDED = {
    "PACS_TASKS_REDIS_PASSWORD": "secret123",
    "PACS_TASKS_FLOWER_BASIC_AUTH": "somebody:tall-otter-92",
    "PACS_TASKS_ENCRYPTION_KEYS": new_key(),
}
#: The virtual environment replaces that of the image.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


def _docker_compose(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker-compose")
    if program is None:
        reason = "docker-compose is not installed (Debian: apt-get install docker-compose)"
        if os.environ.get("PACS_TASKS_TESTS_REQUIRE_PEERS") == "1":
            pytest.fail(f"PACS_TASKS_TESTS_REQUIRE_PEERS=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    return subprocess.run(
        [program, "--profile", "demo", "--profile", "metrics", *arguments],
        cwd=ROOT,
        env=environment(**values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _read(**values: str) -> dict[str, Any]:
    """The compose file as docker-compose reads it. Version 2 gives volumes and ports as mappings."""
    done = _docker_compose("config", **NEEDED, **values)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert isinstance(found, dict)
    for service in found["services"].values():
        service["volumes"] = [_volume(each) for each in service.get("volumes", ())]
        service["ports"] = [_port(each) for each in service.get("ports", ())]
    return found


def _volume(given: str | Mapping[str, Any]) -> str:
    if isinstance(given, str):
        return given
    mode = "ro" if given.get("read_only") else "rw"
    return ":".join([*filter(None, [given.get("source")]), given["target"], mode])


def _port(given: str | Mapping[str, Any]) -> str:
    if isinstance(given, str):
        return given
    return ":".join([*filter(None, [given.get("host_ip")]), str(given["published"]), str(given["target"])])


@pytest.fixture(scope="module")
def services() -> Mapping[str, Any]:
    """The services as docker-compose reads them."""
    found = _read()["services"]
    assert isinstance(found, dict)
    return found


def test_every_service_is_there_and_has_a_health_check(services: Mapping[str, Any]) -> None:
    """Redis, worker, receiver, API, Flower; with the profile demo an Orthanc, with metrics Prometheus and Grafana."""
    profiles = {"orthanc": ["demo"], "prometheus": ["metrics"], "grafana": ["metrics"]}
    assert set(services) == {"redis", "worker", "receiver", "serve", "flower", *profiles}
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service.get("profiles") == profiles.get(name), name


def test_workers_can_be_scaled(services: Mapping[str, Any]) -> None:
    """A worker has no fixed name and no port."""
    assert not {"container_name", "hostname"} & set(services["worker"])
    assert not services["worker"]["ports"]


def test_receiver_and_workers_share_storage(services: Mapping[str, Any]) -> None:
    """Workers see the receiver's files at the same path."""
    assert "storage:/data:rw" in services["worker"]["volumes"]
    assert "storage:/data:rw" in services["receiver"]["volumes"]


def test_certificates_are_where_they_are_named() -> None:
    """Workers and receiver share the directory; settings that are not set reach the receiver as empty."""
    settings = {f"PACS_TASKS_RECEIVER_TLS_{name}": f"/certificates/{name}.pem" for name in ("CERTIFICATE", "KEY", "CA")}
    for values in ({}, {**settings, "PACS_TASKS_CERTIFICATES": str(ROOT)}):
        found = _read(**values)["services"]
        for name in ("worker", "receiver"):
            mounted = [volume for volume in found[name]["volumes"] if "/certificates:ro" in volume]
            assert mounted == [f"{values.get('PACS_TASKS_CERTIFICATES', 'certificates')}:/certificates:ro"]
        given = {name: value for name, value in found["receiver"]["environment"].items() if name in settings}
        assert given == {name: values.get(name, "") for name in settings}


def test_redis_is_on_a_network_of_its_own() -> None:
    """Which leads nowhere else; no port of it is published."""
    found = _read()
    assert found["networks"]["backend"]["internal"] is True
    networks = {name: set(service["networks"]) for name, service in found["services"].items()}
    assert networks.pop("redis") == {"backend"}
    assert all(networks.pop(name) == {"outside"} for name in ("orthanc", "prometheus", "grafana"))
    assert all(each == {"backend", "outside"} for each in networks.values())
    assert not found["services"]["redis"]["ports"]


def test_images_are_pinned(services: Mapping[str, Any]) -> None:
    """Each image has a fixed version."""
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert tag.removeprefix("v")[0].isdigit(), name
        assert "latest" not in tag


def test_pages_are_for_this_machine(services: Mapping[str, Any]) -> None:
    """The ports of Flower and of the HTTP API are published on the loopback address only."""
    for name in ("flower", "serve"):
        assert all(str(port).startswith("127.0.0.1:") for port in services[name]["ports"])


def test_logs_rotate_and_other_services_may_join_the_network(services: Mapping[str, Any]) -> None:
    for name in ("redis", "worker", "receiver", "serve", "flower"):
        assert services[name]["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
    for values, name in (({}, "pacs-tasks"), ({"PACS_TASKS_NETWORK": "imaging"}, "imaging")):
        found = _read(**values)
        assert found["networks"]["outside"]["name"] == name
        assert "outside" in found["services"]["serve"]["networks"]


def test_the_example_of_env_has_every_variable() -> None:
    """And no other; each is a setting, or a variable of this file that no process mistakes for one."""
    named = re.findall(r"^(PACS_TASKS_\w+)=$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    used = re.findall(r"\$\{(PACS_TASKS_\w+)", (ROOT / "docker-compose.yml").read_text())
    assert len(named) == len(set(named))
    assert set(named) == set(used)
    assert unread_variables(named) == []


def test_what_an_operator_sets_reaches_the_containers(tmp_path: Path) -> None:
    """Settings, the directory of pacs-tasks.toml, and that of `--output-dir`."""
    values = {"PACS_TASKS_CONCURRENCY": "3", "PACS_TASKS_MAX_ASSOCIATIONS": "9", "PACS_TASKS_AE_TITLE": "US_AE"}
    places = {"PACS_TASKS_CONFIG_DIR": str(tmp_path), "PACS_TASKS_OUTPUT": str(tmp_path)}
    found = _read(**values, **places)["services"]
    assert values.items() <= found["worker"]["environment"].items()
    assert f"{tmp_path}:/output:rw" in found["worker"]["volumes"]
    for name in ("worker", "receiver", "serve"):
        assert f"{tmp_path}:/home/pacs-tasks/.config/pacs-tasks:ro" in found[name]["volumes"]


def test_the_receiver_knows_of_the_audit_trail() -> None:
    """Otherwise the trail would lack the callers that it rejects."""
    found = _read(PACS_TASKS_AUDIT="/data/audit.jsonl")["services"]
    for name in ("worker", "receiver"):
        assert found[name]["environment"]["PACS_TASKS_AUDIT"] == "/data/audit.jsonl", name


def test_containers_have_no_privilege(services: Mapping[str, Any]) -> None:
    """Their root is read-only, and they have no capability and get none; only temporary files have a place."""
    for name, service in services.items():
        if name != "orthanc":
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            mounted = [*service.get("tmpfs", ()), *service["volumes"]]
            assert any(str(each).split(":")[0] == "/tmp" for each in mounted), name
            assert not any("docker.sock" in str(each) for each in mounted), name
        assert not {"privileged", "cap_add", "pid", "network_mode", "devices"} & set(service), name


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_missing_secret_is_named(missing: str) -> None:
    """Without a password or a login no service starts, and the message names the variable."""
    done = _docker_compose("config", **{name: value for name, value in NEEDED.items() if name != missing})
    assert done.returncode != 0
    assert missing in done.stderr


def _argv(command: list[str]) -> list[str]:
    """A command or a health check as the process in the container receives it; compose doubles each dollar."""
    words = [word.replace("$$", "$") for word in command]
    if words[0] == "CMD-SHELL":
        return ["/bin/sh", "-c", *words[1:]]
    return words[1:] if words[0] == "CMD" else words


def _healthy(service: Mapping[str, Any], variables: Mapping[str, str]) -> bool:
    done = subprocess.run(
        _argv(service["healthcheck"]["test"]), env=dict(variables), capture_output=True, timeout=30, check=False
    )
    return done.returncode == 0


@contextmanager
def _service(services: Mapping[str, Any], name: str, directory: Path, values: Mapping[str, str]) -> Iterator[Process]:
    """Run the command of a service in its environment, except addresses and directories, until it is healthy."""
    service = services[name]
    variables = {**environment(PATH=PATH), **service["environment"], **values}
    place = directory / name
    place.mkdir()
    with started(
        _argv(service["command"]),
        directory / f"{name}.log",
        lambda _: _healthy(service, variables),
        env=variables,
        cwd=place,
        timeout=60,
        end_timeout=20,
    ) as process:
        yield process


@pytest.fixture(scope="module")
def fleet(services: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The Redis of the compose file; the settings of the other services for it."""
    directory, port = tmp_path_factory.mktemp("compose"), free_port()
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with _service(services, "redis", directory, {"REDIS_PORT": str(port)}) as process:
        listing = ["ps", "-ww", "-o", "args=", "-p", str(process.pid)]
        command = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=10).stdout
        assert "redis-server" in command
        assert NEEDED["PACS_TASKS_REDIS_PASSWORD"] not in command
        assert (directory / "redis" / "appendonlydir").is_dir(), "it keeps what it is told"
        url = services["worker"]["environment"]["PACS_TASKS_REDIS_URL"].replace("redis:6379", f"127.0.0.1:{port}")
        yield {"PACS_TASKS_REDIS_URL": url, "PACS_TASKS_DATA_DIR": str(directory / "data")}


@pytest.mark.parametrize("name", ["worker", "receiver", "serve", "flower"])
def test_command_runs_and_its_health_check_tells(
    services: Mapping[str, Any], fleet: dict[str, str], tmp_path: Path, name: str
) -> None:
    """A service becomes healthy, is unhealthy while it hangs, and ends with 0."""
    values = {
        **fleet,
        "PACS_TASKS_RECEIVER_HOST": "127.0.0.1",
        "PACS_TASKS_RECEIVER_PORT": str(free_port()),
        "PACS_TASKS_FLOWER_ADDRESS": "127.0.0.1",
        "PACS_TASKS_FLOWER_PORT": str(free_port()),
        "PACS_TASKS_SERVE_ADDRESS": "127.0.0.1",
        "PACS_TASKS_SERVE_PORT": str(free_port()),
    }
    with _service(services, name, tmp_path, values) as process:
        variables = {**environment(PATH=PATH), **services[name]["environment"], **values}
        os.kill(process.pid, signal.SIGSTOP)
        assert not _healthy(services[name], variables)
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: _healthy(services[name], variables), 30, "health")
        process.popen.terminate()
        assert process.popen.wait(30) == 0, process.said()
        assert not _healthy(services[name], variables)


@pytest.mark.orthanc
def test_demo_orthanc_knows_the_receiver(services: Mapping[str, Any], tmp_path: Path) -> None:
    """Orthanc starts with the configuration of the profile, in which the receiver is a move destination."""
    service = services["orthanc"]
    config = json.loads(service["environment"]["ORTHANC_JSON"])
    assert config["DicomModalities"]["receiver"] == ["PACS_TASKS", "receiver", 11113]
    ports = {"8042": str(free_port()), "4242": str(free_port())}
    config |= {"HttpPort": int(ports["8042"]), "DicomPort": int(ports["4242"])}
    config |= {"StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"), "Plugins": []}
    path = tmp_path / "orthanc.json"
    path.write_text(json.dumps(config))
    check = " ".join(service["healthcheck"]["test"][3:])
    for port, real in ports.items():
        check = check.replace(port, real)
    healthy = {"healthcheck": {"test": ["CMD", "bash", "-c", check]}}
    variables = environment(PATH=PATH)
    with started(
        [orthanc_program() or "Orthanc", path],
        tmp_path / "orthanc.log",
        lambda _: _healthy(healthy, variables),
        env=variables,
        end_timeout=20,
    ):
        pass


def test_image_is_pinned_and_not_root() -> None:
    """The image installs pinned packages by hash, and runs as a user of its own."""
    dockerfile = (ROOT / "workers" / "Dockerfile").read_text()
    assert "FROM python:3.11-slim-bookworm" in dockerfile
    assert "--require-hashes -r workers/constraints.txt" in dockerfile
    assert "\nUSER pacs-tasks\n" in dockerfile
    assert "--require-hashes -r workers/audit-constraints.txt" in dockerfile
    assert "--output-file /opt/pacs-tasks/sbom.cdx.json" in dockerfile
    pins, all_pins = (_pins(ROOT / name) for name in ("workers/constraints.txt", "constraints.txt"))
    assert pins <= all_pins, "renew both with `make pins`"
    for name in ("workers/constraints.txt", "constraints.txt"):
        assert "://" not in (ROOT / name).read_text()


def _pins(path: Path) -> set[str]:
    return {line.split()[0] for line in path.read_text().splitlines() if "==" in line and not line.startswith(" ")}
