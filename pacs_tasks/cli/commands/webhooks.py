"""The command about deliveries of webhooks that have not succeeded."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pacs_tasks.cli.declarations import ADDRESS, command
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import ExitCode

if TYPE_CHECKING:
    from pacs_tasks.fleet.webhooks import Delivery


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
    _show(invocation, chosen, retried=action == "retry")
    return ExitCode.DONE


def _new_secret(invocation: Invocation, delivery_id: str | None) -> int:
    import base64
    import os

    from pacs_tasks.settings.values import SECRET

    if delivery_id is not None:
        raise click.UsageError("new-secret takes no id. Leave it out.")
    secret = SECRET + base64.b64encode(os.urandom(32)).decode()
    if invocation.terminal.json:
        invocation.terminal.document({"secret": secret, "exit_code": ExitCode.DONE})
    else:
        invocation.terminal.line(secret)
    return ExitCode.DONE


def _show(invocation: Invocation, chosen: list[Delivery], *, retried: bool) -> None:
    terminal = invocation.terminal
    if terminal.json:
        documents: list[dict[str, Any]] = [{"id": each.id, **asdict(each)} for each in chosen]
        terminal.document({"deliveries": documents, "exit_code": ExitCode.DONE})
    elif retried:
        terminal.say(f"Deliveries that are tried again now: {len(chosen)}.")
    elif chosen:
        terminal.table(_table(chosen))
    else:
        terminal.say("Every event was delivered.")


def _table(chosen: list[Delivery]) -> Any:
    from pacs_tasks.cli.output.terminal import Table, when

    table = Table("Delivery", "Job", "Since", "Tries", "State", "Error", whole=[0, 1], spare=[3, 2])
    for each in chosen:
        state = translated("given up" if each.given_up else "under way")
        table.add(each.id, each.job_id, when(each.time), str(each.tries), state, translated(each.error))
    return table
