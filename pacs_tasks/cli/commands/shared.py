"""How commands are made and found: each gets the shared options, an example, and its file read only when called."""

from __future__ import annotations

import functools
import gc
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from pacs_tasks.cli.commands.options import SharedOption, shared_options
from pacs_tasks.cli.invocation import Invocation

#: Which file holds which command. Reading all of them would load Celery and pydicom before `--help` is printed.
COMMANDS: Mapping[str, str] = {
    "echo": "commands.transfer",
    "send-file": "commands.transfer",
    "send-dir": "commands.transfer",
    "query": "commands.query",
    "retrieve": "commands.retrieve",
    "jobs": "commands.jobs",
    "status": "commands.jobs",
    "wait": "commands.jobs",
    "cancel": "commands.jobs",
    "retry": "commands.jobs",
    "resume": "commands.jobs",
    "verify": "commands.verify",
    "report": "commands.verify",
    "worker": "commands.processes",
    "receiver": "commands.processes",
    "flower": "commands.processes",
    "up": "commands.processes",
    "demo": "commands.processes",
}


def later(module: str, name: str) -> Any:
    """What is called ``name`` in a file of this package, which is read now and not before."""
    return getattr(importlib.import_module(f"pacs_tasks.cli.{module}"), name)


class SharedOptionsCommand(click.Command):
    """A command whose help shows its own options first and those that all commands share after them."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options()
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class CommandGroup(click.Group):
    """All commands. The shared options may also stand before the command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click gives it
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click gives it
        if cmd_name not in COMMANDS:
            return None
        found = later(COMMANDS[cmd_name], cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)  # noqa: S101 - the table above is ours
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def _format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            (shared if isinstance(param, SharedOption) else own).append(record)
    for title, records in (("Options", own), ("Options of all commands", shared)):
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def command(name: str, *examples: str) -> Callable[[Callable[..., int]], SharedOptionsCommand]:
    """Make a command of a function that takes the :class:`Invocation` and its own options, and returns an exit code."""

    def decorate(function: Callable[..., int]) -> SharedOptionsCommand:
        @functools.wraps(function)
        def run(**options: Any) -> int:
            invocation = click.get_current_context().find_object(Invocation)
            assert invocation is not None  # noqa: S101 - main() made it
            if not gc.isenabled():
                # See __main__: what there is now stays to the end.
                gc.freeze()
                gc.enable()
            invocation.begin()
            return function(invocation, **options)

        return click.command(name, cls=SharedOptionsCommand, examples=examples)(run)

    return decorate
