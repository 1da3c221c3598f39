"""How commands and options are declared, and how their help reads."""

from __future__ import annotations

import functools
import gettext
import inspect
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from pacs_tasks.cli.input.values import AE_TITLE, FILE_NAME, HOST, SERVER_NAME, Seconds, WholeNumber
from pacs_tasks.cli.invocation import SETTING_OPTIONS, Invocation
from pacs_tasks.cli.language import narrowed, translated, widened
from pacs_tasks.cli.output.terminal import LEVELS

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


#: The option for the query model (PS3.4 section C.3).
root_option = click.option(
    "--root",
    "query_model",
    type=click.Choice(["patient", "study"], case_sensitive=False),
    show_default="study, or patient if the PACS offers only that",
    help="Use only this information model.",
)
#: The option for CSV that a spreadsheet can open without harm.
excel_option = click.option(
    "--excel",
    is_flag=True,
    help="With --format csv: write for a spreadsheet. A byte order mark comes first, and an apostrophe before each "
    "cell that would be a formula.",
)


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
    priority = click.option(
        "--priority",
        type=click.Choice(["stat", "normal", "bulk"], case_sensitive=False),
        default="normal",
        show_default=True,
        envvar="PACS_TASKS_PRIORITY",
        show_envvar=True,
        expose_value=False,
        callback=_note,
        help="Do this job before the others (stat) or after them (bulk), and request the same of the PACS.",
    )
    return give_up_after(key(priority(function)))


#: The shared options that say which PACS to talk to, and how.
ADDRESS = (*SETTING_OPTIONS, "remote")
#: What people type who know other programs.
_HABITS = {
    "find": "query", "findscu": "query", "search": "query", "worklist": "query --worklist",
    "get": "retrieve", "move": "retrieve", "fetch": "retrieve", "download": "retrieve", "getscu": "retrieve",
    "movescu": "retrieve", "store": "send", "storescu": "send", "dcmsend": "send", "upload": "send", "push": "send",
    "ping": "echo", "echoscu": "echo", "list": "jobs", "ls": "jobs", "stop": "cancel", "kill": "cancel",
    "--host": "--ip", "--hostname": "--ip", "--server": "--ip", "--address": "--ip",
    "-aet": "--ae-title", "--aet": "--ae-title", "--calling": "--ae-title",
    "-aec": "--pacs-ae-title", "--aec": "--pacs-ae-title", "--called": "--pacs-ae-title",
    "--name": "--patient-name", "--id": "--patient-id", "--date": "--study-date", "--uid": "--study-uid",
    "--study": "--study-uid", "--series": "--series-uid", "-o": "--output-dir", "-od": "--output-dir",
    "--output": "--output-dir", "--out": "--output-dir",
}  # fmt: skip
#: Options that name what `send` has as an argument.
_OF_A_PATH = frozenset({"--file", "--dir", "--directory", "--path", "-f", "-d"})
#: Options of which --batch has a column.
_IN_A_BATCH = frozenset(
    {"patient_id", "patient_name", "study_date", "accession_number", "modality", "study_uid", "series_uid"}
)
_ALL = "pacs_tasks.help_all"


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show this message with the options of all commands, and exit.",
)


def _with_stdin(args: list[str], option: str) -> list[str]:
    """Write the option before a lone ``-`` at the beginning or the end, where it is not there at all."""
    if option and "-" in (*args[:1], *args[-1:]) and not any(each.partition("=")[0] == option for each in args):
        place = 0 if args[0] == "-" else len(args) - 1
        return [*args[:place], option, *args[place:]]
    return args


