"""The commands about the work on the queue. Any machine that reaches the Redis may give them."""

from __future__ import annotations

import logging

import click

from pacs_tasks.cli.commands.shared import command
from pacs_tasks.cli.input.values import Seconds, WholeNumber
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode, of_error, of_outcome
from pacs_tasks.cli.output.job_tables import association_table, job_document, job_facts, job_table, state_of
from pacs_tasks.cli.output.progress import view
from pacs_tasks.cli.output.render import outcome_document, show_outcome, words_of
from pacs_tasks.cli.running import announce, follow, report, watch
from pacs_tasks.client import PacsClient
from pacs_tasks.client.job import Job
from pacs_tasks.errors import JobError, JobNotFoundError, JobNotReadyError, PacsTasksError
from pacs_tasks.outcome.progress import Progress

logger = logging.getLogger("pacs_tasks.cli")

#: Seconds that `cancel` waits for the job's end.
CANCEL_PATIENCE = 10.0


@command("jobs", "pacs-tasks jobs")
@click.option("--limit", type=WholeNumber(min=1), default=50, show_default=True, metavar="N", help="At most so many.")
def jobs(invocation: Invocation, limit: int) -> int:
    """List the jobs, the newest first."""
    with PacsClient(config=invocation.settings) as client:
        found = client.jobs(limit)
    if invocation.terminal.json:
        invocation.terminal.document({"jobs": [job_document(each) for each in found], "exit_code": ExitCode.DONE})
    elif found:
        invocation.terminal.show(job_table(found))
    else:
        invocation.terminal.say("There is no job.")
    return ExitCode.DONE


@command("status", "pacs-tasks status 1f3870be274f6c49b3e31a0c6728957f", "pacs-tasks status")
@click.argument("job_id", metavar="[ID]", required=False)
def status(invocation: Invocation, job_id: str | None) -> int:
    """Show how a job is getting on, or what became of it. Without an id: the associations in use with each PACS."""
    with PacsClient(config=invocation.settings) as client:
        if job_id is None:
            return _associations(invocation, client)
        job = _find(invocation, client, job_id)
        progress = job.progress()
        terminal = invocation.terminal
        # Where another version wrote the request, the peer is not known.
        associations = job.associations() if progress.remote and not progress.state.finished else None
        if terminal.json:
            shared = None if associations is None else associations.model_dump(mode="json")
            document = {"job": job_document(progress), "associations": shared, **_ending(job, progress)}
            terminal.document({**document, "exit_code": ExitCode.DONE})
            return ExitCode.DONE
        try:
            outcome = job.outcome() if progress.state.finished else None
        except PacsTasksError:
            # It stands among the facts of the job.
            outcome = None
        terminal.show(job_facts(progress, counts=outcome is None, associations=associations))
        if outcome is not None:
            show_outcome(terminal, job.request(), outcome)
    return ExitCode.DONE


def _associations(invocation: Invocation, client: PacsClient) -> int:
    found, terminal = client.associations(), invocation.terminal
    if terminal.json:
        shared = [each.model_dump(mode="json") for each in found]
        terminal.document({"associations": shared, "exit_code": ExitCode.DONE})
    elif found:
        terminal.show(association_table(found))
    else:
        terminal.say("No association is open.")
    return ExitCode.DONE


@command("wait", "pacs-tasks wait 1f3870be274f6c49b3e31a0c6728957f --for 60")
@click.argument("job_id", metavar="ID")
@click.option(
    "--for",
    "patience",
    type=Seconds(min=0),
    metavar="SECONDS",
    show_default="as long as it takes",
    help="Stop waiting after so long, with exit code 6; the job goes on.",
)
def wait(invocation: Invocation, job_id: str, patience: float | None) -> int:
    """Wait for a job's end, and show what became of it. Ctrl-C ends the waiting, not the job."""
    with PacsClient(config=invocation.settings) as client:
        job = _find(invocation, client, job_id)
        request = job.request()
        with view(invocation.terminal, words_of(request.task).command) as shown:
            try:
                logger.debug("waiting for job %s", job_id)
                last = job.wait(timeout=patience, on_progress=watch(invocation.settings, shown.update))
            except KeyboardInterrupt:
                raise JobNotReadyError(
                    f"job {job_id} goes on; `pacs-tasks wait {job_id}` waits again, "
                    f"`pacs-tasks cancel {job_id}` ends it"
                ) from None
        return report(invocation, job, request, last)


