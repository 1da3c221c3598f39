"""The commands about other services: the tokens of those that call the HTTP API, the events that they are sent, the
messages of theirs that workers refused, and the contract with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pacs_tasks.cli.declarations import ADDRESS, command
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.output.terminal import Fact, Table, size, when
from pacs_tasks.privacy import plain

if TYPE_CHECKING:
    from pacs_tasks.fleet.webhooks import Delivery
    from pacs_tasks.ledger.tokens import Tokens
    from pacs_tasks.messages.dead_letters import DeadLetter, DeadLetters

#: The values of ``ledger.tokens.Scope``, whose import would delay the start of every command.
_SCOPES = ("read", "submit", "admin", "patients")


@command(
    "token",
    "pacs-tasks token new reporting --scope read --scope submit",
    "pacs-tasks token list",
    "pacs-tasks token revoke reporting",
    without=(*ADDRESS, "detach"),
)
@click.argument("action", type=click.Choice(["new", "list", "revoke"]), metavar="new|list|revoke")
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    help="What a new token may do. patients: see patient data, which no other scope includes.",
)
def token(invocation: Invocation, action: str, name: str | None, scopes: tuple[str, ...]) -> int:
    """Make, list or revoke the tokens that the HTTP API accepts. A new token is shown once."""
    from pacs_tasks.client import PacsClient
    from pacs_tasks.ledger.tokens import Tokens

    if (name is None) != (action == "list"):
        raise click.UsageError("Name the token." if name is None else "`token list` lists all tokens; name none.")
    if bool(scopes) != (action == "new"):
        raise click.UsageError("A new token needs at least one --scope, and no other action has any.")
    with PacsClient(config=invocation.settings) as client:
        tokens = Tokens(client.ledger.client)
        return _list(invocation, tokens) if name is None else _act(invocation, tokens, name, scopes)


def _act(invocation: Invocation, tokens: Tokens, name: str, scopes: tuple[str, ...]) -> int:
    """Make a token with these scopes; without any, revoke it."""
    from pacs_tasks.ledger.tokens import Scope

    terminal = invocation.terminal
    document: dict[str, object] = {"name": name}
    if scopes:
        document["token"] = made = tokens.new(name, [Scope(each) for each in scopes])
        if not terminal.json:
            terminal.line(made)
            terminal.say("Keep this token now: nobody can show it again.")
    else:
        tokens.revoke(name)
        terminal.say(f"Token {name} revoked.")
    return terminal.end(document)


def _list(invocation: Invocation, tokens: Tokens) -> int:
    found, table = tokens.all(), Table("Token", "Scopes", "Created")
    for each in found:
        table.add(each.name, ", ".join(sorted(each.scopes)), when(each.created))
    documents = [{"name": each.name, "scopes": sorted(each.scopes), "created": each.created} for each in found]
    return invocation.terminal.listing("tokens", documents, table, "There are no tokens.")


@command(
    "webhooks",
    "pacs-tasks webhooks list",
    "pacs-tasks webhooks retry",
    "pacs-tasks webhooks retry evt_5f1c",
    "pacs-tasks webhooks new-secret",
    without=(*ADDRESS, "detach"),
)
@click.argument("action", type=click.Choice(["list", "retry", "new-secret"]), metavar="list|retry|new-secret")
@click.argument("delivery_id", metavar="[ID]", required=False)
def webhooks(invocation: Invocation, action: str, delivery_id: str | None) -> int:
    """List the deliveries that have not succeeded, try one or all that were given up again, or make a secret."""
    if action == "new-secret":
        return _new_secret(invocation, delivery_id)
    from pacs_tasks.client import PacsClient
    from pacs_tasks.fleet.webhooks import Webhooks

    with PacsClient(config=invocation.settings) as client:
        found = Webhooks(client.ledger.client)
        if delivery_id is not None:
            chosen = [found.find(delivery_id)]
        else:
            chosen = [each for each in found.all() if action == "list" or each.given_up]
        for each in chosen if action == "retry" else ():
            found.retry(each)
    terminal = invocation.terminal
    if action == "retry" and not terminal.json:
        terminal.say(f"Deliveries that are tried again now: {len(chosen)}.")
        return ExitCode.DONE
    documents = ({"id": each.id, **asdict(each)} for each in chosen)
    return terminal.listing("deliveries", documents, _delivery_table(chosen), "Every event was delivered.")


def _new_secret(invocation: Invocation, delivery_id: str | None) -> int:
    import base64
    import os

    from pacs_tasks.settings.values import SECRET

    if delivery_id is not None:
        raise click.UsageError("new-secret takes no id. Leave it out.")
    return invocation.terminal.value("secret", SECRET + base64.b64encode(os.urandom(32)).decode())


def _delivery_table(chosen: list[Delivery]) -> Table:
    table = Table("Delivery", "Job", "Since", "Tries", "State", "Error", whole=[0, 1], spare=[3, 2])
    for each in chosen:
        state = translated("given up" if each.given_up else "under way")
        table.add(each.id, each.job_id, when(each.time), str(each.tries), state, translated(each.error))
    return table


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
    if whole and not terminal.json:
        terminal.facts(_facts(chosen[0]))
        if content:
            terminal.line(_text(letters, chosen[0]))
        return
    documents: list[dict[str, Any]] = [asdict(each) for each in chosen]
    if content:
        documents[0]["content"] = _text(letters, chosen[0])
    terminal.listing("dead_letters", documents, _letter_table(chosen), "There are no dead letters.")


def _text(letters: DeadLetters, letter: DeadLetter) -> str:
    return plain(letters.content(letter).decode("utf-8", "replace"))


def _facts(letter: DeadLetter) -> Iterator[Fact]:
    yield Fact("Dead letter", letter.id, "bold")
    yield Fact("Reason", translated(letter.reason))
    yield Fact("Task", letter.task)
    yield Fact("Job", letter.job_id)
    yield Fact("Queue", letter.queue)
    yield Fact("Size", size(letter.size))
    yield Fact("Refused", when(letter.time))


def _letter_table(chosen: list[DeadLetter]) -> Table:
    table = Table("Dead letter", "Refused", "Queue", "Task", "Size", "Reason", whole=[0], spare=[4, 2, 3])
    for each in chosen:
        table.add(each.id, when(each.time), each.queue, each.task, size(each.size), translated(each.reason))
    return table


@command("schema", "pacs-tasks schema", "pacs-tasks schema pacs_tasks.store_directory", without=(*ADDRESS, "detach"))
@click.argument("name", metavar="[NAME]", required=False)
def schema(invocation: Invocation, name: str | None) -> int:
    """Print the JSON Schema of all requests, outcomes and events, or of the one with this name or task."""
    from pacs_tasks.schema import document, names, schema_of

    found = document() if name is None else schema_of(name)
    if found is None:
        raise click.UsageError(f"There is no schema {name!r}. Name a task or one of {', '.join(names())}.")
    invocation.terminal.document(found)
    return ExitCode.DONE
