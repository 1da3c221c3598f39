"""The units of systemd and the manifests of Kubernetes: valid, and in step with the programs and queues they name."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from pacs_tasks.operations import QUEUE_KEYS
from pacs_tasks.settings import unread_variables
from tests.support.processes import ROOT
from workers.health import CHECKS

UNITS = sorted((ROOT / "workers/systemd").glob("*.service"))
MANIFESTS = ROOT / "workers/kubernetes"
#: Of Kubernetes and KEDA, which accept no field that they do not name.
SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "kubernetes_schemas.json").read_text())
DOCUMENTS: list[dict[str, Any]] = [
    document
    for path in sorted(MANIFESTS.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]


def _validator(document: dict[str, Any]) -> jsonschema_rs.Validator:
    name = SCHEMAS["kinds"][f"{document['apiVersion']} {document['kind']}"]
    return jsonschema_rs.validator_for({"$ref": f"#/definitions/{name}", "definitions": SCHEMAS["definitions"]})


def _of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in DOCUMENTS if each["kind"] == kind]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_units_are_valid(tmp_path: Path) -> None:
    """systemd reads each without a remark. Its program is that of this environment, since systemd looks for it."""
    program = Path(sys.executable).parent / "pacs-tasks"
    for unit in UNITS:
        text = unit.read_text()
        assert "ExecStart=/opt/pacs-tasks/bin/pacs-tasks " in text
        (tmp_path / unit.name).write_text(text.replace("/opt/pacs-tasks/bin/pacs-tasks", str(program)))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    remarks = [line for line in (done.stdout + done.stderr).splitlines() if "pacs-tasks" in line]
    assert (done.returncode, remarks) == (0, [])


def test_units_name_commands() -> None:
    commands = [re.findall(r"^ExecStart=\S+ (\S+)$", unit.read_text(), re.MULTILINE) for unit in UNITS]
    assert sorted(commands) == [["flower"], ["receiver"], ["serve"], ["worker"]]
    done = subprocess.run(
        [Path(sys.executable).parent / "pacs-tasks", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PACS_TASKS_LANGUAGE": "en"},
    )
    assert all(f"  {command} " in done.stdout for (command,) in commands)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_manifests_are_valid(document: dict[str, Any]) -> None:
    validator = _validator(document)
    assert [error.message for error in validator.iter_errors(document)] == []
    wrong = copy.deepcopy(document)
    wrong["metadata"]["nmae"] = "x"
    assert not validator.is_valid(wrong)


def test_every_manifest_is_applied() -> None:
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in MANIFESTS.glob("*.yaml"))


def test_deployments_have_no_privilege_and_a_health_check() -> None:
    """Their probes are checks that exist, their user is that of the image, and their volumes are there."""
    assert {each["metadata"]["name"] for each in _of_kind("Deployment")} == {
        f"pacs-tasks-{name}" for name in ("worker", "receiver", "serve", "flower")
    }
    for each in _of_kind("Deployment"):
        pod = each["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert _is_check(container, "readinessProbe")
        assert _is_check(container, "livenessProbe")
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
    for service in _of_kind("Service"):
        assert service["spec"]["selector"] in [
            each["spec"]["selector"]["matchLabels"] for each in _of_kind("Deployment")
        ]


def _is_check(container: dict[str, Any], probe: str) -> bool:
    """Whether a probe is a health check that exists, or calls a port of the container."""
    found = container[probe]
    if "exec" in found:
        return found["exec"]["command"][-1] in CHECKS
    action = found.get("httpGet") or found["tcpSocket"]
    return action["port"] in {port["name"] for port in container["ports"]}


def test_nobody_is_restarted_because_the_redis_is_away() -> None:
    """All wait for it, and a new process could do no more; ready is only who reaches it."""
    probes = {
        each["metadata"]["name"].removeprefix("pacs-tasks-"): each["spec"]["template"]["spec"]["containers"][0]
        for each in _of_kind("Deployment")
    }
    assert probes["worker"]["livenessProbe"]["exec"]["command"][-1] == "alive"
    assert probes["worker"]["readinessProbe"]["exec"]["command"][-1] == "worker"
    assert set(probes["serve"]["livenessProbe"]) >= {"tcpSocket"}
    assert probes["serve"]["readinessProbe"]["httpGet"]["path"] == "/health"


def test_a_manifest_leaves_the_number_of_workers_to_the_autoscaler() -> None:
    """Applying it again would take workers away from their tasks."""
    (scaled,) = _of_kind("ScaledObject")
    target = scaled["spec"]["scaleTargetRef"]["name"]
    (worker,) = [each for each in _of_kind("Deployment") if each["metadata"]["name"] == target]
    assert "replicas" not in worker["spec"]


@pytest.mark.parametrize("name", ["worker", "receiver"])
def test_units_may_write_the_audit_trail(name: str) -> None:
    """Where the guide puts it, and nobody else reads it."""
    (unit,) = [each.read_text() for each in UNITS if each.stem == f"pacs-tasks-{name}"]
    assert re.search("/var/log/pacs-tasks/audit.jsonl", (ROOT / "docs/howto/monitoring.md").read_text())
    assert {"LogsDirectory=pacs-tasks", "LogsDirectoryMode=0700"} <= set(unit.splitlines())


def test_settings_are_known() -> None:
    """A misspelt variable would change nothing, in silence."""
    names = re.findall(r"PACS_TASKS_[A-Z_]+", "".join(path.read_text() for path in [*MANIFESTS.glob("*.yaml"), *UNITS]))
    assert names
    assert unread_variables(names) == []


def test_the_autoscaler_counts_every_queue() -> None:
    (scaled,) = _of_kind("ScaledObject")
    assert sorted(each["metadata"]["listName"] for each in scaled["spec"]["triggers"]) == sorted(QUEUE_KEYS)
    assert scaled["spec"]["scaleTargetRef"]["name"] in {each["metadata"]["name"] for each in _of_kind("Deployment")}
