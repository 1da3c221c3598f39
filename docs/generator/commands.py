"""Commands and their options, read from click."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import click

from docs.generator.markdown import code, escaped, table
from pacs_tasks.cli import program

_INTRODUCTION = """\
# Commands

`pacs-tasks COMMAND --help-all` prints the same text in the terminal, and `--help` the options of the command alone.
`python dicom_pacs_transfer.py COMMAND` accepts the same commands and options; its `--help` shows all of them, and it
also logs to the console and to `dicom_transfer.log`.

Commands print data on stdout, and progress, hints and errors on stderr. The [exit code](exit-codes.md) reports the
result.
"""

_SHARED = """
## Options of all commands

These options may stand before or after the name of the command. A command refuses those that have no effect on it. An
option overrides its environment variable, and the variable overrides `pacs-tasks.toml` (see [Settings](settings.md)).

"""


def page(_root: Path) -> str:
    """One section for each command, and one for the options that all commands share."""
    group = next(each for each in vars(program).values() if isinstance(each, click.Group))
    context = click.Context(group, info_name="pacs-tasks")
    shared = [each for each in group.params if isinstance(each, click.Option)]
    names = {each.name for each in shared}
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    known = [(name, command) for name, command in found if command is not None]
    listed = table(["Command", "Purpose"], [(f"[`{name}`](#{name})", _purpose(each)) for name, each in known])
    sections = "".join(_section(name, each, context, names) for name, each in known)
    return f"{_INTRODUCTION}\n{listed}{_SHARED}{_options(shared, context)}{sections}"


def _purpose(command: click.Command) -> str:
    return escaped(" ".join((command.help or "").split("\n\n")[0].split()))


def _section(name: str, command: click.Command, parent: click.Context, shared: Collection[str | None]) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    own = [each for each in command.params if isinstance(each, click.Option) and each.name not in shared]
    text = escaped(" ".join((command.help or "").split()))
    usage = " ".join(["pacs-tasks", name, *command.collect_usage_pieces(context)])
    parts = [f"\n## {name}\n\n{text}\n\n```text\n{usage}\n```\n"]
    if own:
        parts.append(f"\n{_options(own, context)}")
    examples = tuple(getattr(command, "examples", ()))
    if examples:
        parts.append("\nExamples:\n\n```text\n" + "".join(f"{each}\n" for each in examples) + "```\n")
    return "".join(parts)


def _options(options: list[click.Option], context: click.Context) -> str:
    rows = []
    for option in options:
        spelled = ", ".join(code(each) for each in _spellings(option, context))
        variable = option.envvar if isinstance(option.envvar, str) else ""
        rows.append((spelled, escaped(option.help or ""), code(_default(option, context)), code(variable)))
    return table(["Option", "Meaning", "Default", "Variable"], rows)


def _spellings(option: click.Option, context: click.Context) -> Iterator[str]:
    wanted = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    for each in option.opts:
        yield each + wanted


def _default(option: click.Option, context: click.Context) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.get_default(context, call=False)
    if option.required:
        return "required"
    shown = option.is_flag or callable(value) or not isinstance(value, str | int | float) or value == ""
    return "" if shown else str(value)
