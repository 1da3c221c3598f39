"""The commands that prove what was sent: ask the PACS for it, and write a receipt for each instance."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import click

from pacs_tasks.cli.commands.shared import command
from pacs_tasks.cli.input.values import Seconds
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.running import submit
from pacs_tasks.client import PacsClient
from pacs_tasks.client.job import Job
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.receipts import Receipt
from pacs_tasks.request import CommitRequest, VerifyRequest, build

#: Receipts that are written at once.
_CHUNK = 1_000

Write = Callable[[str], object]


@command(
    "verify",
    "pacs-tasks verify 1f3870be274f6c49b3e31a0c6728957f",
    "pacs-tasks verify 1f3870be274f6c49b3e31a0c6728957f --commit --commit-timeout 300",
)
@click.argument("job_id", metavar="ID")
@click.option(
    "--commit",
    is_flag=True,
    help="Ask for storage commitment instead: the PACS answers for each instance from now on, or says why not.",
)
@click.option(
    "--commit-timeout",
    "patience",
    type=Seconds(0, 86_400),
    metavar="SECONDS",
    envvar="PACS_TASKS_COMMIT_TIMEOUT",
    show_envvar=True,
    show_default="60",
    help="Longest wait for the next report of the PACS; what comes later is noted.",
)
def verify(invocation: Invocation, job_id: str, commit: bool, patience: float | None) -> int:
    """Ask the PACS whether it holds each instance that a job has sent (C-FIND at IMAGE level).

    It is the PACS that the job sent to, unless an option names another one.
    """
    with PacsClient(config=invocation.settings) as client:
        fields = {**invocation.address_of(_find(invocation, client, job_id).request()), "job_id": job_id}
        if not commit:
            return submit(invocation, client, build(VerifyRequest, fields))
        # A limit that the settings file gives serves as well as the environment's.
        limit = invocation.settings.commit_timeout if patience is None else patience
        return submit(invocation, client, build(CommitRequest, {**fields, "patience": limit}))


@command("report", "pacs-tasks report 1f3870be274f6c49b3e31a0c6728957f --format csv --output receipts.csv")
@click.argument("job_id", metavar="ID")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["jsonl", "csv"], case_sensitive=False),
    default="jsonl",
    show_default=True,
    help="A JSON object on each line, or CSV.",
)
@click.option("--output", metavar="FILE", show_default="stdout", help="Where the receipts go.")
def report(invocation: Invocation, job_id: str, output_format: str, output: str | None) -> int:
    """Write a receipt for each file or instance of a job that sends or retrieves."""
    terminal = invocation.terminal
    if terminal.json and output is None:
        raise click.UsageError("receipts are many lines, not one JSON document; name a file for them with --output")
    lines = _csv if output_format == "csv" else _jsonl
    with PacsClient(config=invocation.settings) as client:
        receipts = _find(invocation, client, job_id).receipts()
        if output is None:
            _write(lines(receipts), terminal.write)
            return ExitCode.DONE
        count = _Counted(receipts)
        with _file(output) as write:
            _write(lines(count), write)
    if terminal.json:
        terminal.document({"job_id": job_id, "receipts": count.seen, "output": output, "exit_code": ExitCode.DONE})
    else:
        terminal.say(f"{count.seen} receipts in {output}.")
    return ExitCode.DONE


def _find(invocation: Invocation, client: PacsClient, job_id: str) -> Job:
    """The job, or :class:`JobNotFoundError`."""
    invocation.job_id = job_id
    return client.job(job_id)


class _Counted:
    """Receipts on their way, and how many have passed."""

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        self._receipts = receipts
        self.seen = 0

    def __iter__(self) -> Iterator[Receipt]:
        for receipt in self._receipts:
            self.seen += 1
            yield receipt


def _jsonl(receipts: Iterable[Receipt]) -> Iterator[str]:
    for receipt in receipts:
        yield json.dumps(receipt.model_dump(), ensure_ascii=False) + "\n"


def _csv(receipts: Iterable[Receipt]) -> Iterator[str]:
    """A line of names, then one line per receipt (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Receipt.model_fields)
    for receipt in receipts:
        yield _taken(text)
        writer.writerow(receipt.model_dump().values())
    yield _taken(text)


def _taken(text: io.StringIO) -> str:
    content = text.getvalue()
    text.seek(0)
    text.truncate()
    return content


def _write(lines: Iterator[str], write: Write) -> None:
    while chunk := "".join(islice(lines, _CHUNK)):
        write(chunk)


@contextmanager
def _file(output: str) -> Iterator[Write]:
    """Write to a file that has its name when it is whole: half a list of receipts would look like a whole one.

    Raises
    ------
    PacsTasksError
        If it cannot be written.
    """
    target = Path(output).expanduser()
    # A pipe or a device is written to as it is.
    direct = target.exists() and not target.is_file()
    path = target if direct else target.parent / f".{secrets.token_hex(8)}.part"
    try:
        try:
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                yield file.write
            if not direct:
                path.replace(target)
        except BaseException:
            if not direct:
                path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PacsTasksError(
            f"the receipts cannot be written ({error.strerror}); make room, or name another --output",
            os.fspath(target),
        ) from None
