"""The program: it parses the command line, runs one command, and turns every end into words and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pacs_tasks.cli import language
from pacs_tasks.cli.commands.config import config
from pacs_tasks.cli.commands.jobs import cancel, jobs, purge, report, resume, retry, status, verify, wait
from pacs_tasks.cli.commands.processes import demo, flower, receiver, serve, up, worker
from pacs_tasks.cli.commands.query import query
from pacs_tasks.cli.commands.services import dead_letters, schema, token, webhooks
from pacs_tasks.cli.commands.transfer import echo, retrieve, send, send_dir, send_file
from pacs_tasks.cli.declarations import CommandGroup, translate_help
from pacs_tasks.cli.invocation import Invocation, Program
from pacs_tasks.cli.output.exit_codes import ExitCode, advice_on, of_error
from pacs_tasks.cli.output.terminal import SHOWN, open_streams, place_of, readable, stack_of
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.extras import missing_extra
from pacs_tasks.journal.logs import log_plainly
from pacs_tasks.privacy import keep_private

logger = logging.getLogger("pacs_tasks.cli")

_EPILOG = """\
Exit codes: 0 everything done, perhaps with warnings; 1 failed; 2 wrong usage or unreadable input; 3 partial; 4 PACS
unreachable or association refused; 5 cancelled; 6 not finished in time; 7 no such job.

Results go to stdout; progress, remarks and errors go to stderr."""


@click.group(cls=CommandGroup, epilog=_EPILOG)
@click.version_option(package_name="pacs-tasks", prog_name="pacs-tasks")
def commands() -> None:
    """Transfer DICOM files to and from a PACS. Each transfer is a job that workers do."""


for _command in (
    echo,
    send,
    send_file,
    send_dir,
    query,
    retrieve,
    jobs,
    status,
    wait,
    cancel,
    retry,
    resume,
    verify,
    report,
    dead_letters,
    purge,
    worker,
    receiver,
    flower,
    serve,
    token,
    up,
    demo,
    config,
    schema,
    webhooks,
):
    commands.add_command(_command)


def main(argv: Sequence[str] | None = None, program: Program | None = None) -> int:
    """Run a command line, by default that of this process, and return its exit code.

    It raises nothing. An error becomes a sentence on stderr, and with ``--json`` a document on stdout.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = program or Program()
    open_streams()
    log_plainly()
    umask = keep_private()
    language.choose()
    if language.chinese():
        translate_help(commands)
    invocation = Invocation(program, arguments)
    try:
        _check_text(arguments)
        code = commands.main(args=arguments, prog_name=program.name, standalone_mode=False, obj=invocation)
        return int(code or ExitCode.DONE)
    except click.ClickException as error:
        return _report_usage(invocation, error)
    except PacsTasksError as error:
        return _report_error(invocation, error)
    except (click.Abort, KeyboardInterrupt):
        return _report_interrupt(invocation)
    except Exception as error:  # noqa: BLE001 - nobody who transfers files should have to read a traceback
        return _report_defect(invocation, error)
    finally:
        invocation.close()
        os.umask(umask)


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse bytes that the locale cannot decode: they arrive as lone surrogates, which no request can hold."""
    for argument in arguments:
        if readable(argument) != argument:
            raise click.UsageError(
                f"{readable(argument)!r} has bytes that are not {sys.getfilesystemencoding()} text. Set LANG to the "
                "encoding of this terminal, or name the directory above a file with such a name."
            )


def _report_usage(invocation: Invocation, error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    message = " ".join(error.format_message().split())
    invocation.terminal.complain(message)
    context = getattr(error, "ctx", None)
    if context is not None:
        invocation.terminal.say(f"Run `{context.command_path} --help` for all options and an example.")
    return _end(invocation, "UsageError", message, ExitCode.USAGE)


def _report_error(invocation: Invocation, error: PacsTasksError) -> int:
    invocation.terminal.complain(str(error))
    what_next = advice_on(error, invocation.task)
    if what_next:
        invocation.terminal.say(what_next)
    about = "" if invocation.job_id in error.message else f"job {invocation.job_id}: "
    logger.error("%s%s", about, error.public().message, extra=SHOWN)
    return _end(
        invocation, type(error).__name__, error.message, of_error(error), subject=error.subject, what_next=what_next
    )


def _report_interrupt(invocation: Invocation) -> int:
    """Report Ctrl-C before there is a job, or a second one while the first is being obeyed."""
    job_id = invocation.job_id
    message = (
        f"Left before the end of job {job_id}. Run `pacs-tasks status {job_id}` to see how it ends."
        if job_id
        else "Cancelled before anything was begun."
    )
    invocation.terminal.complain(message)
    logger.error("%s", message, extra=SHOWN)
    return _end(invocation, "JobCancelledError", message, ExitCode.CANCELLED)


def _report_defect(invocation: Invocation, error: Exception) -> int:
    """Report a defect of this program. The log gets the stack without values, since they may be patient data.

    A package that an extra brings is not a defect.
    """
    if absent := missing_extra(error):
        return _report_error(invocation, absent)
    logger.error("unexpected %s", place_of(error), extra=SHOWN)
    logger.debug("stack of the unexpected error: %s", stack_of(error), extra=SHOWN)
    details = (
        f"See {Path(invocation.log_file).absolute()} for details."
        if invocation.log_file
        else "Run the command again with `--log-level DEBUG --log-file FILE`, and see FILE for details."
    )
    message = f"An unexpected error ended this command ({place_of(error)}). {details}"
    invocation.terminal.complain(message)
    return _end(invocation, type(error).__name__, message, ExitCode.FAILED)


def _end(
    invocation: Invocation, kind: str, message: str, code: ExitCode, *, subject: str = "", what_next: str = ""
) -> ExitCode:
    """Print the JSON document of an error if there should be one, and return the exit code."""
    job = {"job_id": invocation.job_id} if invocation.job_id else {}
    document = {"error": {"type": kind, "message": message, "subject": subject}, **job, "advice": what_next}
    try:
        invocation.terminal.end(document, code)
    except PacsTasksError as error:
        invocation.terminal.complain(str(error))
    return code
