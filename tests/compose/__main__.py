"""``make compose-test``: build the image, bring the compose file up, send with three workers, kill one, take it down.

Exit codes: 0 everything was as it should be, 1 something was not, 2 there is no container engine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pacs_tasks.sealing import new_key
from tests.support.ports import free_port
from tests.support.processes import ROOT, environment
from tests.support.waiting import wait_until

WORKERS, FILES = 3, 400
#: Seconds to build the image, and for any other command.
_BUILD, _COMMAND = 1800.0, 300.0
_REMOTE = ("--ip", "pacs", "--port", "11112", "--pacs-ae-title", "TESTPACS")
_WRITE = f"""
from pathlib import Path
from pacs_tasks.cli.stack.demo import write_ct_series
write_ct_series(Path("/data/ct"), {FILES}, 32)
"""


def _works(*command: str) -> bool:
    """Whether a program is installed and its service answers."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def _engine() -> tuple[str, list[str]] | None:
    """The container engine, and its compose command."""
    beside = Path(sys.executable).with_name("podman-compose")
    if _works("docker", "info"):
        for compose in (["docker", "compose"], ["docker-compose"]):
            if _works(*compose, "version"):
                return "docker", compose
    if _works("podman", "info"):
        for program in ("podman-compose", str(beside)):
            if _works(program, "version"):
                return "podman", [program]
    return None


class Stack:
    """The services of the compose file under a project name of their own."""

    def __init__(self, engine: str, compose: Sequence[str]) -> None:
        self.engine, self.project = engine, f"pacs-tasks-test-{os.getpid()}"
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(ROOT / "tests/compose/pacs.yml")]
        self._compose = [*compose, "-p", self.project, *files]
        self._environment = environment(
            PACS_TASKS_REDIS_PASSWORD=secrets.token_hex(16),
            PACS_TASKS_FLOWER_BASIC_AUTH=f"test:{secrets.token_urlsafe(24)}",
            PACS_TASKS_ENCRYPTION_KEYS=new_key(),
            PACS_TASKS_NETWORK=self.project,
            PACS_TASKS_CONCURRENCY="2",
            PACS_TASKS_FILES_PER_TASK="10",
            **{f"PACS_TASKS_{name}_PORT": str(free_port()) for name in ("RECEIVER", "FLOWER", "SERVE")},
        )

    def compose(self, *arguments: str, limit: float = _COMMAND, quiet: bool = False) -> str:
        """Run a command of compose.

        Raises
        ------
        RuntimeError
            If it fails.
        """
        return self._run([*self._compose, *arguments], limit, quiet=quiet)

    def inside(self, service: str, *command: str) -> str:
        """Run a command in a container of a service."""
        return self.compose("exec", "-T", service, *command, quiet=True)

    def containers(self, service: str, *options: str) -> list[str]:
        """The ids of the running containers of a service."""
        return self._listed("ps", *options, service=service)

    def left(self) -> list[str]:
        """The ids of all containers and networks, and the names of all volumes."""
        return [*self._listed("ps", "--all"), *self._listed("network", "ls"), *self._listed("volume", "ls")]

    def down(self) -> None:
        """Take down whatever is up."""
        if self.engine == "podman" and (workers := self.containers("worker", "--all")):
            # podman-compose knows the first worker only, and the others keep Redis, volumes and networks in use.
            self._run([self.engine, "stop", "--time", "30", *workers], _COMMAND, quiet=True)
            self._run([self.engine, "rm", "--volumes", *workers], _COMMAND, quiet=True)
        self.compose("down", "-v", "--timeout", "30")

    def kill(self, container: str, signal: str = "KILL") -> None:
        self._run([self.engine, "kill", "--signal", signal, container], _COMMAND, quiet=True)

    def healthy(self, container: str, kind: str) -> bool:
        command = [self.engine, "exec", container, "python", "-m", "workers.health", kind]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

    def _listed(self, *command: str, **labels: str) -> list[str]:
        labels = {"project": self.project, **labels}
        filters = [word for name in labels for word in ("--filter", f"label=com.docker.compose.{name}={labels[name]}")]
        return self._run([self.engine, *command, "-q", *filters], _COMMAND, quiet=True).split()

    def _run(self, command: list[str], limit: float, *, quiet: bool) -> str:
        output = subprocess.PIPE if quiet else None
        done = subprocess.run(command, cwd=ROOT, env=self._environment, stdout=output, stderr=output, text=True,
                              timeout=limit, check=False)  # fmt: skip
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command[:8])} ... ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout or ""


def _say(text: str) -> None:
    print(f"compose-test: {text}", flush=True)


def _document(text: str) -> Any:
    return json.loads(text[text.index("{") :])


def _scene(stack: Stack) -> None:
    """Send with three workers of which one is killed, and compare with what the PACS holds."""
    _say("building the image ...")
    stack.compose("build", "worker", limit=_BUILD)
    _say(f"starting the stack with {WORKERS} workers ...")
    stack.compose("up", "-d", "--scale", f"worker={WORKERS}")
    wait_until(lambda: len(stack.containers("worker")) == WORKERS, 60, "the containers of the workers", 1)
    for kind in ("worker", "receiver", "serve", "flower"):
        for container in stack.containers(kind):
            wait_until(lambda one=container, what=kind: stack.healthy(one, what), 180, f"health of {kind}", 1)  # type: ignore[misc]
        _say(f"{kind}: {len(stack.containers(kind))} healthy")
    check = _document(stack.inside("worker", "pacs-tasks", "config", "check", "--json"))
    assert check["exit_code"] == 0, check
    stack.inside("worker", "python", "-c", _WRITE)
    job = stack.inside("worker", "pacs-tasks", "send-dir", "--dir", "/data/ct", "--detach", *_REMOTE).split()[-1]

    def sent() -> int:
        shown = _document(stack.inside("serve", "pacs-tasks", "status", job, "--json"))
        return int(shown["job"]["counters"]["success"])

    wait_until(lambda: sent() > FILES // 20, 60, "some files are sent", 0.2)
    stack.kill(stack.containers("worker")[-1])
    _say(f"killed a worker when {sent()} of {FILES} files were sent")
    stack.kill(stack.containers("pacs")[0], "USR1")
    begun = time.monotonic()
    stack.inside("serve", "pacs-tasks", "wait", job, "--for", "240")
    held = _document(stack.inside("serve", "pacs-tasks", "verify", job, "--json"))
    assert held["exit_code"] == 0, held
    assert sent() == FILES
    _say(f"all {FILES} files are in the PACS, {time.monotonic() - begun:.0f} s later")


def main() -> int:
    found = _engine()
    if found is None:
        _say(
            "NOT TESTED: there is no container engine here. Install Docker with Compose, or podman with podman-compose."
        )
        return 2
    engine, compose = found
    _say(f"using {engine} and {' '.join(compose)}")
    stack = Stack(engine, compose)
    try:
        _scene(stack)
    finally:
        _say("taking it down ...")
        stack.down()
    left = stack.left()
    assert not left, left
    _say("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
