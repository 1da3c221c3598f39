"""The settings, read once: from ``PACS_TASKS_*``, then from ``pacs-tasks.toml``, then the defaults.

The file is the first found of ``$PACS_TASKS_CONFIG``, ``pacs-tasks.toml`` in the current directory, and
``pacs-tasks.toml`` in the user's configuration directory. It gives names to remotes::

    [remotes.archive]
    ae_title = "ARCHIVE"
    host = "192.168.1.100"
    port = 11112
    charset = "GB18030"
    max_associations = 2

    [remotes.archive.tls]
    ca_file = "/etc/pacs-tasks/archive.pem"

Settings ``receiver_...`` may be in a table ``[receiver]``, which also names its callers::

    [receiver.allow.CT_1]
    addresses = ["192.168.1.21"]
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pacs_tasks.errors import ConfigurationError
from pacs_tasks.settings.model import CONFIG_NAME, Settings, config_file
from pacs_tasks.settings.values import (
    AuditPatients,
    PrivateServerKind,
    RemoteAddresses,
    Unsolicited,
    WhenFull,
    check_redis_url,
)

__all__ = [
    "AuditPatients",
    "PrivateServerKind",
    "RemoteAddresses",
    "Settings",
    "Unsolicited",
    "WhenFull",
    "check_redis_url",
    "config_file",
    "load",
    "remark_on_variables",
    "settings",
    "unread_variables",
]

#: Variables that only the command line and the search for the settings file read.
_OPTIONS_ONLY = ("config", "remote", "detach", "json", "quiet", "log_level", "log_file", "priority")
#: Variables of docker-compose.yml.
_COMPOSE_ONLY = ("redis_password", "files", "output", "certificates", "config_dir", "network", "prometheus_port",
                 "grafana_port")  # fmt: skip
#: Our variables begin so, and misspelt ones nearly so: without an S or an underscore, or with a dash.
_PREFIX = "pacs_tasks_"
_NEARLY = re.compile(r"pacs?[-_.]*(?:tasks?|taks|tsaks)[-_.]+")
#: The variables of the tests of this package begin so.
_OF_TESTS = "tests_"
#: Settings that are tables in the file, and JSON objects in the environment.
_TABLES = {"remotes", "receiver_allow", "enqueuer_keys", "webhooks", "serve_users"}


def _in_file() -> dict[str, Any]:
    """Read the settings file. Editors on Windows begin it with a byte order mark, which TOML does not allow."""
    file = config_file()
    if file is None:
        return {}
    import tomllib

    found = tomllib.loads(file.read_text("utf-8-sig"))
    receiver = found.pop("receiver", {})
    if not isinstance(receiver, dict):
        raise ConfigurationError("receiver is not a table. Write [receiver], and its settings below it.")
    return found | {f"receiver_{name}": value for name, value in receiver.items()}


def _in_environment() -> dict[str, Any]:
    """Read the environment. An empty variable counts as unset, and the case of names does not matter."""
    given = {name.lower(): value for name, value in os.environ.items() if value}
    found: dict[str, Any] = {
        name: given[f"pacs_tasks_{name}"] for name in Settings.model_fields if f"pacs_tasks_{name}" in given
    }
    _refuse_misspelt(given)
    for name in _TABLES & found.keys():
        try:
            found[name] = json.loads(found[name])
        except json.JSONDecodeError as error:
            variable = f"PACS_TASKS_{name.upper()}"
            raise ConfigurationError(f"{variable} is not valid JSON ({error}). Correct it.") from None
    return found


def _refuse_misspelt(given: Mapping[str, str]) -> None:
    """Refuse a variable whose name is almost that of a setting. Others may belong to other programs."""
    for name in unread_variables(given):
        if not name.startswith(_PREFIX):
            continue
        from difflib import get_close_matches

        short = name.removeprefix(_PREFIX)
        # A name that was cut off is meant rather than one with other letters. The sort leaves others in their order.
        close = get_close_matches(short, Settings.model_fields, 9, 0.7)
        for near in sorted(close, key=lambda each: not each.startswith(short))[:1]:
            raise ConfigurationError(
                f"There is no setting {name.upper()}. Set PACS_TASKS_{near.upper()} instead, or unset it."
            )


def unread_variables(given: Iterable[str] = os.environ) -> list[str]:
    """Return the names of the variables ``PACS_TASKS_*`` that nothing reads, and of those that begin nearly so."""
    read = {f"{_PREFIX}{name}" for name in (*Settings.model_fields, *_OPTIONS_ONLY, *_COMPOSE_ONLY)}
    ours = {name: name.lower() for name in given if _NEARLY.match(name.lower())}
    return sorted(name for name, low in ours.items() if low not in read and not low.startswith(_PREFIX + _OF_TESTS))


def remark_on_variables() -> str:
    """Return a sentence that names the variables that nothing reads; "" if there are none."""
    names = unread_variables(name for name, value in os.environ.items() if value)
    return f"There is no setting {', '.join(names)}. Correct the name, or unset the variable." if names else ""


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Merge two tables. ``high`` wins, down to a single field of a remote."""
    found = low | high
    for name in low.keys() & high.keys():
        if isinstance(low[name], dict) and isinstance(high[name], dict):
            found[name] = _merged(low[name], high[name])
    return found


def load(**overrides: Any) -> Settings:
    """Read the settings again.

    Raises
    ------
    ConfigurationError
        If a setting is wrong; the message names each of them.
    """
    try:
        return Settings.model_validate(_merged(_merged(_in_file(), _in_environment()), overrides))
    except ValidationError as error:
        wrong = "; ".join(_what_is_wrong(each) for each in error.errors(include_url=False, include_input=False))
        raise ConfigurationError(
            f"A setting is wrong ({wrong}). Correct PACS_TASKS_<NAME> or {config_file() or CONFIG_NAME}."
        ) from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"The settings file cannot be read: {_why_unreadable(error)}.", str(config_file() or "")
        ) from None


def _what_is_wrong(error: ErrorDetails) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no setting of this name"
    wrong = error["msg"].removeprefix("Value error, ")
    return f"{name}: {wrong}" if name else wrong


def _why_unreadable(error: ValueError | OSError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text. Save it as UTF-8"
    return f"{error.strerror}. Check its path" if isinstance(error, OSError) else f"{error}. Correct it there"


@cache
def settings() -> Settings:
    """Return the settings of this process, read at the first call."""
    return load()
