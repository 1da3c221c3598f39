"""The command and the environment of our own Python processes."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path

from pacs_tasks.settings import Settings, config_file

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


def environment(settings: Settings, redis_url: str | None) -> dict[str, str]:
    """Return the environment that gives a process these settings, whatever its working directory."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude=_NOT_INHERITED)
    variables = dict(os.environ)
    variables.pop("PACS_TASKS_REDIS_URL", None)
    for name, value in values.items():
        variables[f"PACS_TASKS_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    variables["PACS_TASKS_DATA_DIR"] = str(settings.data_dir.expanduser().absolute())
    if settings.receiver_dir is not None:
        variables["PACS_TASKS_RECEIVER_DIR"] = str(settings.received)
    if (file := config_file()) is not None:
        variables["PACS_TASKS_CONFIG"] = str(file.absolute())
    if redis_url is not None:
        variables["PACS_TASKS_REDIS_URL"] = redis_url
    # dicom_pacs_transfer.py also runs from a checkout that is not installed. Its processes must find the package.
    root = str(Path(__file__).resolve().parents[2])
    if root not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        known = variables.get("PYTHONPATH", "").split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join(part for part in (*known, root) if part)
    return variables
