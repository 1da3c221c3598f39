"""The command that queries."""

from __future__ import annotations

from typing import Any

import click

from pacs_tasks.cli.declarations import command, excel_option, refuse, root_option, transfer_options
from pacs_tasks.cli.input.values import CHARSET, CRITERION, Key, Modality, StudyDate, UIDs, WholeNumber
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.errors import InvalidRequestError


@command(
    "query",
    "pacs-tasks query --patient-id P12345 --ip 192.168.1.100 --port 11112",
    "pacs-tasks query --study-date 2023-01-01..2023-12-31 --modality CT --format csv",
    "pacs-tasks query --batch patients.csv --format csv",
    "pacs-tasks query --level SERIES --study-uid 1.2.3.4.5 -k BodyPartExamined -k Modality=CT",
    "pacs-tasks query --study-date 20230101- --split-dates --json",
    "pacs-tasks query --worklist --study-date 20240115 --modality CT",
)
@click.option(
    "--patient-id",
    type=CRITERION,
    metavar="ID",
    help="Match this Patient ID. * and ? match any characters. Write - for stdin or @FILE for a file, also for names "
    "and numbers, since every user of this machine can read a command line.",
)
@click.option(
    "--patient-name",
    type=CRITERION,
    metavar="NAME",
    help="Match this name, as FAMILY^GIVEN. * and ? match any characters.",
)
@click.option(
    "--study-date",
    type=StudyDate(),
    help="Match a day or a range of days, which may be open at either end: 20230131, 2023-01-01..2023-12-31, today, "
    "yesterday, -7d. In a worklist, this is the scheduled date.",
)
@click.option("--accession-number", type=CRITERION, metavar="NUMBER", help="Match this accession number.")
@click.option(
    "--modality",
    type=Modality(),
    metavar="MODALITY",
    help="Match this modality, such as CT, of a series or of any series of a study.",
)
@click.option(
    "--study-uid",
    "study_uids",
    type=UIDs(),
    multiple=True,
    metavar="UID",
    help="Match this Study Instance UID. Repeat the option for several.",
)
@click.option(
    "--level",
    type=click.Choice(["PATIENT", "STUDY", "SERIES", "IMAGE"], case_sensitive=False),
    default="STUDY",
    metavar="PATIENT|STUDY|SERIES|IMAGE",
    show_default=True,
    help="Query at this level.",
)
@root_option
@click.option("--worklist", is_flag=True, help="Query scheduled procedure steps (Modality Worklist).")
@click.option(
    "-k",
    "keys",
    type=Key(),
    multiple=True,
    help="Request another attribute, or match it too. Write SEQUENCE.KEYWORD for one within a sequence. Repeat the "
    "option for several.",
)
@click.option(
    "--charset",
    type=CHARSET,
    metavar="TERM",
    help="Use this specific character set, such as GB18030, in the query, and for matches that name none.",
)
@click.option("--limit", type=WholeNumber(min=1), metavar="N", help="Stop the PACS after this many matches.")
@click.option(
    "--split-dates",
    is_flag=True,
    help="If the PACS cuts its answer off, query halves of the range of dates, then of times.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Leave out matches without the values that were asked for: some PACS ignore some keys.",
)
@click.option(
    "--batch",
    metavar="FILE",
    help="Query once for each row of this CSV file, or of stdin (-). Its first line names the keys; an empty cell "
    "matches anything.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "jsonl", "csv"], case_sensitive=False),
    default="table",
    show_default=True,
    help="Print matches in this format. json is the same as --json; jsonl is one object a line.",
)
@excel_option
@transfer_options
def query(invocation: Invocation, *, output_format: str, excel: bool, batch: str | None, **options: Any) -> int:
    """Find patients, studies, series, instances or scheduled procedures in the PACS (C-FIND)."""
    from pacs_tasks.cli.input.keys import batch_request
    from pacs_tasks.cli.running import run
    from pacs_tasks.request import FindRequest, build

    terminal = invocation.terminal
    if invocation.typed("json") and output_format != "json":
        refuse(invocation, ["output_format"], "beside --json")
    terminal.json = terminal.json or output_format == "json"
    terminal.csv = output_format == "csv" and not terminal.json
    terminal.excel = excel
    if not terminal.csv:
        refuse(invocation, ["excel"], "without --format csv")
    terminal.jsonl = output_format == "jsonl" and not terminal.json
    fields = _fields(**options)
    if batch is not None:
        return run(invocation, batch_request(batch, {**invocation.transfer(), **fields}))
    refuse(invocation, ["give_up_after"], "without --batch, since a single query does not wait")
    return run(invocation, build(FindRequest, {**invocation.address(), **fields}))


def _fields(
    *,
    level: str,
    query_model: str | None,
    worklist: bool,
    keys: tuple[tuple[str, str], ...],
    charset: str | None,
    limit: int | None,
    split_dates: bool,
    strict: bool,
    **values: Any,
) -> dict[str, Any]:
    """The fields of a query, of which ``values`` are the options for single keys."""
    from pacs_tasks.cli.input.keys import combined, criteria
    from pacs_tasks.cli.output.matches import default_columns
    from pacs_tasks.request import Level, QueryModel

    if worklist and query_model:
        raise InvalidRequestError("A worklist belongs to neither root. Leave out --root or --worklist.")
    model = QueryModel.WORKLIST if worklist else QueryModel(query_model) if query_model else None
    at = Level(level)
    _check_level(at, model, split_dates=split_dates)
    return {
        "level": at,
        "query_model": model,
        "keys": {
            **dict.fromkeys(default_columns(at, model), ""),
            **combined(criteria(at, model, **values), keys),
        },
        "charset": charset,
        "limit": limit,
        "split_dates": split_dates,
        "strict": strict,
    }


def _check_level(level: str, model: str | None, *, split_dates: bool) -> None:
    """Refuse what no query can have, by the names of the options."""
    if model == "worklist" and level != "STUDY":
        raise InvalidRequestError("A worklist has no levels. Leave out --level or --worklist.")
    if level != "PATIENT":
        return
    if model == "study":
        raise InvalidRequestError("The Study Root model has no PATIENT level. Query at another --level or --root.")
    if split_dates:
        raise InvalidRequestError("Patients have no study date to split by. Leave out --split-dates or --level.")
