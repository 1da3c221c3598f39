"""The command that retrieves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import click
from pydantic import AfterValidator

from pacs_tasks.cli.commands.options import transfer_options
from pacs_tasks.cli.commands.shared import command
from pacs_tasks.cli.input import batch_file
from pacs_tasks.cli.input.batch_file import Row
from pacs_tasks.cli.input.paths import absolute, local_output
from pacs_tasks.cli.input.values import UID_TEXT, Checked
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.terminal import readable
from pacs_tasks.cli.running import run
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import AccessionNumber, RetrieveMethod, RetrieveRequest, Selection, build
from pacs_tasks.request.template import check

#: Columns of a batch file, and the fields of a selection that they give.
_COLUMNS: Mapping[str, str] = {
    "StudyInstanceUID": "study_uid",
    "SeriesInstanceUID": "series_uid",
    "SOPInstanceUID": "sop_instance_uids",
    "AccessionNumber": "accession_number",
}
_ACCESSION_NUMBER = Checked("accession number", AccessionNumber)
_LAYOUT = Checked("layout", Annotated[str, AfterValidator(check)])


class UIDs(click.ParamType[tuple[str, ...]]):
    """One UID, or several between backslashes, as DICOM writes them (PS3.5 section 6.4)."""

    name = "UID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return (
            value
            if isinstance(value, tuple)
            else tuple(UID_TEXT.convert(each, param, ctx) for each in str(value).split("\\"))
        )


@command(
    "retrieve",
    "pacs-tasks retrieve --study-uid 1.2.3.4.5.6.7.8.9.10 --output-dir downloaded_dicoms --ip 192.168.1.100",
    "pacs-tasks retrieve --batch studies.csv --output-dir downloaded_dicoms",
)
@click.option("--study-uid", type=UID_TEXT, metavar="UID", help="Study Instance UID of the study.")
@click.option("--output-dir", metavar="DIR", help="Where the files go: DIR/STUDY/SERIES/INSTANCE.dcm.")
@click.option(
    "--to-remote",
    metavar="NAME",
    help="Instead, have the PACS send all of it to this peer of pacs-tasks.toml, and ask that what it holds (C-MOVE).",
)
@click.option("--series-uid", type=UID_TEXT, metavar="UID", help="Only this series of it.")
@click.option(
    "--sop-instance-uid",
    "sop_instance_uids",
    type=UIDs(),
    multiple=True,
    metavar="UID",
    help="Only this instance of it, whatever its series; may be repeated, or be several between backslashes.",
)
@click.option(
    "--accession-number",
    type=_ACCESSION_NUMBER,
    metavar="NUMBER",
    help="All studies of this accession number; with --study-uid only that one of them.",
)
@click.option(
    "--batch",
    metavar="FILE",
    help=f"Many at once: a CSV file with any of the columns {', '.join(_COLUMNS)}; one row for each that is wanted.",
)
@click.option(
    "--method",
    type=click.Choice([str(each) for each in RetrieveMethod], case_sensitive=False),
    default=str(RetrieveMethod.AUTO),
    show_default=True,
    help="C-MOVE to a receiver, C-GET, or C-MOVE where a receiver runs that the PACS knows.",
)
@click.option(
    "--layout",
    type=_LAYOUT,
    metavar="TEMPLATE",
    help="How files are called in the output directory, such as {PatientID}/{StudyDate}/{InstanceNumber:05}.",
)
@click.option("--overwrite", is_flag=True, help="Fetch also what is there already, whole.")
@transfer_options
def retrieve(
    invocation: Invocation,
    *,
    study_uid: str | None,
    output_dir: str | None,
    to_remote: str | None,
    series_uid: str | None,
    sop_instance_uids: tuple[tuple[str, ...], ...],
    accession_number: str | None,
    batch: str | None,
    method: str,
    layout: str | None,
    overwrite: bool,
) -> int:
    """Bring studies to a directory, or to another PACS, and compare what arrived with what the PACS lists."""
    named: dict[str, object] = {
        "study_uid": study_uid,
        "series_uid": series_uid,
        "sop_instance_uids": tuple(uid for each in sop_instance_uids for uid in each),
        "accession_number": accession_number,
    }
    _check(named, batch)
    if (output_dir is None) == (to_remote is None):
        raise click.UsageError("name where it goes: with --output-dir, or with --to-remote")
    if batch is not None:
        named = {"selections": selections(batch)}
    fields = {**named, "method": method, "layout": layout or "", "overwrite": overwrite}
    if to_remote is not None:
        fields["to"] = invocation.settings.remote(to_remote)
    if output_dir is not None:
        fields["output_dir"] = absolute(output_dir) if invocation.settings.redis_url else local_output(output_dir)
    return run(invocation, build(RetrieveRequest, {**invocation.transfer(), **fields}))


def _check(named: Mapping[str, object], batch: str | None) -> None:
    if batch is not None:
        if any(named.values()):
            raise click.UsageError("--batch names all that is wanted: leave the other UIDs and numbers out")
        return
    if not named["study_uid"] and not named["accession_number"]:
        raise click.UsageError("name what to retrieve with --study-uid, --accession-number or --batch")


def selections(path: str) -> tuple[Selection, ...]:
    """What the rows of a batch file ask for.

    Raises
    ------
    InvalidRequestError
        If the file, or a row of it, cannot be what is meant; the message says which line.
    """
    return tuple(_selection(row, readable(path)) for row in batch_file.read(path, _COLUMNS))


def _selection(row: Row, path: str) -> Selection:
    fields: dict[str, Any] = {_COLUMNS[name]: cell for name, cell in row.values.items()}
    if "sop_instance_uids" in fields:
        fields["sop_instance_uids"] = fields["sop_instance_uids"].split("\\")
    try:
        return build(Selection, {**fields, "row": row.number})
    except InvalidRequestError as error:
        raise InvalidRequestError(f"line {row.number}: {error.message}", path) from None
