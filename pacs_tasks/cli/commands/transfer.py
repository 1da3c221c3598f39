"""The commands that send, and the command that tests the connection."""

from __future__ import annotations

import click

from pacs_tasks.cli.commands.shared import command, transfer_options
from pacs_tasks.cli.input.values import WholeNumber, absolute, local_directory, local_file
from pacs_tasks.cli.invocation import Invocation


@command("echo", "pacs-tasks echo --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS")
def echo(invocation: Invocation) -> int:
    """Test whether the PACS answers and accepts us (C-ECHO)."""
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import EchoRequest, build

    return run(invocation, build(EchoRequest, invocation.address()))


@command("send-file", "pacs-tasks send-file --file image1.dcm --ip 192.168.1.100 --port 11112")
@click.option("--file", "path", required=True, metavar="FILE", help="Send this DICOM file.")
@transfer_options
def send_file(invocation: Invocation, path: str) -> int:
    """Send one DICOM file (C-STORE)."""
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import StoreRequest, build

    # The workers of a fleet may have other storage than this machine. They report whether the file exists.
    found = absolute(path) if invocation.settings.redis_url else local_file(path)
    return run(invocation, build(StoreRequest, {**invocation.transfer(), "path": found}))


@command(
    "send-dir",
    "pacs-tasks send-dir --dir dicom_files --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS",
    "pacs-tasks send-dir --dir dicom_files --dry-run",
)
@click.option("--dir", "directory", required=True, metavar="DIR", help="Send the DICOM files below this directory.")
@click.option(
    "--files-per-task",
    type=WholeNumber(1, 100_000),
    metavar="N",
    envvar="PACS_TASKS_FILES_PER_TASK",
    show_envvar=True,
    show_default="by the size of the directory",
    help="Send this many files in one task.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Send nothing. Count the files, classes and transfer syntaxes, and show which of them the PACS accepts.",
)
@transfer_options
def send_dir(invocation: Invocation, directory: str, files_per_task: int | None, dry_run: bool) -> int:
    """Send every DICOM file below a directory (C-STORE). Files are recognised by their content, not by their name."""
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import PreflightRequest, StoreDirectoryRequest, build

    found = absolute(directory) if invocation.settings.redis_url else local_directory(directory)
    if dry_run:
        return run(invocation, build(PreflightRequest, {**invocation.address(), "directory": found}))
    fields = {"directory": found, "files_per_task": files_per_task or invocation.settings.files_per_task}
    return run(invocation, build(StoreDirectoryRequest, {**invocation.transfer(), **fields}))
