"""The command that queries."""

from __future__ import annotations

import difflib

import click
from pydicom.datadict import keyword_dict

from pacs_tasks.cli.arguments import UID_TEXT, Key, StudyDate, WholeNumber, transfer_options
from pacs_tasks.cli.batch_query import batch_request
from pacs_tasks.cli.commands import command
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.matches import COLUMNS
from pacs_tasks.cli.running import run
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindRequest, Level, build


@command(
    "query",
    "pacs-tasks query --patient-id P12345 --ip 192.168.1.100 --port 11112",
    "pacs-tasks query --study-date 20230101-20231231 --modality CT --format csv",
    "pacs-tasks query --batch patients.csv --format csv",
    "pacs-tasks query --level SERIES --study-uid 1.2.3.4.5 -k BodyPartExamined -k Modality=CT",
)
@click.option("--patient-id", metavar="ID", help="Patient ID; * and ? stand for any characters.")
@click.option(
    "--patient-name", metavar="NAME", help="Patient's name, as FAMILY^GIVEN; * and ? stand for any characters."
)
@click.option("--study-date", type=StudyDate(), help="A day or a range; either end of it may be left open.")
@click.option("--accession-number", metavar="NUMBER", help="Accession number.")
@click.option(
    "--modality", metavar="MODALITY", help="Modality, such as CT: of the series, or of any series of a study."
)
@click.option("--study-uid", type=UID_TEXT, metavar="UID", help="Study Instance UID.")
@click.option(
    "--level",
    type=click.Choice([str(each) for each in Level], case_sensitive=False),
    default=str(Level.STUDY),
    metavar="PATIENT|STUDY|SERIES|IMAGE",
    show_default=True,
    help="What a match is.",
)
@click.option(
    "-k",
    "keys",
    type=Key(),
    multiple=True,
    help="Ask for another attribute, or match it too; may be repeated.",
)
@click.option("--limit", type=WholeNumber(min=1), metavar="N", help="Stop the PACS after so many matches.")
@click.option(
    "--batch",
    metavar="FILE",
    help="Ask for each row of this CSV file, whose first line names keys; an empty cell asks for anything.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "jsonl", "csv"], case_sensitive=False),
    default="table",
    show_default=True,
    help="How matches are printed; json is the same as --json, jsonl is an object a line.",
)
@transfer_options
def query(
    invocation: Invocation,
    *,
    patient_id: str | None,
    patient_name: str | None,
    study_date: str | None,
    accession_number: str | None,
    modality: str | None,
    study_uid: str | None,
    level: str,
    keys: tuple[tuple[str, str], ...],
    limit: int | None,
    batch: str | None,
    output_format: str,
) -> int:
    """Ask the PACS what it has (C-FIND)."""
    terminal = invocation.terminal
    terminal.json = terminal.json or output_format == "json"
    terminal.csv = output_format == "csv" and not terminal.json
    terminal.jsonl = output_format == "jsonl" and not terminal.json
    at = Level(level)
    wanted = {
        "PatientID": patient_id,
        "PatientName": patient_name,
        "StudyDate": study_date,
        "AccessionNumber": accession_number,
        # A study has the modalities of all of its series (PS3.4 section C.3.4).
        "ModalitiesInStudy" if at in {Level.PATIENT, Level.STUDY} else "Modality": modality,
        "StudyInstanceUID": study_uid,
    }
    fields = {
        "level": at,
        "keys": {
            **dict.fromkeys(COLUMNS[at], ""),
            **{keyword: value for keyword, value in wanted.items() if value},
            **{_known(keyword): value for keyword, value in keys},
        },
        "limit": limit,
    }
    if batch is not None:
        return run(invocation, batch_request(batch, {**invocation.transfer(), **fields}))
    return run(invocation, build(FindRequest, {**invocation.address(), **fields}))


def _known(keyword: str) -> str:
    """``keyword`` if it is one, or a tag as ``ggggeeee``.

    Raises
    ------
    InvalidRequestError
        If the data dictionary has none of this name; the message offers the nearest ones.
    """
    if keyword in keyword_dict or (len(keyword) == 8 and all(each in "0123456789abcdefABCDEF" for each in keyword)):
        return keyword
    near = difflib.get_close_matches(keyword, keyword_dict, n=2)
    offer = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InvalidRequestError(f"-k {keyword} is no keyword of the DICOM data dictionary{offer}")
