"""From text to values: the options that every command shares, and what can be wrong with any of them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import TypeAdapter, ValidationError

from pacs_tasks.ae import (
    DEFAULT_CALLED_AET,
    DEFAULT_CALLING_AET,
    DEFAULT_PORT,
    AETitle,
    Charset,
    FileName,
    Host,
    ServerName,
)
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.logs import LEVELS
from pacs_tasks.cli.terminal import readable
from pacs_tasks.errors import UnreadableInputError
from pacs_tasks.request import UID
from pacs_tasks.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class Checked(click.ParamType[str]):
    """Text that the package's own rules check, so that a wrong one is a wrong usage."""

    def __init__(self, name: str, rule: Any) -> None:
        self.name = name
        self._rule: TypeAdapter[str] = TypeAdapter(rule)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self._rule.validate_python(value)
        except ValidationError as error:
            self.fail(error.errors()[0]["msg"].removeprefix("Value error, "), param, ctx)


class WholeNumber(click.IntRange):
    """A number in a range, called so in messages."""

    name = "whole number"


class Seconds(click.FloatRange):
    """A time in a range, called so in messages."""

    name = "number of seconds"


class StudyDate(click.ParamType[str]):
    """A day or a range of days (range matching, PS3.4 section C.2.2.2.5)."""

    name = "YYYYMMDD-YYYYMMDD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        first, dash, last = text.partition("-")
        first, last = first.strip(), last.strip()
        if not first and not last:
            self.fail(
                "give one day (20230131), a range (20230101-20231231) or an open one (20230101- or -20231231)",
                param,
                ctx,
            )
        days = [self._day(each, param, ctx) for each in (first, last) if each]
        if days != sorted(days):
            self.fail(f"the range ends ({last}) before it begins ({first})", param, ctx)
        return f"{first}{dash}{last}"

    def _day(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime.date:
        """VR DA: eight digits (PS3.5 section 6.2)."""
        day = _day_of_the_calendar(text)
        if day is None:
            self.fail(f"{text!r} is no day of the calendar; write YYYYMMDD, such as 20230131", param, ctx)
        return day


def _day_of_the_calendar(text: str) -> datetime.date | None:
    if len(text) != 8 or not text.isascii() or not text.isdigit():
        return None
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


class Key(click.ParamType[tuple[str, str]]):
    """``KEYWORD`` asks for an attribute in return, ``KEYWORD=VALUE`` matches it as well."""

    name = "KEYWORD[=VALUE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        keyword, _, wanted = str(value).partition("=")
        keyword = keyword.strip()
        if not keyword.isascii() or not all(part.isalnum() for part in keyword.split(".")):
            self.fail(
                f"{keyword!r} is no keyword of the DICOM data dictionary; write one such as StudyDescription "
                "or StudyDescription=CHEST*, or SEQUENCE.KEYWORD for one within a sequence",
                param,
                ctx,
            )
        return keyword, wanted


class UIDList(click.ParamType[str]):
    """A UID, or several with a backslash between them (list of UID matching, PS3.4 section C.2.2.2.2)."""

    name = "UID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return "\\".join(UID_TEXT.convert(each, param, ctx) for each in str(value).split("\\"))


AE_TITLE = Checked("AE title", AETitle)
HOST = Checked("host", Host)
FILE_NAME = Checked("file", FileName)
SERVER_NAME = Checked("host", ServerName)
UID_TEXT = Checked("UID", UID)
CHARSET = Checked("character set", Charset)


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


def absolute(path: str) -> str:
    """``path`` as a worker understands it, which has another current directory.

    Raises
    ------
    UnreadableInputError
        If it cannot be told to a worker since it is no Unicode.
    """
    found = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - Path.absolute() leaves `..` in
    if readable(found) != found:
        raise UnreadableInputError("this path has bytes that are no UTF-8; name a directory above it", readable(found))
    return found


def local_directory(path: str) -> str:
    """An existing directory of this machine, absolute.

    Raises
    ------
    UnreadableInputError
        If there is none.
    """
    found = Path(absolute(path))
    if not found.exists():
        raise UnreadableInputError("there is no such directory; check the path", str(found))
    if not found.is_dir():
        raise UnreadableInputError("this is a file, not a directory; use send-file for one file", str(found))
    return str(found)


def local_file(path: str) -> str:
    """An existing file of this machine, absolute.

    Raises
    ------
    UnreadableInputError
        If there is none.
    """
    found = Path(absolute(path))
    if not found.exists():
        raise UnreadableInputError("there is no such file; check the path", str(found))
    if found.is_dir():
        raise UnreadableInputError("this is a directory, not a file; use send-dir for all of its files", str(found))
    return str(found)


def local_output(path: str) -> str:
    """A directory of this machine that exists or can be made, absolute.

    Raises
    ------
    UnreadableInputError
        If something is in its way or it may not be written.
    """
    found = Path(absolute(path))
    nearest = next(parent for parent in (found, *found.parents) if parent.exists())
    if not nearest.is_dir():
        raise UnreadableInputError("this is a file, not a directory; name another --output-dir", str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UnreadableInputError("we may not write here; check its permissions or name another", str(nearest))
    return str(found)
