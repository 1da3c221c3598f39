"""The keys of a query: from options, and from the rows of a CSV file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword

from pacs_tasks.cli.input.batch_file import Row, read
from pacs_tasks.cli.input.dates import as_dicom
from pacs_tasks.cli.output.terminal import readable
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindBatchRequest, FindRow, Level, QueryModel, build
from pacs_tasks.request.find import place_of

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
#: Characters of a key that is more than a value: wildcards, several values, the empty value (PS3.4 section C.2.2.2).
_MATCHING = frozenset('*?\\"')
#: Attributes of VR CS whose values every PACS has in capital letters, as PS3.5 section 6.2 says.
_CAPITALS = frozenset({"Modality", "ModalitiesInStudy", "PatientSex"})


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
    worklist, wanted = model is QueryModel.WORKLIST, modality and modality.upper()
    # A study has the modalities of all of its series (PS3.4 section C.3.4).
    of_all_series = level in {Level.PATIENT, Level.STUDY} and not worklist
    keys = {
        "PatientID": patient_id,
        "PatientName": patient_name,
        place_of("ScheduledProcedureStepStartDate") if worklist else "StudyDate": study_date,
        "AccessionNumber": accession_number,
        place_of("Modality") if worklist else "ModalitiesInStudy" if of_all_series else "Modality": wanted,
        "StudyInstanceUID": "\\".join(uid for each in study_uids for uid in each),
    }
    return {keyword: value for keyword, value in keys.items() if value}


def combined(criteria: Mapping[str, str], typed: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The keys of options and those of ``-k``, which may also request an attribute that is matched.

    Raises
    ------
    InvalidRequestError
        If a key is not known, or has two values, of which one would be dropped.
    """
    keys = dict(criteria)
    written = {name: name for name in keys}
    for keyword, value in typed:
        name = _by_keyword(known(keyword))
        key, wanted = written.setdefault(name, keyword), typed_key(keyword, value)
        if wanted and keys.get(key, "") not in {"", wanted}:
            raise InvalidRequestError(f"{name} is there with two values. Write one, or use --batch for several.")
        keys[key] = wanted or keys.get(key, "")
    return keys


def known(keyword: str) -> str:
    """Check a keyword, a tag as ``ggggeeee``, or several of them joined by dots.

    Raises
    ------
    InvalidRequestError
        If the data dictionary has no such keyword; the message suggests similar ones.
    """
    for part in keyword.split("."):
        if _is_attribute(part):
            continue
        near = difflib.get_close_matches(part, keyword_dict, n=2)
        what_next = f"Did you mean {' or '.join(near)}?" if near else "Write a keyword such as StudyDescription."
        raise InvalidRequestError(f"-k {part} is not a keyword of the DICOM data dictionary. {what_next}")
    return keyword


def as_meant(keyword: str, typed: str) -> str:
    """The value of a key: a date in the form of DICOM, a modality in capital letters, anything else as typed.

    Raises
    ------
    ValueError
        If it is not a date; the message names it and says what to write.
    """
    name = keyword.rpartition(".")[2]
    tag = tag_for_keyword(name) or (int(name, 16) if _TAG.fullmatch(name) else None)
    if typed and tag is not None and dictionary_has_tag(tag) and dictionary_VR(tag) == "DA":
        return as_dicom(typed)
    return typed.upper() if tag is not None and keyword_for_tag(tag) in _CAPITALS else typed


def typed_key(keyword: str, typed: str) -> str:
    """The value of ``-k``, which may also hold what only a PACS understands, such as ``2023*``.

    Raises
    ------
    InvalidRequestError
        If it is not a date: a PACS would find nothing, or ignore the key.
    """
    try:
        return as_meant(keyword, typed)
    except ValueError as error:
        if _MATCHING & set(typed):
            return typed
        raise InvalidRequestError(
            f"-k {keyword} is not a day or a range of days. Write 2023-01-31, 20230131, 20230101-20231231, or 2023* "
            "for a PACS that matches dates as text.",
            str(error),
        ) from None


def _is_attribute(name: str) -> bool:
    """Whether a name is a keyword of the data dictionary, a tag as ``ggggeeee``, or several of both with dots."""
    return all(part in keyword_dict or _TAG.fullmatch(part) is not None for part in name.split("."))


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
    found = read(path, keyword_dict, lambda name: name if _is_attribute(name) else None).rows
    rows = [_keys_of(row, path) for row in found]
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


def _by_keyword(name: str) -> str:
    """Replace each tag in a name that has a keyword by it."""
    return ".".join((keyword_for_tag(part) if _TAG.fullmatch(part) else "") or part for part in name.split("."))


def _keys_of(row: Row, path: str) -> Row:
    """Name the columns by keywords, and refuse what is not a date: a PACS would find nothing, or ignore the key."""
    values = {_by_keyword(column): value for column, value in row.values.items()}
    if len(values) < len(row.values):
        raise InvalidRequestError(
            "Two columns are one attribute, by its tag and by its keyword. Remove one of them.", readable(path)
        )
    for name, value in values.items():
        try:
            values[name] = as_meant(name, value)
        except ValueError as error:
            raise InvalidRequestError(
                f"{name} in line {row.number} is not a day or a range of days. Write 2023-01-31, 20230131 or "
                "20230101-20231231.",
                f"{readable(path)}: {error}",
            ) from None
    return Row(row.number, values)
