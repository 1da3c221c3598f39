"""The life of a job as a command sees it: enqueue, wait, show the outcome, exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from pacs_tasks import embedded
from pacs_tasks.cli import interrupt
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.jobs import view
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.cli.output.view import command_of
from pacs_tasks.client import Job, PacsClient
from pacs_tasks.errors import ConfigurationError, JobNotReadyError
from pacs_tasks.ledger.finding import LAST
from pacs_tasks.outcome import Category, JobState, Outcome, Progress
from pacs_tasks.request import AnyRequest
from pacs_tasks.settings import Settings

logger = logging.getLogger("pacs_tasks.cli")

#: Seconds that a cancelled job has to end while a command waits for it.
CANCEL_PATIENCE = 20.0
#: Seconds on the queue after which a person is told that there is no worker.
NO_WORKER = 5.0


def run(invocation: Invocation, request: AnyRequest, key: str | None = None) -> int:
    """Enqueue ``request`` and, unless detached, wait for its outcome and show it.

    ``key`` is that of the job. None: as the command line says.

    Raises
    ------
    PacsTasksError
        If there is no outcome.
    """
    with PacsClient(config=invocation.settings) as client:
        return submit(invocation, client, request, key)


def submit(invocation: Invocation, client: PacsClient, request: AnyRequest, key: str | None = None) -> int:
    """Do the same as :func:`run` with an open client."""
    interrupt.expect_job()
    job = client.enqueue(request, key or invocation.option("key"))
    logger.info("%s to %s: job %s enqueued", command_of(request.task), request.remote, job.id)
    invocation.job_id, invocation.task = job.id, request.task
    return follow(invocation, job, request)


@contextmanager
def open_job(invocation: Invocation, named: str, tasks: Collection[str] = ()) -> Iterator[Job]:
    """Connect to the Redis and find a job as :func:`find_job` does."""
    with PacsClient(config=invocation.settings) as client:
        yield find_job(invocation, client, named, tasks)


def find_job(invocation: Invocation, client: PacsClient, named: str, tasks: Collection[str] = ()) -> Job:
    """Find a job by its id, a unique beginning of it, or ``last``: the newest one of these tasks, which is shown.

    Raises
    ------
    JobNotFoundError
        If there is none.
    InvalidRequestError
        If several ids begin so.
    """
    invocation.job_id = named
    job = client.find(named, tasks)
    progress = job.progress()
    invocation.job_id, invocation.task = job.id, progress.task
    if named == LAST:
        invocation.terminal.say(f"The last job is {job.id} ({command_of(progress.task)}, {progress.remote}).")
    return job


def follow(invocation: Invocation, job: Job, request: AnyRequest) -> int:
    """Wait for a job of this command and show its outcome, or only print its id if detached. Ctrl-C cancels the job.

    Raises
    ------
    PacsTasksError
        If there is no outcome.
    JobNotReadyError
        If the job was cancelled and does not end.
    """
    terminal = invocation.terminal
    if invocation.detach:
        return terminal.value("job_id", job.id)
    interrupt.expect_job()
    try:
        # A worker may have begun before there is a view.
        with view(terminal, command_of(request.task)) as shown:
            last = job.wait(on_progress=watch(invocation.settings, shown.update), check_after=NO_WORKER)
    except KeyboardInterrupt:
        terminal.say(f"Cancelling job {job.id}. Press Ctrl-C again to leave without waiting for its end.")
        last = _cancel(job)
    return report(invocation, job, request, last)


def watch(settings: Settings, update: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Pass the progress on to ``update``, and stop waiting for a private worker that cannot start.

    The returned function raises :class:`ConfigurationError` then.
    """

    def update_and_check(progress: Progress) -> None:
        update(progress)
        # A worker of a fleet may come at any time. The private worker has recorded why it does not.
        if settings.redis_url is None and progress.state is JobState.QUEUED and (why := embedded.failure(settings)):
            raise ConfigurationError(f"Job {progress.job_id} stays on the queue. {why}")

    return update_and_check


def report(invocation: Invocation, job: Job, request: AnyRequest, progress: Progress) -> int:
    """Show and log the outcome of a job, with advice unless everything is done.

    Raises
    ------
    PacsTasksError
        If there is no outcome.
    """
    outcome = job.outcome()
    terminal, shown = invocation.terminal, view_of(request.task, outcome, request, job)
    if terminal.json:
        head = {"job_id": progress.job_id, "task": progress.task}
        tail = {"advice": shown.advice, "exit_code": shown.exit_code}
        shown.write_document(terminal, {**head, **shown.document(), **tail})
    else:
        shown.show(terminal)
    if shown.advice:
        terminal.say(shown.advice)
    log_outcome(logger, progress, outcome)
    return shown.exit_code


def log_outcome(log: logging.Logger, progress: Progress, outcome: Outcome) -> None:
    """Log the end of a job, with its id, counts and statuses only."""
    summary = ", ".join(f"{name} {_number(value)}" for name, value in outcome.summary().items())
    done = outcome.category in {Category.SUCCESS, Category.WARNING}
    log.log(
        logging.INFO if done else logging.ERROR,
        "%s to %s: job %s ended: %s", command_of(progress.task), progress.remote, progress.job_id, summary,
    )  # fmt: skip


def _cancel(job: Job) -> Progress:
    job.cancel()
    try:
        return job.wait(timeout=CANCEL_PATIENCE)
    except JobNotReadyError:
        raise JobNotReadyError(
            f"Job {job.id} was cancelled and has not ended within {CANCEL_PATIENCE:g} s. Run "
            f"`pacs-tasks status {job.id}` to see when it has, then `pacs-tasks retry {job.id}` to continue with the "
            "rest."
        ) from None


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
