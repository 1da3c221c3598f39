"""The keys of a query: from options, and from the rows of a CSV file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword

from pacs_tasks.cli.input.batch_file import Row, read
from pacs_tasks.cli.output.terminal import readable
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindBatchRequest, FindRow, Level, QueryModel, build
from pacs_tasks.request.find import place_of

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
#: A day or a range of days (PS3.4 section C.2.2.2.5).
_DAYS = re.compile(r"[0-9]{8}|[0-9]{8}-([0-9]{8})?|-[0-9]{8}")


def criteria(
    level: Level,
    model: QueryModel | None,
    *,
    patient_id: str | None,
    patient_name: str | None,
    study_date: str | None,
    accession_number: str | None,
    modality: str | None,
    study_uids: Iterable[Iterable[str]],
) -> dict[str, str]:
    """The keys whose options have a value."""
    worklist = model is QueryModel.WORKLIST
    # A study has the modalities of all of its series (PS3.4 section C.3.4).
    of_all_series = level in {Level.PATIENT, Level.STUDY} and not worklist
    keys = {
        "PatientID": patient_id,
        "PatientName": patient_name,
        place_of("ScheduledProcedureStepStartDate") if worklist else "StudyDate": study_date,
        "AccessionNumber": accession_number,
        place_of("Modality") if worklist else "ModalitiesInStudy" if of_all_series else "Modality": modality,
        "StudyInstanceUID": "\\".join(uid for each in study_uids for uid in each),
    }
    return {keyword: value for keyword, value in keys.items() if value}


def known(keyword: str) -> str:
    """Check a keyword, a tag as ``ggggeeee``, or several of them joined by dots.

    Raises
    ------
    InvalidRequestError
        If the data dictionary has no such keyword; the message suggests similar ones.
    """
    for part in keyword.split("."):
        if part in keyword_dict or _TAG.fullmatch(part):
            continue
        near = difflib.get_close_matches(part, keyword_dict, n=2)
        what_next = f"Did you mean {' or '.join(near)}?" if near else "Write a keyword such as StudyDescription."
        raise InvalidRequestError(f"-k {part} is not a keyword of the DICOM data dictionary. {what_next}")
    return keyword


class Attributes(Collection[str]):
    """All keywords of the data dictionary. It also contains tags as ``ggggeeee``, and several of both with dots."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and all(
            part in keyword_dict or _TAG.fullmatch(part) is not None for part in name.split(".")
        )

    def __iter__(self) -> Iterator[str]:
        return iter(keyword_dict)

    def __len__(self) -> int:
        return len(keyword_dict)


def batch_request(path: str, fields: Mapping[str, Any]) -> FindBatchRequest:
    """A query for each row of a file.

    Parameters
    ----------
    fields
        The fields that all rows share. A cell overrides the key of the same name, unless the cell is empty.

    Raises
    ------
    InvalidRequestError
        If the file or a date in it is not valid.
    """
    rows = [_with_keywords(row, path) for row in read(path, Attributes())]
    for row in rows:
        _check_dates(row, path)
    columns = dict.fromkeys(column for row in rows for column in row.values)
    return build(
        FindBatchRequest,
        {
            **fields,
            # The attributes that one row matches are shown for all rows.
            "keys": {**dict.fromkeys(columns, ""), **fields["keys"]},
            "rows": tuple(FindRow(number=row.number, keys=row.values) for row in rows),
        },
    )


def _with_keywords(row: Row, path: str) -> Row:
    """Replace the tags that have a keyword by it."""
    values = {
        ".".join((keyword_for_tag(part) if _TAG.fullmatch(part) else "") or part for part in name.split(".")): value
        for name, value in row.values.items()
    }
    if len(values) < len(row.values):
        raise InvalidRequestError(
            "Two columns are one attribute, by its tag and by its keyword. Remove one of them.", readable(path)
        )
    return Row(row.number, values)


def _check_dates(row: Row, path: str) -> None:
    """Refuse a date in the format of a spreadsheet. A PACS would find nothing, or ignore the key."""
    for name, value in row.values.items():
        tag = tag_for_keyword(name.rpartition(".")[2])
        if tag is not None and dictionary_VR(tag) == "DA" and not _DAYS.fullmatch(value):
            raise InvalidRequestError(
                f"{name} in line {row.number} is not a day or a range of days. Write YYYYMMDD or YYYYMMDD-YYYYMMDD.",
                readable(path),
            )
