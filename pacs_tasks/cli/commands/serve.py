"""The commands about the HTTP API: the process that serves it, and the tokens that it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pacs_tasks.cli.declarations import ADDRESS, command
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode

if TYPE_CHECKING:
    from pacs_tasks.ledger.tokens import Tokens

#: The values of ``ledger.tokens.Scope``, whose import would delay the start of every command.
_SCOPES = ("read", "submit", "admin", "patients")


@command("serve", "PACS_TASKS_REDIS_URL=redis://192.168.1.10:6379/0 pacs-tasks serve", without=("remote", "detach"))
def serve(invocation: Invocation) -> int:
    """Run the HTTP API, by which services enqueue jobs, and the console, which shows them in a browser."""
    from pacs_tasks.cli.stack.services import run_serve

    return run_serve(invocation.settings)


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
        return _act(invocation, Tokens(client.ledger.client), action, name or "", scopes)


def _act(invocation: Invocation, tokens: Tokens, action: str, name: str, scopes: tuple[str, ...]) -> int:
    from pacs_tasks.ledger.tokens import Scope

    terminal = invocation.terminal
    document: dict[str, object] = {"name": name}
    if action == "new":
        document["token"] = made = tokens.new(name, [Scope(each) for each in scopes])
        if not terminal.json:
            terminal.line(made)
            terminal.say("Keep this token now: nobody can show it again.")
    elif action == "revoke":
        tokens.revoke(name)
        terminal.say(f"Token {name} revoked.")
    else:
        document = {"tokens": _list(invocation, tokens)}
    if terminal.json:
        terminal.document({**document, "exit_code": ExitCode.DONE})
    return ExitCode.DONE


def _list(invocation: Invocation, tokens: Tokens) -> list[dict[str, object]]:
    from pacs_tasks.cli.output.terminal import Table, when

    found, table = tokens.all(), Table("Token", "Scopes", "Created")
    for each in found:
        table.add(each.name, ", ".join(sorted(each.scopes)), when(each.created))
    if not invocation.terminal.json:
        if found:
            invocation.terminal.table(table)
        else:
            invocation.terminal.say("There are no tokens.")
    return [{"name": each.name, "scopes": sorted(each.scopes), "created": each.created} for each in found]
