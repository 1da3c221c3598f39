"""The command that queries."""

from __future__ import annotations

import difflib
from typing import Any

import click
from pydicom.datadict import keyword_dict

from pacs_tasks.cli.commands.options import transfer_options
from pacs_tasks.cli.commands.shared import command
from pacs_tasks.cli.input.batch_query import batch_request
from pacs_tasks.cli.input.values import CHARSET, Key, StudyDate, UIDList, WholeNumber
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.matches import default_columns
from pacs_tasks.cli.running import run
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindRequest, Level, QueryModel, build
from pacs_tasks.request.worklist import place_of


@command(
    "query",
    "pacs-tasks query --patient-id P12345 --ip 192.168.1.100 --port 11112",
    "pacs-tasks query --study-date 20230101-20231231 --modality CT --format csv",
    "pacs-tasks query --batch patients.csv --format csv",
    "pacs-tasks query --level SERIES --study-uid 1.2.3.4.5 -k BodyPartExamined -k Modality=CT",
    "pacs-tasks query --study-date 20230101- --split-dates --json",
    "pacs-tasks query --worklist --study-date 20240115 --modality CT",
)
@click.option("--patient-id", metavar="ID", help="Patient ID; * and ? stand for any characters.")
@click.option(
    "--patient-name", metavar="NAME", help="Patient's name, as FAMILY^GIVEN; * and ? stand for any characters."
)
@click.option(
    "--study-date",
    type=StudyDate(),
    help="A day or a range; either end of it may be left open. In a worklist, when the examination is scheduled.",
)
@click.option("--accession-number", metavar="NUMBER", help="Accession number.")
@click.option(
    "--modality", metavar="MODALITY", help="Modality, such as CT: of the series, or of any series of a study."
)
@click.option(
    "--study-uid",
    "study_uids",
    type=UIDList(),
    multiple=True,
    metavar="UID",
    help="Study Instance UID; may be repeated.",
)
@click.option(
    "--level",
    type=click.Choice([str(each) for each in Level], case_sensitive=False),
    default=str(Level.STUDY),
    metavar="PATIENT|STUDY|SERIES|IMAGE",
    show_default=True,
    help="What a match is.",
)
@click.option(
    "--root",
    type=click.Choice([str(QueryModel.PATIENT_ROOT), str(QueryModel.STUDY_ROOT)], case_sensitive=False),
    show_default="patient at PATIENT level, else study",
    help="The information model of the query, for a PACS that has only one.",
)
@click.option("--worklist", is_flag=True, help="Ask for scheduled procedure steps (Modality Worklist).")
@click.option(
    "-k",
    "keys",
    type=Key(),
    multiple=True,
    help="Ask for another attribute, or match it too; SEQUENCE.KEYWORD is one within a sequence. May be repeated.",
)
@click.option(
    "--charset",
    type=CHARSET,
    metavar="TERM",
    help="Specific character set of what is asked, such as GB18030, and of matches that name none.",
)
@click.option("--limit", type=WholeNumber(min=1), metavar="N", help="Stop the PACS after so many matches.")
@click.option(
    "--split-dates",
    is_flag=True,
    help="Where the PACS cuts its answer off, ask for halves of the range of dates, then of times.",
)
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
    level: str,
    root: str | None,
    worklist: bool,
    keys: tuple[tuple[str, str], ...],
    charset: str | None,
    limit: int | None,
    split_dates: bool,
    batch: str | None,
    output_format: str,
    **wanted: Any,
) -> int:
    """Ask the PACS what it has (C-FIND)."""
    terminal = invocation.terminal
    terminal.json = terminal.json or output_format == "json"
    terminal.csv = output_format == "csv" and not terminal.json
    terminal.jsonl = output_format == "jsonl" and not terminal.json
    if worklist and root:
        raise InvalidRequestError("a worklist belongs to neither root; leave --root or --worklist out")
    model = QueryModel.WORKLIST if worklist else QueryModel(root) if root else None
    at = Level(level)
    fields = {
        "level": at,
        "query_model": model,
        "keys": {
            **dict.fromkeys(default_columns(at, model), ""),
            **{keyword: value for keyword, value in _criteria(at, model, **wanted).items() if value},
            **{_known(keyword): value for keyword, value in keys},
        },
        "charset": charset,
        "limit": limit,
        "split_dates": split_dates,
    }
    if batch is not None:
        return run(invocation, batch_request(batch, {**invocation.transfer(), **fields}))
    if invocation.typed("give_up_after"):
        raise InvalidRequestError("a single query waits for no PACS that is down; --give-up-after is for --batch")
    return run(invocation, build(FindRequest, {**invocation.address(), **fields}))


def _criteria(
    level: Level,
    model: QueryModel | None,
    *,
    patient_id: str | None,
    patient_name: str | None,
    study_date: str | None,
    accession_number: str | None,
    modality: str | None,
    study_uids: tuple[str, ...],
) -> dict[str, str | None]:
    """The keys that have an option of their own."""
    worklist = model is QueryModel.WORKLIST
    # A study has the modalities of all of its series (PS3.4 section C.3.4).
    of_many = level in {Level.PATIENT, Level.STUDY} and not worklist
    return {
        "PatientID": patient_id,
        "PatientName": patient_name,
        place_of("ScheduledProcedureStepStartDate") if worklist else "StudyDate": study_date,
        "AccessionNumber": accession_number,
        place_of("Modality") if worklist else "ModalitiesInStudy" if of_many else "Modality": modality,
        "StudyInstanceUID": "\\".join(study_uids),
    }


def _known(keyword: str) -> str:
    """``keyword`` if it is one, or a tag as ``ggggeeee``, or several of these that are joined by dots.

    Raises
    ------
    InvalidRequestError
        If the data dictionary has none of this name; the message offers the nearest ones.
    """
    for part in keyword.split("."):
        if part in keyword_dict or (len(part) == 8 and all(each in "0123456789abcdefABCDEF" for each in part)):
            continue
        near = difflib.get_close_matches(part, keyword_dict, n=2)
        offer = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InvalidRequestError(f"-k {part} is no keyword of the DICOM data dictionary{offer}")
    return keyword
