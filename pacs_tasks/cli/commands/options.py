"""The options that every command shares, and those of every transfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pacs_tasks.ae import DEFAULT_CALLED_AET, DEFAULT_CALLING_AET, DEFAULT_PORT
from pacs_tasks.cli.input.values import AE_TITLE, FILE_NAME, HOST, SERVER_NAME, Seconds, WholeNumber
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.logs import LEVELS
from pacs_tasks.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class SharedOption(click.Option):
    """An option of every command, which may also stand before the command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "expose_value": False, "callback": _note, "show_envvar": True})


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    invocation = ctx.find_object(Invocation)
    # Shell completion parses without a command line to note anything for.
    if invocation is not None and param.name is not None:
        invocation.note(param.name, value, ctx.get_parameter_source(param.name))


def shared_options() -> list[click.Parameter]:
    """The options that every command shares, with their defaults and environment twins."""
    default = Settings.model_fields["timeout"].default
    return [
        SharedOption(
            ["--ip"], type=HOST, default="127.0.0.1", show_default=True, envvar="PACS_TASKS_IP",
            help="Host name or address of the PACS.",
        ),
        SharedOption(
            ["--port"], type=WholeNumber(1, 65_535), default=DEFAULT_PORT, show_default=True,
            envvar="PACS_TASKS_PORT", metavar="PORT", help="Port of the PACS.",
        ),
        SharedOption(
            ["--ae-title"], type=AE_TITLE, default=DEFAULT_CALLING_AET, show_default=True,
            envvar="PACS_TASKS_AE_TITLE", help="Our AE title: who calls.",
        ),
        SharedOption(
            ["--pacs-ae-title"], type=AE_TITLE, default=DEFAULT_CALLED_AET, show_default=True,
            envvar="PACS_TASKS_PACS_AE_TITLE", help="AE title of the PACS: who is called.",
        ),
        SharedOption(
            ["--timeout"], type=Seconds(0, 86_400, min_open=True), default=int(default), show_default=True,
            envvar="PACS_TASKS_TIMEOUT", metavar="SECONDS", help="Longest silence of the PACS.",
        ),
        *tls_options(),
        SharedOption(
            ["--remote"], metavar="NAME", envvar="PACS_TASKS_REMOTE",
            help="A PACS that pacs-tasks.toml names, instead of --ip, --port, --pacs-ae-title and --tls...; "
            "those still override it when they are typed.",
        ),
        SharedOption(
            ["--detach"], is_flag=True, default=False, envvar="PACS_TASKS_DETACH",
            help="Print the job id and return; `wait ID` waits for it.",
        ),
        SharedOption(
            ["--json"], is_flag=True, default=False, envvar="PACS_TASKS_JSON",
            help="Print exactly one JSON document on stdout, for errors too.",
        ),
        SharedOption(
            ["--quiet"], is_flag=True, default=False, envvar="PACS_TASKS_QUIET",
            help="No progress and no talk on stderr, errors only.",
        ),
        SharedOption(
            ["--log-level"], type=click.Choice(LEVELS, case_sensitive=False), default="INFO", show_default=True,
            envvar="PACS_TASKS_LOG_LEVEL", metavar="|".join(LEVELS), help="What is logged, at least.",
        ),
        SharedOption(
            ["--log-file"], metavar="FILE", envvar="PACS_TASKS_LOG_FILE", help="Where the log goes.",
        ),
    ]  # fmt: skip


def tls_options() -> list[click.Parameter]:
    """The options about TLS. All files are read by the worker."""
    return [
        SharedOption(
            ["--tls"], is_flag=True, default=False, envvar="PACS_TASKS_TLS",
            help="Use TLS with the PACS; each --tls-... asks for it too.",
        ),
        SharedOption(
            ["--tls-ca"], type=FILE_NAME, metavar="FILE", envvar="PACS_TASKS_TLS_CA",
            help="Who may have signed the certificate of the PACS, or that certificate itself (PEM); "
            "else whom the system trusts.",
        ),
        SharedOption(
            ["--tls-cert"], type=FILE_NAME, metavar="FILE", envvar="PACS_TASKS_TLS_CERT",
            help="Our certificate (PEM), for a PACS that wants one.",
        ),
        SharedOption(
            ["--tls-key"], type=FILE_NAME, metavar="FILE", envvar="PACS_TASKS_TLS_KEY",
            help="Its private key (PEM), if that is in another file.",
        ),
        SharedOption(
            ["--tls-server-name"], type=SERVER_NAME, metavar="NAME", envvar="PACS_TASKS_TLS_SERVER_NAME",
            help="The name in the certificate of the PACS, if that is not --ip.",
        ),
        SharedOption(
            ["--tls-no-hostname-check"], is_flag=True, default=False, envvar="PACS_TASKS_TLS_NO_HOSTNAME_CHECK",
            help="Take a certificate for another host, too.",
        ),
    ]  # fmt: skip


def transfer_options(function: F) -> F:
    """What every transfer may be told about waiting, and about being asked twice."""
    give_up_after = click.option(
        "--give-up-after",
        type=Seconds(0, 30 * 86_400),
        metavar="SECONDS",
        envvar="PACS_TASKS_GIVE_UP_AFTER",
        show_envvar=True,
        show_default="3600",
        expose_value=False,
        callback=_note,
        help="How long to wait for a PACS that goes down; then the job ends with exit code 4, and `resume` goes on.",
    )
    key = click.option(
        "--key",
        metavar="TEXT",
        expose_value=False,
        callback=_note,
        help="The same key always gives the same job: what is asked twice is done once.",
    )
    return give_up_after(key(function))
