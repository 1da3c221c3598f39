"""The commands about jobs, their proof and their receipts. Any machine that reaches the Redis can run them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pacs_tasks.cli.declarations import ADDRESS, command, excel_option, refuse, root_option
from pacs_tasks.cli.input.values import Age, Seconds, WholeNumber
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode, of_error
from pacs_tasks.cli.output.terminal import counted
from pacs_tasks.errors import JobNotFoundError, JobNotReadyError, PacsTasksError

if TYPE_CHECKING:
    from pacs_tasks.client import Job
    from pacs_tasks.fleet.audits import Audits
    from pacs_tasks.outcome import Progress

logger = logging.getLogger("pacs_tasks.cli")

#: Seconds that `cancel` waits for the end of the job.
CANCEL_PATIENCE = 10.0


@command("jobs", "pacs-tasks jobs", without=(*ADDRESS, "detach"))
@click.option("--limit", type=WholeNumber(min=1), default=50, show_default=True, metavar="N", help="List this many.")
def jobs(invocation: Invocation, limit: int) -> int:
    """List the jobs, newest first."""
    from pacs_tasks.cli.output.jobs import job_document, job_table
    from pacs_tasks.client import PacsClient

    with PacsClient(config=invocation.settings) as client:
        found = client.jobs(limit)
    return invocation.terminal.listing("jobs", map(job_document, found), job_table(found), "There are no jobs.")


@command(
    "status", "pacs-tasks status 1f3870be", "pacs-tasks status last", "pacs-tasks status", without=(*ADDRESS, "detach")
)
@click.argument("job_id", metavar="[ID]", required=False)
def status(invocation: Invocation, job_id: str | None) -> int:
    """Show the progress or the outcome of a job. Without an id, show the associations in use with each PACS."""
    from pacs_tasks.cli.output.jobs import association_table
    from pacs_tasks.cli.running import find_job
    from pacs_tasks.client import PacsClient

    with PacsClient(config=invocation.settings) as client:
        if job_id is not None:
            return _show_job(invocation, find_job(invocation, client, job_id))
        found = client.associations()
    shared = (each.model_dump(mode="json") for each in found)
    return invocation.terminal.listing("associations", shared, association_table(found), "No association is open.")


def _show_job(invocation: Invocation, job: Job) -> int:
    from pacs_tasks.cli.output.jobs import job_document, job_facts
    from pacs_tasks.cli.output.outcomes import view_of

    progress, terminal = job.progress(), invocation.terminal
    # The remote is not known if another version wrote the request.
    associations = job.associations() if progress.remote and not progress.state.finished else None
    if terminal.json:
        shared = None if associations is None else associations.model_dump(mode="json")
        document = {"job": job_document(progress), "associations": shared}
        return terminal.end({**document, **_end_document(job, progress)})
    try:
        outcome = job.outcome() if progress.state.finished else None
    except PacsTasksError:
        # The facts of the job show the error.
        outcome = None
    terminal.facts(job_facts(progress, counts=outcome is None, associations=associations))
    if outcome is not None:
        view_of(progress.task, outcome, job.request(), job).summarise(terminal)
    return ExitCode.DONE


@command("wait", "pacs-tasks wait 1f3870be --for 60", "pacs-tasks wait last", without=(*ADDRESS, "detach"))
@click.argument("job_id", metavar="ID")
@click.option(
    "--for",
    "patience",
    type=Seconds(min=0),
    metavar="SECONDS",
    show_default="as long as it takes",
    help="Stop waiting after this time, with exit code 6. The job continues.",
)
def wait(invocation: Invocation, job_id: str, patience: float | None) -> int:
    """Wait for the end of a job, and show its outcome. Ctrl-C stops the waiting, not the job."""
    from pacs_tasks.cli.output.jobs import view
    from pacs_tasks.cli.output.view import command_of
    from pacs_tasks.cli.running import open_job, report, watch

    with open_job(invocation, job_id) as job:
        request = job.request()
        with view(invocation.terminal, command_of(request.task)) as shown:
            try:
                logger.debug("waiting for job %s", job.id)
                last = job.wait(timeout=patience, on_progress=watch(invocation.settings, shown.update))
            except KeyboardInterrupt:
                raise JobNotReadyError(
                    f"Job {job.id} continues. Run `pacs-tasks wait {job.id}` to wait again, or "
                    f"`pacs-tasks cancel {job.id}` to end it."
                ) from None
        return report(invocation, job, request, last)


@command("cancel", "pacs-tasks cancel 1f3870be", "pacs-tasks cancel last", without=ADDRESS)
@click.argument("job_id", metavar="ID")
def cancel(invocation: Invocation, job_id: str) -> int:
    """Cancel a job, and wait a few seconds for its end. Files that were sent stay sent."""
    from pacs_tasks.cli.output.jobs import job_document, job_facts, state_of
    from pacs_tasks.cli.running import open_job

    terminal = invocation.terminal
    with open_job(invocation, job_id) as job:
        before = job.progress()
        progress = before if before.state.finished else _cancel(job, detach=invocation.detach)
        logger.info("job %s: cancel requested, state %s", job.id, state_of(progress))
        if terminal.json:
            return terminal.end({"job": job_document(progress), **_end_document(job, progress)})
        terminal.facts(job_facts(progress))
        if before.state.finished:
            terminal.say("The job had ended before, so nothing was cancelled.")
        elif progress.state.finished:
            terminal.say(f"Run `pacs-tasks retry {job.id}` to continue with the rest.")
    return ExitCode.DONE


@command("retry", "pacs-tasks retry 1f3870be", "pacs-tasks retry last", without=ADDRESS)
@click.argument("job_id", metavar="ID")
def retry(invocation: Invocation, job_id: str) -> int:
    """Continue a job with what failed, is missing or was never begun, and with nothing else."""
    return _continue(invocation, job_id, failed_too=True)


@command("resume", "pacs-tasks resume 1f3870be", "pacs-tasks resume last", without=ADDRESS)
@click.argument("job_id", metavar="ID")
def resume(invocation: Invocation, job_id: str) -> int:
    """Continue a job with what has no outcome yet, such as after a cancel or after a PACS was down for too long."""
    return _continue(invocation, job_id, failed_too=False)


def _continue(invocation: Invocation, job_id: str, *, failed_too: bool) -> int:
    from pacs_tasks.cli.running import follow, open_job
    from pacs_tasks.operations import TRANSFERS

    with open_job(invocation, job_id, TRANSFERS) as job:
        (job.retry if failed_too else job.resume)()
        logger.info("job %s: enqueued again for %s", job.id, "the rest" if failed_too else "what has no outcome")
        return follow(invocation, job, job.request())


@command(
    "verify",
    "pacs-tasks verify last",
    "pacs-tasks verify 1f3870be --commit --commit-timeout 300",
)
@click.argument("job_id", metavar="ID")
@click.option(
    "--commit",
    is_flag=True,
    help="Request storage commitment instead: the PACS commits to store each instance, or reports why it does not.",
)
@click.option(
    "--commit-timeout",
    "patience",
    type=Seconds(0, 86_400),
    metavar="SECONDS",
    envvar="PACS_TASKS_COMMIT_TIMEOUT",
    show_envvar=True,
    show_default="60",
    help="Wait this long for the next report of the PACS. Later reports are recorded.",
)
@root_option
def verify(invocation: Invocation, job_id: str, commit: bool, patience: float | None, query_model: str | None) -> int:
    """Verify that the PACS holds each instance that a job has sent (C-FIND at IMAGE level).

    This is the PACS of the job, unless an option names another one.
    """
    from pacs_tasks.cli.running import find_job, submit
    from pacs_tasks.client import PacsClient
    from pacs_tasks.request import CommitRequest, VerifyRequest, build
    from pacs_tasks.request.store import SENDING

    refuse(invocation, ["query_model"] if commit else ["patience"], "with --commit" if commit else "without --commit")
    with PacsClient(config=invocation.settings) as client:
        job = find_job(invocation, client, job_id, SENDING)
        fields = {**invocation.address_of(job.request()), "job_id": job.id}
        if not commit:
            return submit(invocation, client, build(VerifyRequest, {**fields, "query_model": query_model}))
        limit = invocation.settings.commit_timeout if patience is None else patience
        return submit(invocation, client, build(CommitRequest, {**fields, "patience": limit}))


@command(
    "report",
    "pacs-tasks report last",
    "pacs-tasks report 1f3870be --format csv --output receipts.csv",
    without=(*ADDRESS, "detach"),
)
@click.argument("job_id", metavar="ID")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["jsonl", "csv"], case_sensitive=False),
    default="jsonl",
    show_default=True,
    help="Write a JSON object on each line, or CSV.",
)
@excel_option
@click.option("--output", metavar="FILE", show_default="stdout", help="Write the receipts to this file.")
def report(invocation: Invocation, job_id: str, output_format: str, excel: bool, output: str | None) -> int:
    """Write a receipt for each file or instance of a job that sends or retrieves."""
    from pacs_tasks.cli.output.receipts import write_receipts
    from pacs_tasks.cli.running import open_job
    from pacs_tasks.ledger.receipts import WITH_RECEIPTS

    terminal = invocation.terminal
    terminal.excel = excel
    if output_format != "csv":
        refuse(invocation, ["excel"], "without --format csv")
    if terminal.json and output is None:
        raise click.UsageError("Receipts are many lines, not one JSON document. Name a file for them with --output.")
    with open_job(invocation, job_id, WITH_RECEIPTS) as job:
        count = write_receipts(job.receipts(), output_format, output, terminal)
    if not count:
        terminal.say(f"There are no receipts: job {job.id} has not recorded the outcome of any file or instance.")
    if output is None:
        return ExitCode.DONE
    if count and not terminal.json:
        terminal.say(f"1 receipt in {output}." if count == 1 else f"{count} receipts in {output}.")
    return terminal.end({"job_id": job.id, "receipts": count, "output": output})


@command("purge", "pacs-tasks purge 1f3870be", "pacs-tasks purge --older-than 30d", without=(*ADDRESS, "detach"))
@click.argument("job_ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--older-than",
    "age",
    type=Age(),
    help="Delete the jobs that ended longer ago than this, such as 30d, 2w, 12h or 90m.",
)
def purge(invocation: Invocation, job_ids: tuple[str, ...], age: float | None) -> int:
    """Delete the records of jobs that have ended, in Redis and in its append-only file. DICOM files stay."""
    from pacs_tasks import spool
    from pacs_tasks.cli.running import find_job
    from pacs_tasks.client import PacsClient
    from pacs_tasks.fleet.audits import Audits
    from pacs_tasks.fleet.webhooks import Webhooks
    from pacs_tasks.ledger.purge import ended_before, purge_all, rewrite_file
    from pacs_tasks.messages.dead_letters import DeadLetters

    if bool(job_ids) == (age is not None):
        raise click.UsageError("Name jobs by their ids, or all that are old with --older-than.")
    terminal = invocation.terminal
    with PacsClient(config=invocation.settings) as client:
        ledger = client.ledger
        named = [find_job(invocation, client, each).id for each in job_ids]
        # The audit trail is written from the record.
        due = {each for each, _ in Audits(ledger.client).due()}
        ended = dict.fromkeys(named) if age is None else ended_before(ledger, time.time() - age)
        purged = purge_all(ledger, (each for each in ended if each not in due))
        logger.info("purged %d jobs", len(purged))
        letters = DeadLetters(ledger.client, 0).purge(purged, 0.0 if age is None else time.time() - age)
        letters += Webhooks(ledger.client).purge(purged)
        _note_purge(Audits(ledger.client), purged)
        why = rewrite_file(ledger.client) if purged or letters else ""
    for each in purged:
        spool.remove(invocation.settings, each)
    left = [each for each in dict.fromkeys(named) if each not in purged and each not in due]
    awaited = sorted(due.intersection(named))
    document = {"purged": purged, "unfinished": left, "not_audited": awaited, "append_only_file": why or "rewritten"}
    code = terminal.end(document, ExitCode.USAGE if left or awaited else ExitCode.DONE)
    terminal.say(f"{counted(len(purged), 'job')} purged." if purged or letters else "There was nothing to purge.")
    if left:
        terminal.complain(f"{', '.join(left)}: this job has not ended. Cancel it first, or wait for its end.")
    if awaited:
        terminal.complain(
            f"{', '.join(awaited)}: the audit trail of this job is not written yet. Purge it once a worker with "
            "PACS_TASKS_AUDIT has written it."
        )
    if why:
        terminal.say(
            f"Redis may keep them in its append-only file until it rewrites that file ({why.rstrip('.')}). Run "
            "BGREWRITEAOF as a user of Redis who may."
        )
    return code


def _note_purge(audits: Audits, purged: Sequence[str]) -> None:
    """Add to the audit trail, if there is one, who purged the records of which jobs."""
    from pacs_tasks.client.job import current_user
    from pacs_tasks.journal.audit import purged_events

    if audits.wanted():
        for event in purged_events(current_user(), purged):
            audits.put(event.as_json())


def _cancel(job: Job, *, detach: bool) -> Progress:
    progress = job.cancel()
    if detach:
        return progress
    try:
        return job.wait(timeout=CANCEL_PATIENCE)
    except JobNotReadyError:
        raise JobNotReadyError(
            f"Job {job.id} was cancelled and has not ended within {CANCEL_PATIENCE:g} s. "
            f"Run `pacs-tasks status {job.id}` to see when it has."
        ) from None


def _end_document(job: Job, progress: Progress) -> dict[str, object]:
    """The outcome or the error of a job that has ended, as a part of a JSON document."""
    from pacs_tasks.cli.output.outcomes import view_of

    if not progress.state.finished:
        return {}
    try:
        view = view_of(progress.task, job.outcome())
    except JobNotFoundError:
        raise
    except PacsTasksError as error:
        return {
            "error": {"type": type(error).__name__, "message": error.message, "subject": error.subject},
            "outcome_exit_code": of_error(error),
        }
    return {"outcome": view.document(), "outcome_exit_code": view.exit_code}
