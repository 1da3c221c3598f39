"""The command about messages that no worker serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pacs_tasks.cli.declarations import ADDRESS, command
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import ExitCode

if TYPE_CHECKING:
    from pacs_tasks.messages.dead_letters import DeadLetter, DeadLetters


@command(
    "dead-letters",
    "pacs-tasks dead-letters",
    "pacs-tasks dead-letters 5f1c --content",
    "pacs-tasks dead-letters 5f1c --delete",
    without=(*ADDRESS, "detach"),
)
@click.argument("letter_id", metavar="[ID]", required=False)
@click.option("--content", is_flag=True, help="Show the message too. It may contain patient data.")
@click.option("--delete", is_flag=True, help="Delete this dead letter, or all if there is no id.")
@click.option("--enqueue", is_flag=True, help="Put the message back into its queue, after the cause was corrected.")
def dead_letters(invocation: Invocation, letter_id: str | None, *, content: bool, delete: bool, enqueue: bool) -> int:
    """List the messages that workers refused, with the reasons. None is tried again by itself."""
    from pacs_tasks.client import PacsClient
    from pacs_tasks.messages.dead_letters import DeadLetters

    if letter_id is None and (content or enqueue):
        raise click.UsageError("--content and --enqueue need an id. Run `pacs-tasks dead-letters` to list the ids.")
    if delete and enqueue:
        raise click.UsageError("--delete and --enqueue exclude each other. Leave one out.")
    with PacsClient(config=invocation.settings) as client:
        letters = DeadLetters(client.ledger.client, client.ledger.keep)
        chosen = letters.all() if letter_id is None else [letters.find(letter_id)]
        _show(invocation, chosen, letters, whole=letter_id is not None, content=content)
        for each in chosen:
            if enqueue:
                letters.enqueue_again(each)
            elif delete:
                letters.delete(each)
    return ExitCode.DONE


def _show(
    invocation: Invocation, chosen: list[DeadLetter], letters: DeadLetters, *, whole: bool, content: bool
) -> None:
    terminal = invocation.terminal
    if terminal.json:
        documents: list[dict[str, Any]] = [asdict(each) for each in chosen]
        if content:
            documents[0]["content"] = _text(letters, chosen[0])
        terminal.document({"dead_letters": documents, "exit_code": ExitCode.DONE})
    elif whole:
        terminal.facts(_facts(chosen[0]))
        if content:
            terminal.line(_text(letters, chosen[0]))
    elif chosen:
        terminal.table(_table(chosen))
    else:
        terminal.say("There are no dead letters.")


def _text(letters: DeadLetters, letter: DeadLetter) -> str:
    from pacs_tasks.privacy import plain

    return plain(letters.content(letter).decode("utf-8", "replace"))


def _facts(letter: DeadLetter) -> Iterator[Any]:
    from pacs_tasks.cli.output.terminal import Fact, size, when

    yield Fact("Dead letter", letter.id, "bold")
    yield Fact("Reason", translated(letter.reason))
    yield Fact("Task", letter.task)
    yield Fact("Job", letter.job_id)
    yield Fact("Queue", letter.queue)
    yield Fact("Size", size(letter.size))
    yield Fact("Refused", when(letter.time))


def _table(chosen: list[DeadLetter]) -> Any:
    from pacs_tasks.cli.output.terminal import Table, size, when

    table = Table("Dead letter", "Refused", "Queue", "Task", "Size", "Reason", whole=[0], spare=[4, 2, 3])
    for each in chosen:
        table.add(each.id, when(each.time), each.queue, each.task, size(each.size), translated(each.reason))
    return table
