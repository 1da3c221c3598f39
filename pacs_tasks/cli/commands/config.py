"""The command about the keys that encrypt what is private in Redis."""

from __future__ import annotations

import click

from pacs_tasks.cli.invocation import ADDRESS, Invocation, command
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.errors import ConfigurationError


@command("config", "pacs-tasks config new-key", "pacs-tasks config rotate-keys", without=(*ADDRESS, "detach"))
@click.argument("action", type=click.Choice(["new-key", "rotate-keys"]), metavar="new-key|rotate-keys")
def config(invocation: Invocation, action: str) -> int:
    """Make a key for PACS_TASKS_ENCRYPTION_KEYS, or encrypt the keys of all jobs with the first of these keys."""
    return _new_key(invocation) if action == "new-key" else _rotate_keys(invocation)


def _new_key(invocation: Invocation) -> int:
    from pacs_tasks.sealing import new_key

    terminal, key = invocation.terminal, new_key()
    if terminal.json:
        terminal.document({"key": key, "exit_code": ExitCode.DONE})
    else:
        terminal.line(key)
    return ExitCode.DONE


def _rotate_keys(invocation: Invocation) -> int:
    """Exit with 3 if some jobs have a key that is missing here."""
    from pacs_tasks.client import PacsClient
    from pacs_tasks.ledger.seals import rotate

    if not invocation.settings.keys:
        raise ConfigurationError(
            "There is no key to encrypt with. Set PACS_TASKS_ENCRYPTION_KEYS to the new key and the old ones, the new "
            "one first."
        )
    with PacsClient(config=invocation.settings) as client:
        found = rotate(client.ledger.client)
    terminal, code = invocation.terminal, ExitCode.PARTIAL if found.missing else ExitCode.DONE
    if terminal.json:
        terminal.document({**found._asdict(), "exit_code": code})
        return code
    terminal.say(f"Jobs that have the first key now: {found.rotated}. Jobs that had it already: {found.current}.")
    if found.plain:
        terminal.say(f"Jobs that are not encrypted: {found.plain}. They expire by PACS_TASKS_KEEP_JOBS.")
    if found.missing:
        terminal.complain(
            f"Jobs that are encrypted with a key that is missing here: {found.missing}. Add it to "
            "PACS_TASKS_ENCRYPTION_KEYS."
        )
    return code
