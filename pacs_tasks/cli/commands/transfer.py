"""The commands that send and retrieve, and the command that tests the connection."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import click

from pacs_tasks.cli.declarations import command, refuse, root_option, transfer_options
from pacs_tasks.cli.input.values import (
    ACCESSION_NUMBER,
    LAYOUT,
    PATIENT_ID,
    UID,
    UIDs,
    WholeNumber,
    absolute,
    local_directory,
    local_file,
    local_output,
    local_path,
)
from pacs_tasks.cli.invocation import Invocation

#: The path that stands for stdin.
_STDIN = "-"
#: Names of archives, whose files are sent where one file is named.
_ARCHIVE = re.compile(r".+\.(zip|tar(\.(gz|bz2|xz))?|t(gz|bz2?|xz))", re.IGNORECASE)
#: The columns of a batch file of studies, and the fields of a selection that they fill.
COLUMNS: Mapping[str, str] = {
    "StudyInstanceUID": "study_uid",
    "SeriesInstanceUID": "series_uid",
    "SOPInstanceUID": "sop_instance_uids",
    "AccessionNumber": "accession_number",
    "PatientID": "patient_id",
}
#: Those that are not needed beside the UIDs of a study.
_BESIDE_A_STUDY = ("AccessionNumber", "PatientID")


@command("echo", "pacs-tasks echo --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS")
def echo(invocation: Invocation) -> int:
    """Test whether the PACS answers and accepts us (C-ECHO)."""
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import EchoRequest, build

    return run(invocation, build(EchoRequest, invocation.address()))


_Command = Callable[..., int]
_Option = bool | str


_files_per_task = click.option(
    "--files-per-task",
    type=WholeNumber(1, 100_000),
    metavar="N",
    envvar="PACS_TASKS_FILES_PER_TASK",
    show_envvar=True,
    show_default="by the size of the directory",
    help="Send this many files in one task.",
)
_dry_run = click.option(
    "--dry-run",
    is_flag=True,
    help="Send nothing. Count the files, classes and transfer syntaxes, and show which of them the PACS accepts.",
)


def _files(function: _Command) -> _Command:
    """Add the options that say what becomes of damaged files, and of those whose transfer syntax is refused."""
    send_damaged = click.option(
        "--send-damaged", is_flag=True, help="Send a damaged file all the same. Many PACS abort at it."
    )
    repair = click.option(
        "--repair", is_flag=True, help="Pad a last value of odd length while the file is sent (PS3.5 section 7.1.1)."
    )
    transcode = click.option(
        "--transcode",
        type=click.Choice(["never", "uncompressed", "decompress"]),
        default="uncompressed",
        show_default=True,
        help="If the PACS does not accept a file's transfer syntax: convert it between uncompressed ones, decompress "
        "it as well (see the guide for the decoders), or never convert it. The report names each converted file.",
    )
    return send_damaged(repair(transcode(function)))


@command(
    "send",
    "pacs-tasks send image1.dcm dicom_files study.zip --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS",
    "pacs-tasks send s3://bucket/study/ --dry-run",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_files_per_task
@_dry_run
@_files
@transfer_options
def send(
    invocation: Invocation, paths: tuple[str, ...], files_per_task: int | None, dry_run: bool, **options: _Option
) -> int:
    """Send files, directories, archives, objects at URLs, or - for stdin (C-STORE). The content tells what is DICOM."""
    return _send(invocation, paths, options, files_per_task, dry_run=dry_run, local=local_path)


@command("send-file", "pacs-tasks send-file --file image1.dcm --ip 192.168.1.100 --port 11112")
@click.option(
    "--file",
    "paths",
    required=True,
    multiple=True,
    metavar="FILE",
    help="Send this DICOM file, archive (ZIP, tar) or object at a URL, or - for stdin. Repeat the option for several.",
)
@_files
@transfer_options
def send_file(invocation: Invocation, paths: tuple[str, ...], **options: _Option) -> int:
    """Send one DICOM file, or several (C-STORE)."""
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import StoreRequest, build

    if len(set(paths)) > 1 or paths[0] == _STDIN or _ARCHIVE.fullmatch(paths[0]):
        return _send(invocation, paths, options, local=local_file)
    (found,) = _found(invocation, paths, local_file)
    return run(invocation, build(StoreRequest, {**invocation.transfer(), "path": found, **options}))


@command(
    "send-dir",
    "pacs-tasks send-dir --dir dicom_files --ip 192.168.1.100 --port 11112 --pacs-ae-title MY_PACS",
    "pacs-tasks send-dir --dir dicom_files --dry-run",
)
@click.option(
    "--dir",
    "directories",
    required=True,
    multiple=True,
    metavar="DIR",
    help="Send the DICOM files below this directory. Repeat the option for several.",
)
@_files_per_task
@_dry_run
@_files
@transfer_options
def send_dir(
    invocation: Invocation,
    directories: tuple[str, ...],
    files_per_task: int | None,
    dry_run: bool,
    **options: _Option,
) -> int:
    """Send every DICOM file below a directory (C-STORE). Files are recognised by their content, not by their name."""
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import StoreDirectoryRequest, build

    if len(set(directories)) > 1 or dry_run:
        return _send(invocation, directories, options, files_per_task, dry_run=dry_run, local=local_directory)
    (found,) = _found(invocation, directories, local_directory)
    fields = {"directory": found, "files_per_task": files_per_task or invocation.settings.files_per_task}
    return run(invocation, build(StoreDirectoryRequest, {**invocation.transfer(), **fields, **options}))


def _found(invocation: Invocation, paths: Iterable[str], local: Callable[[str], str]) -> tuple[str, ...]:
    """The absolute paths and the URLs, each once.

    The workers of a fleet may have other storage than this machine. They report whether the files exist.
    """
    from pacs_tasks.source import is_url

    found = absolute if invocation.settings.redis_url else local
    return tuple(dict.fromkeys(path if is_url(path) else found(path) for path in paths))


def _send(
    invocation: Invocation,
    paths: tuple[str, ...],
    options: Mapping[str, _Option],
    files_per_task: int | None = None,
    *,
    dry_run: bool = False,
    local: Callable[[str], str],
) -> int:
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import PreflightRequest, StorePathsRequest, build

    if dry_run:
        refuse(invocation, ["files_per_task", "give_up_after", "priority"], "with --dry-run")
    with _spooled(invocation, paths, stays=not dry_run) as (named, key):
        found = _found(invocation, named, local)
        if dry_run:
            return run(invocation, build(PreflightRequest, {**invocation.address(), "paths": found, **options}), key)
        parts = {"files_per_task": files_per_task or invocation.settings.files_per_task}
        request = build(StorePathsRequest, {**invocation.transfer(), "paths": found, **parts, **options})
        return run(invocation, request, key)


@contextmanager
def _spooled(
    invocation: Invocation, paths: tuple[str, ...], *, stays: bool
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Give the paths with stdin as a file, and the key of the job that owns it.

    ``stays`` says that the file belongs to the job once that is enqueued: its worker removes it.
    """
    if _STDIN not in paths:
        yield paths, None
        return
    from pacs_tasks import spool
    from pacs_tasks.client import job_id_of

    refuse(invocation, ["key"], "with -")
    key = os.urandom(16).hex()
    job_id = job_id_of(key)
    file = spool.keep(invocation.settings, job_id, "stdin", sys.stdin.buffer)
    try:
        yield tuple(str(file) if path == _STDIN else path for path in paths), key
    finally:
        if not (invocation.job_id and (stays or invocation.detach)):
            spool.remove(invocation.settings, job_id)


