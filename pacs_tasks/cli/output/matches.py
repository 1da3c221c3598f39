"""Matches of a query as a table or as CSV. They are DICOM JSON objects (PS3.18 annex F)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydicom.datadict import dictionary_description, dictionary_has_tag, tag_for_keyword
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pacs_tasks.cli.output.terminal import Terminal, plain
from pacs_tasks.request import Level, QueryModel
from pacs_tasks.request.worklist import place_of

#: What is asked of the peer in return and shown, by level (PS3.4 section C.6).
COLUMNS: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "NumberOfPatientRelatedStudies"),
    Level.STUDY: (
        "PatientID",
        "PatientName",
        "StudyDate",
        "ModalitiesInStudy",
        "AccessionNumber",
        "StudyDescription",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    Level.SERIES: (
        "SeriesNumber",
        "Modality",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
        "SeriesInstanceUID",
        "StudyInstanceUID",
    ),
    Level.IMAGE: ("InstanceNumber", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
}

#: The same of a worklist.
WORKLIST_COLUMNS = tuple(
    place_of(keyword)
    for keyword in (
        "PatientID",
        "PatientName",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "Modality",
        "ScheduledStationAETitle",
        "RequestedProcedureDescription",
        "ScheduledProcedureStepID",
        "AccessionNumber",
    )
)

_HEADINGS = {
    "NumberOfPatientRelatedStudies": "Studies",
    "NumberOfStudyRelatedInstances": "Instances",
    "NumberOfSeriesRelatedInstances": "Instances",
    "ModalitiesInStudy": "Modalities",
    "ScheduledProcedureStepStartDate": "Scheduled Date",
    "ScheduledProcedureStepStartTime": "Scheduled Time",
    "ScheduledStationAETitle": "Station",
    "RequestedProcedureDescription": "Procedure",
    "ScheduledProcedureStepID": "Step ID",
}


def default_columns(level: Level, model: QueryModel | None = None) -> tuple[str, ...]:
    """The keywords that are shown unasked; those joined by a dot stand in the item of a sequence."""
    return WORKLIST_COLUMNS if model is QueryModel.WORKLIST else COLUMNS[level]


def columns_of(level: Level, keys: Iterable[str], model: QueryModel | None = None) -> tuple[str, ...]:
    """The keywords that are shown: those of the level, then those that were asked for beside them."""
    asked = (place_of(key) if model is QueryModel.WORKLIST else key for key in keys)
    return tuple(dict.fromkeys((*default_columns(level, model), *asked)))


def show_matches(
    terminal: Terminal,
    matches: Sequence[Mapping[str, Any]],
    level: Level,
    keys: Iterable[str] = (),
    model: QueryModel | None = None,
) -> None:
    """Put matches on stdout as a table."""
    columns = columns_of(level, keys, model)
    table = new_match_table(columns)
    for match in matches:
        table.add_row(*(Text(plain(text_of(match, column))) for column in columns))
    terminal.show(table)


def new_match_table(columns: Iterable[str], before: Iterable[str] = ()) -> Table:
    """A table for these keywords, behind other columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in before:
        table.add_column(heading)
    for column in columns:
        # People copy an id into the next command, so it stays in one piece.
        table.add_column(_heading(column), overflow="fold", no_wrap=column.endswith(("ID", "Number")))
    return table


def csv_of(
    matches: Sequence[Mapping[str, Any]], level: Level, keys: Iterable[str] = (), model: QueryModel | None = None
) -> str:
    """Matches as CSV (RFC 4180): a line of keywords, then one line per match; several values stand as in DICOM."""
    columns = columns_of(level, keys, model)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([text_of(match, column) for column in columns] for match in matches)
    return text.getvalue()


def text_of(match: Mapping[str, Any], key: str) -> str:
    """The value of an attribute in one text, its values separated by a backslash (PS3.5 section 6.4).

    Of an attribute within a sequence, such as ``RequestAttributesSequence.ScheduledProcedureStepID``, the values of
    all items.
    """
    items: list[Any] = [match]
    for keyword in key.split("."):
        tag = _tag(keyword)
        elements = [item.get(f"{tag:08X}") for item in items if isinstance(item, Mapping) and tag is not None]
        items = [value for element in elements for value in _values(element)]
    return "\\".join(_value(value) for value in items)


def _values(element: Any) -> list[Any]:
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values if isinstance(values, list) else []


def _value(value: Any) -> str:
    """A person's name has up to three groups: alphabetic, ideographic, phonetic (PS3.18 section F.2.2)."""
    if isinstance(value, Mapping):
        groups = [str(value.get(group) or "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


def _heading(key: str) -> str:
    keyword = key.rpartition(".")[2]
    tag = _tag(keyword)
    if keyword in _HEADINGS or tag is None or not dictionary_has_tag(tag):
        return _HEADINGS.get(keyword, keyword)
    return dictionary_description(tag)


def _tag(keyword: str) -> int | None:
    """The tag of a keyword, or of ``ggggeeee`` written out."""
    tag = tag_for_keyword(keyword)
    if tag is None and len(keyword) == 8:
        try:
            return int(keyword, 16)
        except ValueError:
            return None
    return tag