@command("cancel", "pacs-tasks cancel 1f3870be274f6c49b3e31a0c6728957f")
@click.argument("job_id", metavar="ID")
def cancel(invocation: Invocation, job_id: str) -> int:
    """Ask a job to end, and wait a little for it. What was sent stays sent."""
    with PacsClient(config=invocation.settings) as client:
        job = _find(invocation, client, job_id)
        before = job.progress()
        progress = before if before.state.finished else _cancel(job, detach=invocation.detach)
        logger.info("job %s: asked to end; it is %s", job_id, state_of(progress))
        if invocation.terminal.json:
            document = {"job": job_document(progress), **_ending(job, progress), "exit_code": ExitCode.DONE}
            invocation.terminal.document(document)
            return ExitCode.DONE
        invocation.terminal.show(job_facts(progress))
        if before.state.finished:
            invocation.terminal.say("It had ended before; nothing was cancelled.")
        elif progress.state.finished:
            invocation.terminal.say(f"`pacs-tasks retry {job_id}` goes on with the rest.")
    return ExitCode.DONE


@command("retry", "pacs-tasks retry 1f3870be274f6c49b3e31a0c6728957f")
@click.argument("job_id", metavar="ID")
def retry(invocation: Invocation, job_id: str) -> int:
    """Go on with what failed, is missing or was never begun, and with nothing else."""
    with PacsClient(config=invocation.settings) as client:
        job = _find(invocation, client, job_id).retry()
        logger.info("job %s: enqueued again for the rest", job_id)
        if invocation.detach:
            return announce(invocation, job)
        return follow(invocation, job, job.request())


@command("resume", "pacs-tasks resume 1f3870be274f6c49b3e31a0c6728957f")
@click.argument("job_id", metavar="ID")
def resume(invocation: Invocation, job_id: str) -> int:
    """Go on with what has no outcome yet: after a cancel, or after waiting for a PACS in vain."""
    with PacsClient(config=invocation.settings) as client:
        job = _find(invocation, client, job_id).resume()
        logger.info("job %s: enqueued again for what has no outcome", job_id)
        if invocation.detach:
            return announce(invocation, job)
        return follow(invocation, job, job.request())


def _find(invocation: Invocation, client: PacsClient, job_id: str) -> Job:
    """The job, or :class:`JobNotFoundError`."""
    invocation.job_id = job_id
    job = client.job(job_id)
    invocation.task = job.progress().task
    return job


def _cancel(job: Job, *, detach: bool) -> Progress:
    progress = job.cancel()
    if detach:
        return progress
    try:
        return job.wait(timeout=CANCEL_PATIENCE)
    except JobNotReadyError:
        raise JobNotReadyError(
            f"job {job.id} was asked to end and has not done so within {CANCEL_PATIENCE:g} s; "
            f"`pacs-tasks status {job.id}` shows when it has"
        ) from None


def _ending(job: Job, progress: Progress) -> dict[str, object]:
    """What the JSON document of a job says about its end: the outcome or the error, once there is one."""
    if not progress.state.finished:
        return {}
    try:
        outcome = job.outcome()
    except JobNotFoundError:
        raise
    except (PacsTasksError, JobError) as error:
        return {
            "error": {"type": type(error).__name__, "message": error.message, "subject": error.subject},
            "outcome_exit_code": of_error(error),
        }
    return {"outcome": outcome_document(outcome), "outcome_exit_code": of_outcome(outcome)}
