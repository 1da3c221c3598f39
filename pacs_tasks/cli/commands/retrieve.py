"""The command that retrieves."""

from __future__ import annotations

from collections.abc import Mapping

import click

from pacs_tasks.cli.declarations import command, root_option, transfer_options
from pacs_tasks.cli.input.values import ACCESSION_NUMBER, LAYOUT, PATIENT_ID, UID, UIDs, absolute, local_output
from pacs_tasks.cli.invocation import Invocation

#: The columns of a batch file, and the fields of a selection that they fill.
COLUMNS: Mapping[str, str] = {
    "StudyInstanceUID": "study_uid",
    "SeriesInstanceUID": "series_uid",
    "SOPInstanceUID": "sop_instance_uids",
    "AccessionNumber": "accession_number",
    "PatientID": "patient_id",
}
#: Those that are not needed beside the UIDs of a study.
_BESIDE_A_STUDY = ("AccessionNumber", "PatientID")


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
    _check(fields, batch)
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


def _check(fields: Mapping[str, object], batch: str | None) -> None:
    if batch is not None and any(fields[name] for name in COLUMNS.values()):
        raise click.UsageError("--batch names everything to retrieve. Leave out the other UIDs and numbers.")
    if batch is None and not any(fields[name] for name in ("study_uid", "accession_number", "patient_id")):
        raise click.UsageError(
            "Nothing to retrieve is named. Name a study with --study-uid or --accession-number, a patient with "
            "--patient-id, or many with --batch."
        )
