"""The way of every command that asks a peer: enqueue, wait, show, exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pacs_tasks import embedded
from pacs_tasks.cli.commands.shared import later
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output import advice
from pacs_tasks.cli.output.exit_codes import ExitCode, of_outcome
from pacs_tasks.cli.output.progress import view
from pacs_tasks.cli.output.render import outcome_document, show_outcome, words_of
from pacs_tasks.client import PacsClient
from pacs_tasks.client.job import Job
from pacs_tasks.errors import ConfigurationError, JobNotReadyError
from pacs_tasks.outcome import Outcome, TransferOutcome
from pacs_tasks.outcome.progress import JobState, Progress
from pacs_tasks.request import AnyRequest, FindBatchRequest, RetrieveRequest
from pacs_tasks.settings import Settings

logger = logging.getLogger("pacs_tasks.cli")

#: Seconds that a cancelled job has to end while somebody waits for it.
CANCEL_PATIENCE = 20.0


def run(invocation: Invocation, request: AnyRequest) -> int:
    """Enqueue ``request`` and, unless detached, wait for its outcome and show it.

    Raises
    ------
    PacsTasksError
        If there is no outcome.
    """
    with PacsClient(config=invocation.settings) as client:
        return submit(invocation, client, request)


def submit(invocation: Invocation, client: PacsClient, request: AnyRequest) -> int:
    """What :func:`run` does, for a command that has its client already."""
    job = client.enqueue(request, invocation.option("key"))
    logger.info("%s to %s: job %s enqueued", words_of(request.task).command, request.remote, job.id)
    invocation.job_id, invocation.task = job.id, request.task
    if invocation.detach:
        return announce(invocation, job)
    return follow(invocation, job, request)


def announce(invocation: Invocation, job: Job) -> int:
    """Print the job's id, and nothing else, on stdout."""
    if invocation.terminal.json:
        invocation.terminal.document({"job_id": job.id, "exit_code": ExitCode.DONE})
    else:
        invocation.terminal.line(job.id)
    return ExitCode.DONE


def follow(invocation: Invocation, job: Job, request: AnyRequest) -> int:
    """Wait for a job that this command began, and show its outcome. Ctrl-C cancels the job.

    Raises
    ------
    PacsTasksError
        If there is no outcome.
    JobNotReadyError
        If it was cancelled and does not end.
    """
    terminal = invocation.terminal
    invocation.job_id, invocation.task = job.id, request.task
    try:
        # A worker may be at it before there is a view.
        with view(terminal, words_of(request.task).command) as shown:
            last = job.wait(on_progress=watch(invocation.settings, shown.update))
    except KeyboardInterrupt:
        terminal.say(f"Cancelling job {job.id} (Ctrl-C once more leaves without waiting for its end)")
        last = _cancel(job)
    return report(invocation, job, request, last)


def watch(settings: Settings, update: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Pass looks on to ``update``, and end the waiting for a private worker that cannot work.

    The function raises :class:`ConfigurationError` then.
    """

    def look(progress: Progress) -> None:
        update(progress)
        # The worker of a fleet may come at any time; the private one has said why it does not.
        if settings.redis_url is None and progress.state is JobState.QUEUED and (why := embedded.failure(settings)):
            raise ConfigurationError(f"job {progress.job_id} stays on the queue: {why}")

    return look


def report(invocation: Invocation, job: Job, request: AnyRequest, progress: Progress) -> int:
    """Show and log the outcome of a job, and say what to check if it is not all done.

    Raises
    ------
    PacsTasksError
        If there is none.
    """
    outcome = job.outcome()
    terminal, code = invocation.terminal, of_outcome(outcome)
    forwarded = isinstance(request, RetrieveRequest) and request.to is not None
    hint = advice.for_outcome(request.task, outcome, progress.job_id, forwarded=forwarded)
    if terminal.json:
        document = {
            "job_id": progress.job_id,
            "task": progress.task,
            **outcome_document(outcome),
            "advice": hint,
            "exit_code": code,
        }
        if isinstance(request, FindBatchRequest):
            later("output.batch_results", "write_document")(terminal, document, job.matches())
        else:
            terminal.document(document)
    elif isinstance(request, FindBatchRequest) and isinstance(outcome, TransferOutcome):
        later("output.batch_results", "show")(terminal, request, outcome, job.matches())
    else:
        show_outcome(terminal, request, outcome)
    if hint:
        terminal.say(f"What next: {hint}.")
    log_outcome(logger, progress, outcome)
    return code


def log_outcome(log: logging.Logger, progress: Progress, outcome: Outcome) -> None:
    """Log how a job ended: ids of jobs, counts and statuses only."""
    summary = ", ".join(f"{name} {_number(value)}" for name, value in outcome.summary().items())
    bad = of_outcome(outcome) is not ExitCode.DONE
    log.log(
        logging.ERROR if bad else logging.INFO,
        "%s to %s: job %s ended: %s", words_of(progress.task).command, progress.remote, progress.job_id, summary,
    )  # fmt: skip


def _cancel(job: Job) -> Progress:
    job.cancel()
    try:
        return job.wait(timeout=CANCEL_PATIENCE)
    except JobNotReadyError:
        raise JobNotReadyError(
            f"job {job.id} was asked to end and has not done so within {CANCEL_PATIENCE:g} s; "
            f"`pacs-tasks status {job.id}` shows when it has, `pacs-tasks retry {job.id}` goes on with the rest"
        ) from None


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
