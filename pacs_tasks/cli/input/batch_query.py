"""The rows of a CSV file as one job of many queries."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword

from pacs_tasks.cli.input.batch_file import Row, read
from pacs_tasks.cli.output.terminal import readable
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindBatchRequest, FindRow, build

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
#: A day or a range of days (PS3.4 section C.2.2.2.5).
_DAYS = re.compile(r"[0-9]{8}|[0-9]{8}-([0-9]{8})?|-[0-9]{8}")


class Attributes(Collection[str]):
    """The keywords of the data dictionary, tags as ``ggggeeee``, and several of these that are joined by dots."""

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
        What all rows have in common. A cell goes before the key of the same name; an empty one does not.

    Raises
    ------
    InvalidRequestError
        If the file or a date in it cannot be read.
    """
    rows = [_with_keywords(row, path) for row in read(path, Attributes())]
    for row in rows:
        _check_dates(row, path)
    columns = dict.fromkeys(column for row in rows for column in row.values)
    return build(
        FindBatchRequest,
        {
            **fields,
            # What one row asks for is shown of all.
            "keys": {**dict.fromkeys(columns, ""), **fields["keys"]},
            "rows": tuple(FindRow(number=row.number, keys=row.values) for row in rows),
        },
    )


def _with_keywords(row: Row, path: str) -> Row:
    """The same row with keywords for tags that have one."""
    values = {
        ".".join((keyword_for_tag(part) if _TAG.fullmatch(part) else "") or part for part in name.split(".")): value
        for name, value in row.values.items()
    }
    if len(values) < len(row.values):
        raise InvalidRequestError("two columns are one attribute, by its tag and by its keyword", readable(path))
    return Row(row.number, values)


def _check_dates(row: Row, path: str) -> None:
    """Refuse what a spreadsheet made of a date: a PACS would find nothing for it, or ignore it and find all."""
    for name, value in row.values.items():
        tag = tag_for_keyword(name.rpartition(".")[2])
        if tag is not None and dictionary_VR(tag) == "DA" and not _DAYS.fullmatch(value):
            raise InvalidRequestError(
                f"line {row.number} has no day or range of days as {name}; write YYYYMMDD or YYYYMMDD-YYYYMMDD",
                readable(path),
            )
