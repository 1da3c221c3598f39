"""How commands are declared, and the options that they share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pacs_tasks.cli.input.values import AE_TITLE, FILE_NAME, HOST, SERVER_NAME, Seconds, WholeNumber
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.logs import LEVELS

F = TypeVar("F", bound=Callable[..., Any])


class SharedOption(click.Option):
    """An option of every command, which may also stand before the command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "expose_value": False, "callback": _note, "show_envvar": True})


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    invocation = ctx.find_object(Invocation)
    # Shell completion parses without an invocation.
    if invocation is not None and param.name is not None:
        invocation.note(param.name, value, ctx.get_parameter_source(param.name))


#: The options of every command. Their defaults are those of the settings, which are too slow to import for a help.
SHARED_OPTIONS: tuple[click.Parameter, ...] = (
    SharedOption(
        ["--ip"], type=HOST, default="127.0.0.1", show_default=True, envvar="PACS_TASKS_IP",
        help="Connect to the PACS at this host name or address.",
    ),
    SharedOption(
        ["--port"], type=WholeNumber(1, 65_535), default=11112, show_default=True,
        envvar="PACS_TASKS_PORT", metavar="PORT", help="Connect to this port of the PACS.",
    ),
    SharedOption(
        ["--ae-title"], type=AE_TITLE, default="PYNETDICOM", show_default=True,
        envvar="PACS_TASKS_AE_TITLE", help="Use this AE title for this machine (calling AE title).",
    ),
    SharedOption(
        ["--pacs-ae-title"], type=AE_TITLE, default="PACS", show_default=True,
        envvar="PACS_TASKS_PACS_AE_TITLE", help="Use this AE title for the PACS (called AE title).",
    ),
    SharedOption(
        ["--timeout"], type=Seconds(0, 86_400, min_open=True), default=30, show_default=True,
        envvar="PACS_TASKS_TIMEOUT", metavar="SECONDS", help="Give up when the PACS is silent for this long.",
    ),
    SharedOption(
        ["--tls"], is_flag=True, default=False, envvar="PACS_TASKS_TLS",
        help="Use TLS with the PACS. Each --tls-... option implies it.",
    ),
    SharedOption(
        ["--tls-ca"], type=FILE_NAME, metavar="FILE", envvar="PACS_TASKS_TLS_CA",
        help="Trust the certificate authorities in this file, or this certificate of the PACS itself (PEM). Without "
        "it, the worker trusts the authorities of its system.",
    ),
    SharedOption(
        ["--tls-cert"], type=FILE_NAME, metavar="FILE", envvar="PACS_TASKS_TLS_CERT",
        help="Present this certificate (PEM) to a PACS that requires one.",
    ),
    SharedOption(
        ["--tls-key"], type=FILE_NAME, metavar="FILE", envvar="PACS_TASKS_TLS_KEY",
        help="Use the private key in this file (PEM), if --tls-cert does not hold it.",
    ),
    SharedOption(
        ["--tls-server-name"], type=SERVER_NAME, metavar="NAME", envvar="PACS_TASKS_TLS_SERVER_NAME",
        help="Expect this name in the certificate of the PACS instead of --ip.",
    ),
    SharedOption(
        ["--tls-no-hostname-check"], is_flag=True, default=False, envvar="PACS_TASKS_TLS_NO_HOSTNAME_CHECK",
        help="Accept a certificate for another host too.",
    ),
    SharedOption(
        ["--remote"], metavar="NAME", envvar="PACS_TASKS_REMOTE",
        help="Use a PACS that pacs-tasks.toml names. Options such as --ip and --tls on the command line override it.",
    ),
    SharedOption(
        ["--detach"], is_flag=True, default=False, envvar="PACS_TASKS_DETACH",
        help="Print the job id and return. `wait ID` waits for the job.",
    ),
    SharedOption(
        ["--json"], is_flag=True, default=False, envvar="PACS_TASKS_JSON",
        help="Print exactly one JSON document on stdout, also for errors.",
    ),
    SharedOption(
        ["--quiet"], is_flag=True, default=False, envvar="PACS_TASKS_QUIET",
        help="Print only errors on stderr, without progress and remarks.",
    ),
    SharedOption(
        ["--log-level"], type=click.Choice(LEVELS, case_sensitive=False), default="INFO", show_default=True,
        envvar="PACS_TASKS_LOG_LEVEL", metavar="|".join(LEVELS), help="Log records of this level and above.",
    ),
    SharedOption(
        ["--log-file"], metavar="FILE", envvar="PACS_TASKS_LOG_FILE", help="Write the log to this file.",
    ),
)  # fmt: skip


def transfer_options(function: F) -> F:
    """Add the options of every job that may wait for a PACS that is down."""
    give_up_after = click.option(
        "--give-up-after",
        type=Seconds(0, 30 * 86_400),
        metavar="SECONDS",
        envvar="PACS_TASKS_GIVE_UP_AFTER",
        show_envvar=True,
        show_default="3600",
        expose_value=False,
        callback=_note,
        help="Wait this long for a PACS that goes down. Then the job ends with exit code 4, and `resume` continues it.",
    )
    key = click.option(
        "--key",
        metavar="TEXT",
        expose_value=False,
        callback=_note,
        help="Give the job a key. Another command with the same key gets the same job instead of a new one.",
    )
    return give_up_after(key(function))


class SharedOptionsCommand(click.Command):
    """A command whose help shows its own options before those that all commands share."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += SHARED_OPTIONS
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class CommandGroup(click.Group):
    """The program. It lists its commands in the order in which they were added."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += SHARED_OPTIONS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in self.commands if self.get_command(ctx, name) is not None]

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
    """Make a command of a function that takes the :class:`Invocation` and its own options and returns an exit code."""

    def decorate(function: Callable[..., int]) -> SharedOptionsCommand:
        @functools.wraps(function)
        def run(**options: Any) -> int:
            invocation: Invocation = click.get_current_context().obj
            invocation.begin()
            return function(invocation, **options)

        return click.command(name, cls=SharedOptionsCommand, examples=examples)(run)

    return decorate
