"""Settings, read from the model, its comments and the options of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import click

from docs.generator.markdown import code, table
from docs.generator.meanings import MEANINGS
from pacs_tasks.cli import program
from pacs_tasks.settings import Settings

_INTRODUCTION = """\
# Settings

Each setting has an environment variable and a name in `pacs-tasks.toml`: the same name in small letters, without
`PACS_TASKS_`. An option of a command overrides the environment, and the environment overrides the file.

pacs-tasks reads the first of these files that exists:

1. the file that `PACS_TASKS_CONFIG` names
2. `pacs-tasks.toml` in the current directory
3. `pacs-tasks.toml` in the user's configuration directory (Linux: `~/.config/pacs-tasks/`)

Save the file as UTF-8. An unknown name in it is an error. Times are in seconds.

```toml
ae_title = "WORKSTATION1"
redis_url = "redis://192.168.1.10:6379/0"

[remotes.archive]
host = "192.168.1.100"
port = 11112
ae_title = "MY_PACS"
charset = "GB18030"
max_associations = 2

[remotes.archive.tls]
ca_file = "/home/me/hospital.pem"
certificate_file = "/home/me/workstation.pem"
key_file = "/home/me/workstation.key"
```

Each `[remotes.NAME]` table describes one PACS; select it with `--remote NAME`. Besides its address, a remote may have a
`charset` (see [Query](../howto/query.md#chinese-names-and-character-sets)) and `max_associations`, the most
associations that all workers together may hold open with it (see [Associations](../howto/fleet.md#associations)).
`max_matches`, `max_answer_bytes` and `max_match_elements` limit its answer to one query.
`receive_from`, `receive_from_ae_titles` and `receive_from_certificates` name addresses, AE titles and certificates with
which it may deliver after a C-MOVE, beside its own
(see [Receiver](../howto/receiver.md#only-the-pacs-that-was-asked-delivers)).
`instances_per_second` and `bytes_per_second` limit what all workers send to it or have it deliver. `bulk_hours` with
`time_zone` say when jobs of priority `bulk` run (see [Pace](../howto/pace.md)).

## All settings

"""

_END = """
## Command line only

`PACS_TASKS_REMOTE`, `PACS_TASKS_PRIORITY`, `PACS_TASKS_DETACH`, `PACS_TASKS_JSON`, `PACS_TASKS_QUIET`,
`PACS_TASKS_LOG_LEVEL` and `PACS_TASKS_LOG_FILE` set the options of the same names. `PACS_TASKS_CONFIG` names the
settings file.
"""

#: Defaults that depend on the machine, and the settings that are tables of the file.
_SHOWN: Mapping[str, str] = {
    "data_dir": "the user's data directory",
    "remotes": "",
    "receiver_allow": "",
    "enqueuer_keys": "",
    "webhooks": "",
    "serve_users": "",
}


def page(_root: Path) -> str:
    """The table of all settings, in the order of the model."""
    options = _options()
    rows = [
        (code(f"PACS_TASKS_{name.upper()}"), default, " ".join(filter(None, (MEANINGS[name], options.get(name, "")))))
        for name, default in defaults().items()
    ]
    return _INTRODUCTION + table(["Variable", "Default", "Meaning"], rows) + _END


def defaults() -> dict[str, str]:
    """Each setting with its default as people write it."""
    return {
        name: _SHOWN.get(name, code(_written(field.get_default(call_default_factory=False))))
        for name, field in Settings.model_fields.items()
    }


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Enum):
        return str(value.value)
    return "" if value is None or value == () else str(value)


def _options() -> dict[str, str]:
    """The option that overrides each setting, in parentheses."""
    group = next(each for each in vars(program).values() if isinstance(each, click.Group))
    context = click.Context(group, info_name="pacs-tasks")
    known = [group, *(group.get_command(context, name) for name in group.list_commands(context))]
    return {
        option.envvar.removeprefix("PACS_TASKS_").lower(): f"({code(option.opts[0])})"
        for command in known
        if command is not None
        for option in command.params
        if isinstance(option, click.Option) and isinstance(option.envvar, str)
    }


def comments_of(file: Path, name: str) -> dict[str, str]:
    """The ``#:`` comments above the fields of a class."""
    lines = file.read_text("utf-8").splitlines()
    found = {}
    for field, node in fields_of(file, name).items():
        above: list[str] = []
        line = node.lineno - 2
        while re.match(r"\s*#: ?", lines[line]):
            above.insert(0, re.sub(r"^\s*#: ?", "", lines[line]))
            line -= 1
        found[field] = " ".join(above)
    return found


def fields_of(file: Path, name: str) -> dict[str, ast.AnnAssign]:
    """The annotated fields of a class, as its source has them."""
    model = next(
        each for each in ast.parse(file.read_text("utf-8")).body if isinstance(each, ast.ClassDef) and each.name == name
    )
    return {
        node.target.id: node
        for node in model.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
