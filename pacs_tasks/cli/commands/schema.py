"""The command about the contract with other programs."""

from __future__ import annotations

import click

from pacs_tasks.cli.declarations import ADDRESS, command
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode


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
