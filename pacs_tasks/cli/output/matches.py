"""The matches of a query as a table or as CSV. A match is a DICOM JSON object (PS3.18 annex F)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydicom.datadict import dictionary_description, dictionary_has_tag, tag_for_keyword

from pacs_tasks.cli.output.terminal import Table
from pacs_tasks.privacy import plain
from pacs_tasks.request import Level, Query, QueryModel
from pacs_tasks.request.find import place_of

#: The attributes that a query requests and shows, by level (PS3.4 section C.6).
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

#: The attributes that a worklist query requests and shows.
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
    """The keywords that a query always shows. A dot leads into the items of a sequence."""
    return WORKLIST_COLUMNS if model is QueryModel.WORKLIST else COLUMNS[level]


def columns_of(query: Query) -> tuple[str, ...]:
    """The keywords that a query shows: those of its level, then its other keys."""
    others = (place_of(key) if query.model is QueryModel.WORKLIST else key for key in query.keys)
    return tuple(dict.fromkeys((*default_columns(query.level, query.model), *others)))


def match_table(matches: Iterable[Mapping[str, Any]], query: Query) -> Table:
    """A table with one row for each match."""
    columns = columns_of(query)
    table = new_match_table(columns)
    for match in matches:
        table.add(*(plain(text_of(match, column)) for column in columns))
    return table


def new_match_table(columns: Sequence[str], before: Sequence[str] = ()) -> Table:
    """An empty table for these keywords, with other columns before them."""
    keywords = (*before, *columns)
    whole = [number for number, each in enumerate(keywords) if each in columns and each.endswith(("ID", "Number"))]
    return Table(*before, *map(_heading, columns), whole=whole)


def match_rows(matches: Iterable[Mapping[str, Any]], query: Query) -> Iterator[Sequence[str]]:
    """A row of keywords, then one for each match."""
    columns = columns_of(query)
    yield columns
    yield from ([text_of(match, column) for column in columns] for match in matches)


def text_of(match: Mapping[str, Any], key: str) -> str:
    """The values of an attribute, separated by backslashes (PS3.5 section 6.4).

    A key within a sequence, such as ``RequestAttributesSequence.ScheduledProcedureStepID``, has the values of all
    items.
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
    """A person name has up to three groups: alphabetic, ideographic and phonetic (PS3.18 section F.2.2)."""
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
    """The tag of a keyword or of ``ggggeeee``."""
    tag = tag_for_keyword(keyword)
    if tag is None and len(keyword) == 8:
        try:
            return int(keyword, 16)
        except ValueError:
            return None
    return tag