@command(
    "retrieve",
    "pacs-tasks retrieve --study-uid 1.2.3.4.5.6.7.8.9.10 --output-dir downloaded_dicoms --ip 192.168.1.100",
    "pacs-tasks retrieve --batch studies.csv --output-dir downloaded_dicoms",
    "pacs-tasks query --study-date -7d --format csv | pacs-tasks retrieve --batch - --output-dir downloaded_dicoms",
)
@click.option("--study-uid", type=UID, metavar="UID", help="Retrieve the study with this Study Instance UID.")
@click.option("--output-dir", metavar="DIR", help="Write the files to DIR/STUDY/SERIES/INSTANCE.dcm.")
@click.option(
    "--to-remote",
    metavar="NAME",
    help="Have the PACS send everything to this PACS of pacs-tasks.toml instead (C-MOVE), and verify that it arrived.",
)
@click.option("--series-uid", type=UID, metavar="UID", help="Retrieve only this series of the study.")
@click.option(
    "--sop-instance-uid",
    "sop_instance_uids",
    type=UIDs(),
    multiple=True,
    metavar="UID",
    help="Retrieve only this instance of the study, in any series. Repeat the option for several, or write backslashes "
    "between them.",
)
@click.option(
    "--accession-number",
    type=ACCESSION_NUMBER,
    metavar="NUMBER",
    help="Retrieve all studies with this accession number, or only --study-uid of them.",
)
@click.option(
    "--patient-id",
    type=PATIENT_ID,
    metavar="ID",
    help="Retrieve all studies of the patient with this Patient ID, or only those that other options name. Write - "
    "for stdin or @FILE for a file, since every user of this machine can read a command line.",
)
@click.option(
    "--batch",
    metavar="FILE",
    help=f"Retrieve what each row of this CSV file, or of stdin (-), names. Its columns can be {', '.join(COLUMNS)}. "
    "The CSV output of a query will do: other columns are ignored.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "move", "get"], case_sensitive=False),
    default="auto",
    show_default=True,
    help="Use C-MOVE to a receiver, use C-GET, or use C-MOVE if a receiver is running that the PACS knows.",
)
@click.option(
    "--layout",
    type=LAYOUT,
    metavar="TEMPLATE",
    help="Name the files in the output directory by their attributes, such as "
    "{PatientID}/{StudyDate}/{InstanceNumber:05}.",
)
@root_option
@click.option("--overwrite", is_flag=True, help="Re-fetch files that are already complete.")
@transfer_options
def retrieve(
    invocation: Invocation,
    *,
    output_dir: str | None,
    to_remote: str | None,
    batch: str | None,
    layout: str | None,
    sop_instance_uids: tuple[tuple[str, ...], ...],
    **options: object,
) -> int:
    """Retrieve studies to a directory or to another PACS, and compare what arrived with what the PACS lists."""
    from pacs_tasks.cli.input.batch_file import selections
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import RetrieveRequest, build

    fields = {
        **options,
        "sop_instance_uids": tuple(uid for each in sop_instance_uids for uid in each),
        "layout": layout or "",
    }
    _check_selection(fields, batch)
    if (output_dir is None) == (to_remote is None):
        raise click.UsageError("There is no single destination. Name it with --output-dir or --to-remote.")
    if batch is not None:
        fields["selections"], spare = selections(batch, COLUMNS, _BESIDE_A_STUDY)
        if spare:
            invocation.terminal.say(f"A retrieve does not need these columns and ignores them: {', '.join(spare)}.")
    if to_remote is not None:
        fields["to"] = invocation.settings.remote(to_remote)
    if output_dir is not None:
        fields["output_dir"] = absolute(output_dir) if invocation.settings.redis_url else local_output(output_dir)
    return run(invocation, build(RetrieveRequest, {**invocation.transfer(), **fields}))


def _check_selection(fields: Mapping[str, object], batch: str | None) -> None:
    if batch is not None and any(fields[name] for name in COLUMNS.values()):
        raise click.UsageError("--batch names everything to retrieve. Leave out the other UIDs and numbers.")
    if batch is None and not any(fields[name] for name in ("study_uid", "accession_number", "patient_id")):
        raise click.UsageError(
            "Nothing to retrieve is named. Name a study with --study-uid or --accession-number, a patient with "
            "--patient-id, or many with --batch."
        )