class _Documented(click.Command):
    """A command with the shared options. Its help shows its own options before these."""

    #: The shared options that have no effect on it. It refuses them, and its help leaves them out.
    without: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += SHARED_OPTIONS

    def get_help_option_names(self, _ctx: click.Context) -> list[str]:
        return ["-h", "--help"]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), _HELP_ALL]

    def get_help(self, ctx: click.Context) -> str:
        return narrowed(super().get_help(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and param.name not in self.without:
                (shared if isinstance(param, SharedOption) else own).append(record)
        # A third of a narrow terminal is enough for the names.
        widest = min(30, formatter.width // 3)
        with formatter.section(translated("Options")):
            formatter.write_dl(own, widest)
        invocation = ctx.find_object(Invocation)
        if ctx.meta.get(_ALL) or (invocation is not None and invocation.program.full_help):
            with formatter.section(translated("Options of all commands")):
                formatter.write_dl(shared, widest)
        else:
            formatter.write_paragraph()
            formatter.write(_in_one_line([each.partition(" ")[0] for each, _ in shared], formatter.width) + "\n")


class SharedOptionsCommand(_Documented):
    """A command that does something, with examples."""

    def __init__(
        self, *args: Any, examples: tuple[str, ...] = (), without: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.without = without

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        typed = list(args)
        repeated = next((param.opts[0] for param in self.params if param.required and param.multiple), "")
        ctx.allow_extra_args = bool(repeated)
        meant = _with_stdin(args, repeated)
        try:
            _refuse_twice(self, ctx, list(meant))
            rest = super().parse_args(ctx, meant)
        except click.NoSuchOption as error:
            raise _as_meant(error, self, typed) from None
        if rest and repeated and not ctx.resilient_parsing:
            raise click.UsageError(
                f"{rest[0]!r} is not the value of an option. Write {repeated} before each path, or use `pacs-tasks "
                "send`, which takes files and directories without an option.",
                ctx,
            )
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        if self.examples:
            with formatter.section(translated("Example" if len(self.examples) == 1 else "Examples")):
                for example in self.examples:
                    formatter.write(_example(example, formatter.width, " " * formatter.current_indent))


class CommandGroup(_Documented, click.Group):
    """The program. It lists its commands in the order in which they were added."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            meant = _HABITS.get(error.command_name, "send" if Path(error.command_name).exists() else "")
            if not meant:
                raise
            raise click.UsageError(f"No such command {error.command_name!r}. Did you mean {meant!r}?", ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _as_meant(error: click.NoSuchOption, command: SharedOptionsCommand, typed: Sequence[str]) -> click.UsageError:
    """The error with what the option is called here, or on another command; it offers none that would be refused."""
    refused = {spelling for param in command.params if param.name in command.without for spelling in param.opts}
    own = {spelling for param in command.params for spelling in param.opts} - refused
    for word in typed:
        name = word.partition("=")[0]
        # Of -aet, click names -a.
        if name.startswith(error.option_name) and _HABITS.get(name) in own:
            return click.UsageError(f"No such option {name!r}. Did you mean {_HABITS[name]!r}?", error.ctx)
    # The name of an argument has no dashes.
    if error.option_name in _OF_A_PATH and "paths" in own:
        return click.UsageError(
            f"No such option {error.option_name!r}. Write the path alone: `pacs-tasks send PATH`.",
            error.ctx,
        )
    offered = [each for each in error.possibilities or () if each not in refused]
    return click.NoSuchOption(error.option_name, possibilities=offered, ctx=error.ctx)


def _refuse_twice(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Refuse an option that is there twice and has one value: click would drop the first.

    A shared option may stand before the command and after it, so the later one overrides the earlier. Old scripts
    rely on the same of every option, as argparse has it.
    """
    invocation = ctx.find_object(Invocation)
    if ctx.resilient_parsing or (invocation is not None and invocation.program.later_wins):
        return
    _, _, order = command.make_parser(ctx).parse_args(args)
    for param, number in Counter(order).items():
        if number == 1 or not isinstance(param, click.Option) or isinstance(param, SharedOption):
            continue
        if not (param.multiple or param.is_flag):
            if param.name in _IN_A_BATCH and any(each.name == "batch" for each in command.params):
                raise click.UsageError(
                    f"{param.opts[0]} is there more than once. Write it once, or use --batch for several.", ctx
                )
            raise click.UsageError(f"{param.opts[0]} is there more than once. Write it once.", ctx)


def _in_one_line(names: Sequence[str], width: int) -> str:
    """Name the shared options, those that most people need first, as far as one line has room."""
    for count in range(len(names), -1, -1):
        short = ", ".join([*names[:count], *(["..."] if count < len(names) else [])])
        line = widened(translated(f"Shared options (--help-all): {short}"))
        if len(line) <= width:
            break
    return line


def _example(text: str, width: int, indent: str) -> str:
    """An example that can be copied whole: a shell continues a line that ends with a backslash."""
    wrapper = textwrap.TextWrapper(width - 2, indent, f"{indent}  ", break_long_words=False, break_on_hyphens=False)
    lines = wrapper.wrap(text)
    return " \\\n".join(lines) + "\n"


def refuse(invocation: Invocation, names: Iterable[str], where: str) -> None:
    """Refuse options of the command line that have no effect.

    Raises
    ------
    click.UsageError
        If one of these is there.
    """
    ctx = click.get_current_context()
    for param in ctx.command.params:
        name = param.name or ""
        typed = invocation.typed(name) or ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if name in names and typed:
            raise click.UsageError(f"{param.opts[0]} has no effect {where}. Leave it out.", ctx)


def command(
    name: str, *examples: str, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., int]], SharedOptionsCommand]:
    """Make a command of a function that takes the :class:`Invocation` and its own options and returns an exit code.

    Parameters
    ----------
    without
        The shared options that have no effect on it.
    """

    def decorate(function: Callable[..., int]) -> SharedOptionsCommand:
        @functools.wraps(function)
        def run(**options: Any) -> int:
            invocation: Invocation = click.get_current_context().obj
            refuse(invocation, without, f"on `{name}`")
            invocation.begin()
            return function(invocation, **options)

        return click.command(name, cls=SharedOptionsCommand, examples=examples, without=without)(run)

    return decorate


def translate_help(command: click.Command) -> None:
    """Translate what a command and its own commands say in their help into Chinese, and the words that click adds."""
    # Only those who read Chinese need it.
    from pacs_tasks.locale.catalogue import DOMAIN, LOCALE

    # Click looks its words up in the catalogue of the current domain, in the language that this variable names.
    os.environ["LANGUAGE"] = "zh"
    gettext.bindtextdomain(DOMAIN, str(LOCALE))
    gettext.textdomain(DOMAIN)
    _translate(command)


def _translate(command: click.Command) -> None:
    command.epilog = _text(command.epilog)
    # Click shortens a text at spaces, of which Chinese has none.
    command.short_help = (_text(command.help) or "").partition("。")[0]
    command.help = _text(command.help)
    # Click keeps the option for help that it makes here.
    for param in command.get_params(click.Context(command)):
        if isinstance(param, click.Option):
            param.help = _text(param.help)
            if isinstance(param.show_default, str):
                param.show_default = _text(param.show_default) or ""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _translate(each)


def _text(text: str | None) -> str | None:
    if not text or widened(text) != text:
        # The options that all commands share were translated with the first of them.
        return text
    # Up to Python 3.12, a docstring keeps the indentation that it has in the source.
    text = inspect.cleandoc(text)
    known = translated(text)
    return widened(known if known != text else translated(" ".join(text.split())))
