"""Requests to query."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar

from pydantic import Field

from pacs_tasks.request.base import Request
from pacs_tasks.request.values import Keys, Level, QueryModel


class Query(Request):
    """What one query and many of them have in common."""

    level: Level = Level.STUDY
    keys: Keys = Field(default_factory=lambda: MappingProxyType({}))
    query_model: QueryModel | None = None
    limit: int | None = Field(default=None, ge=1)


class FindRequest(Query):
    """Query (C-FIND, PS3.4 section C.4.1).

    ``keys`` maps keywords of the DICOM data dictionary (or ``ggggeeee`` tags) to values; an empty value asks for the
    attribute in return. ``limit`` stops the peer with C-CANCEL after so many matches.
    ``query_model`` is chosen by the level where left out: Patient Root for PATIENT, else Study Root.
    """

    task: ClassVar[str] = "pacs_tasks.find"
