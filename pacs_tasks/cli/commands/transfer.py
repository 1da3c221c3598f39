"""The commands that send, and the one that only asks whether the peer is there."""

from __future__ import annotations

import click

from pacs_tasks.cli.commands.options import transfer_options
from pacs_tasks.cli.commands.shared import command
from pacs_tasks.cli.input.paths import absolute, local_directory, local_file
from pacs_tasks.cli.input.values import WholeNumber
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.running import run
from pacs_tasks.request import (
    EchoRequest,
    PreflightRequest,
    StoreDirectoryRequest,
    StoreRequest,
    build,
)


@command("echo", "pacs-tasks echo --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS")
def echo(invocation: Invocation) -> int:
    """Ask whether the PACS is there and accepts us (C-ECHO)."""
    return run(invocation, build(EchoRequest, invocation.address()))


@command("send-file", "pacs-tasks send-file --file image1.dcm --ip 192.168.1.100 --port 11112")
@click.option("--file", "path", required=True, metavar="FILE", help="The DICOM file to send.")
@transfer_options
def send_file(invocation: Invocation, path: str) -> int:
    """Send one DICOM file (C-STORE)."""
    # The workers of a fleet may have another storage than this machine: they say whether the file is there.
    found = absolute(path) if invocation.settings.redis_url else local_file(path)
    return run(invocation, build(StoreRequest, {**invocation.transfer(), "path": found}))


@command(
    "send-dir",
    "pacs-tasks send-dir --dir dicom_files --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS",
    "pacs-tasks send-dir --dir dicom_files --dry-run",
)
@click.option("--dir", "directory", required=True, metavar="DIR", help="The directory with the DICOM files.")
@click.option(
    "--files-per-task",
    type=WholeNumber(1, 100_000),
    metavar="N",
    envvar="PACS_TASKS_FILES_PER_TASK",
    show_envvar=True,
    show_default="by the size of the directory",
    help="Files that one task sends.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Send nothing: count the files, classes and transfer syntaxes, and ask what the PACS accepts.",
)
@transfer_options
def send_dir(invocation: Invocation, directory: str, files_per_task: int | None, dry_run: bool) -> int:
    """Send every DICOM file below a directory (C-STORE), known by its content, not by its name."""
    found = absolute(directory) if invocation.settings.redis_url else local_directory(directory)
    if dry_run:
        return run(invocation, build(PreflightRequest, {**invocation.address(), "directory": found}))
    # A size that the settings file gives serves as well as the environment's.
    size = files_per_task or invocation.settings.files_per_task
    fields = {"directory": found, "files_per_task": size}
    return run(invocation, build(StoreDirectoryRequest, {**invocation.transfer(), **fields}))
