"""The commands that verify what a job has sent, and write a receipt for each instance."""

from __future__ import annotations

import click

from pacs_tasks.cli.declarations import ADDRESS, command, excel_option, refuse, root_option
from pacs_tasks.cli.input.values import Seconds
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode


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
    if terminal.json:
        terminal.document({"job_id": job.id, "receipts": count, "output": output, "exit_code": ExitCode.DONE})
    elif count:
        terminal.say(f"1 receipt in {output}." if count == 1 else f"{count} receipts in {output}.")
    return ExitCode.DONE
