"""The program: parse, run one command, and turn whatever happens into words and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click

from pacs_tasks.cli.commands.shared import CommandGroup
from pacs_tasks.cli.invocation import Invocation, Program
from pacs_tasks.cli.output import advice
from pacs_tasks.cli.output.exit_codes import ExitCode, of_error
from pacs_tasks.cli.output.logs import SAID, place_of, stack_of
from pacs_tasks.cli.output.terminal import open_streams, readable
from pacs_tasks.errors import PacsTasksError

logger = logging.getLogger("pacs_tasks.cli")

_EPILOG = """\b
Exit codes: 0 all done, warnings included; 1 failed; 2 wrong usage or
unreadable input; 3 partial; 4 PACS unreachable or association refused;
5 cancelled; 6 not finished in time; 7 no such job.
stdout carries data, stderr carries talk."""


@click.group(cls=CommandGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("pacs-tasks"), prog_name="pacs-tasks")
def commands() -> None:
    """Transfer DICOM files to and from a PACS, as jobs that workers do."""


def main(argv: Sequence[str] | None = None, program: Program | None = None) -> int:
    """Run one command line, by default that of this process, and return its exit code.

    Nothing raises: what went wrong is one sentence on stderr (and, with ``--json``, a document on stdout).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = program or Program()
    open_streams()
    invocation = Invocation(program, arguments)
    try:
        _check_text(arguments)
        return int(
            commands.main(args=arguments, prog_name=program.name, standalone_mode=False, obj=invocation)
            or ExitCode.DONE
        )
    except click.ClickException as error:
        return _wrong_usage(invocation, error)
    except PacsTasksError as error:
        return _ended_by(invocation, error)
    except (click.Abort, KeyboardInterrupt):
        return _interrupted(invocation)
    except Exception as error:  # noqa: BLE001 - nobody who transfers files should have to read a traceback
        return _unexpected(invocation, error)
    finally:
        invocation.close()


def _check_text(arguments: Sequence[str]) -> None:
    """Bytes that the locale cannot read reach us as lone surrogates, which no request can hold."""
    for argument in arguments:
        if readable(argument) != argument:
            raise click.UsageError(
                f"{readable(argument)!r} has bytes that are no {sys.getfilesystemencoding()} text; set LANG to what "
                "this terminal writes, or name the directory above a file of such a name"
            )


def _wrong_usage(invocation: Invocation, error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    sentence = error.format_message()
    invocation.terminal.complain(sentence)
    context = getattr(error, "ctx", None)
    if context is not None:
        invocation.terminal.say(f"`{context.command_path} --help` shows every option, with an example.")
    return _answer(invocation, "UsageError", sentence, ExitCode.USAGE)


def _ended_by(invocation: Invocation, error: PacsTasksError) -> int:
    code = of_error(error)
    invocation.terminal.complain(str(error))
    check = advice.for_error(error, invocation.task)
    if check:
        invocation.terminal.say(f"What next: {check}.")
    about = "" if invocation.job_id in error.message else f"job {invocation.job_id}: "
    logger.error("%s%s", about, error.message, extra=SAID)
    return _answer(invocation, type(error).__name__, error.message, code, subject=error.subject, check=check)


def _interrupted(invocation: Invocation) -> int:
    """Ctrl-C before there was a job, or a second one while the first was being obeyed."""
    job_id = invocation.job_id
    sentence = (
        f"left without waiting for the end of job {job_id}; `pacs-tasks status {job_id}` shows it"
        if job_id
        else "cancelled before anything was begun"
    )
    invocation.terminal.complain(sentence)
    logger.error("%s", sentence, extra=SAID)
    return _answer(invocation, "JobCancelledError", sentence, ExitCode.CANCELLED)


def _unexpected(invocation: Invocation, error: Exception) -> int:
    """A mistake of this program. The log has the way to it; values are left out, since they may be patient data."""
    logger.error("unexpected %s", place_of(error), extra=SAID)
    logger.debug("the way there: %s", stack_of(error), extra=SAID)
    where = (
        f"{Path(invocation.log_file).absolute()} has more"
        if invocation.log_file
        else "repeat the command with `--log-level DEBUG --log-file FILE`, then FILE has more"
    )
    sentence = f"an unexpected error ended this command ({place_of(error)}); {where}"
    invocation.terminal.complain(sentence)
    return _answer(invocation, type(error).__name__, sentence, ExitCode.FAILED)


def _answer(
    invocation: Invocation, kind: str, message: str, code: ExitCode, *, subject: str = "", check: str = ""
) -> ExitCode:
    """Give the JSON document of an error, where JSON was asked for."""
    if invocation.terminal.json:
        document: dict[str, object] = {"error": {"type": kind, "message": message, "subject": subject}}
        if invocation.job_id:
            document["job_id"] = invocation.job_id
        try:
            invocation.terminal.document({**document, "advice": check, "exit_code": code})
        except PacsTasksError as error:
            invocation.terminal.complain(str(error))
    return code
