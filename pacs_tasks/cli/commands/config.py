"""The command about the settings: it checks them, and makes and changes the keys that encrypt."""

from __future__ import annotations

import click

from pacs_tasks.cli.declarations import ADDRESS, command, refuse
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.privacy import plain


@command(
    "config",
    "pacs-tasks config check",
    "pacs-tasks config new-key",
    "pacs-tasks config rotate-keys",
    without=(*(each for each in ADDRESS if each != "remote"), "detach"),
)
@click.argument("action", type=click.Choice(["check", "new-key", "rotate-keys"]), metavar="check|new-key|rotate-keys")
def config(invocation: Invocation, action: str) -> int:
    """Check the settings, the Redis and each remote (or --remote), or make and change the keys that encrypt.

    `new-key` makes a key for PACS_TASKS_ENCRYPTION_KEYS, and `rotate-keys` encrypts the keys of all jobs with the first
    of these keys.
    """
    if action == "check":
        return _check(invocation)
    refuse(invocation, ["remote"], f"on `config {action}`")
    return _new_key(invocation) if action == "new-key" else _rotate_keys(invocation)


def _check(invocation: Invocation) -> int:
    """Print a row for each check; the exit code is 3 if only some remotes failed, and that of the failure otherwise."""
    from pacs_tasks.cli.output.terminal import Cell, Table
    from pacs_tasks.cli.stack.checks import Result, exit_code, run_checks

    terminal = invocation.terminal
    checks = list(run_checks(invocation.settings, invocation.option("remote")))
    code = exit_code(checks)
    if terminal.json:
        rows = [
            {"check": each.name, "result": str(each.result), "detail": each.detail, **each.facts} for each in checks
        ]
        return terminal.end({"checks": rows}, code)
    shown = {
        Result.OK: Cell(translated("ok"), "green"),
        Result.REMARK: Cell(translated("remark"), "yellow"),
        Result.FAILED: Cell(translated("failed"), "red"),
    }
    table = Table("Check", "Result", "Details", whole=[0, 1])
    for each in checks:
        table.add(plain(each.name), shown[each.result], plain(each.detail))
    terminal.table(table)
    return code


def _new_key(invocation: Invocation) -> int:
    from pacs_tasks.sealing import new_key

    return invocation.terminal.value("key", new_key())


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
        return terminal.end(found._asdict(), code)
    terminal.say(f"Jobs that have the first key now: {found.rotated}. Jobs that had it already: {found.current}.")
    if found.plain:
        terminal.say(f"Jobs that are not encrypted: {found.plain}. They expire by PACS_TASKS_KEEP_JOBS.")
    if found.missing:
        terminal.complain(
            f"Jobs that are encrypted with a key that is missing here: {found.missing}. Add it to "
            "PACS_TASKS_ENCRYPTION_KEYS."
        )
    return code
