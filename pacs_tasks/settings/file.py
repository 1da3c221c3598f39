"""The settings file, ``pacs-tasks.toml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pacs_tasks.errors import ConfigurationError

CONFIG_NAME = "pacs-tasks.toml"


def config_file() -> Path | None:
    """Return the path of the settings file, or None if there is none."""
    named = os.environ.get("PACS_TASKS_CONFIG")
    if named:
        return Path(named)
    import platformdirs

    candidates = (Path(CONFIG_NAME), platformdirs.user_config_path("pacs-tasks") / CONFIG_NAME)
    return next((path for path in candidates if path.is_file()), None)


def in_file() -> dict[str, Any]:
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
