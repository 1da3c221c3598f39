"""Requests to query."""

from __future__ import annotations

from types import MappingProxyType
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pacs_tasks.ae import Charset
from pacs_tasks.request.base import Request, TransferRequest
from pacs_tasks.request.values import Keys, Level, QueryModel


class Query(Request):
    """What one query and many of them have in common."""

    level: Level = Level.STUDY
    keys: Keys = Field(default_factory=lambda: MappingProxyType({}))
    query_model: QueryModel | None = None
    limit: int | None = Field(default=None, ge=1)
    charset: Charset | None = None
    split_dates: bool = False

    @property
    def model(self) -> QueryModel:
        """The information model that is asked in."""
        return self.query_model or (QueryModel.PATIENT_ROOT if self.level is Level.PATIENT else QueryModel.STUDY_ROOT)

    @model_validator(mode="after")
    def _level_is_in_the_model(self) -> Self:
        if self.level is Level.PATIENT and self.model is QueryModel.STUDY_ROOT:
            raise ValueError(
                "the Study Root model has no PATIENT level; ask at STUDY level, or in the Patient Root model"
            )
        if self.level is not Level.STUDY and self.model is QueryModel.WORKLIST:
            raise ValueError("a worklist has no levels; leave the level out")
        if self.level is Level.PATIENT and self.split_dates:
            raise ValueError("patients have no study date to split by; ask at STUDY level")
        return self


class FindRequest(Query):
    """Query (C-FIND, PS3.4 section C.4.1; the worklist: section K.4.1).

    ``keys`` maps keywords of the DICOM data dictionary (or ``ggggeeee`` tags) to values; an empty value asks for the
    attribute in return. Keywords joined by dots lead into the item of a sequence. ``limit`` stops the peer with
    C-CANCEL after so many matches.
    ``query_model`` is chosen by the level where left out: Patient Root for PATIENT, else Study Root. The worklist has
    no levels; what describes a scheduled procedure step goes into the item of its sequence by itself.
    ``charset`` is the specific character set of the keys, and of matches that name none; left out, the remote's.
    ``split_dates`` asks for halves of the range of study dates where a peer cuts its answer off.
    """

    task: ClassVar[str] = "pacs_tasks.find"


class FindRow(BaseModel):
    """One query of many: ``keys`` as for a :class:`FindRequest`. ``number`` is what the caller calls it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    number: int = Field(ge=0)
    keys: Keys


class FindBatchRequest(Query, TransferRequest):
    """Many queries of one kind, each with its own outcome and its own matches.

    The keys of a row go before ``keys``, which all rows have in common; ``limit`` is that of each row.
    """

    task: ClassVar[str] = "pacs_tasks.find_batch"
    bulk: ClassVar[str] = "rows"

    rows: tuple[FindRow, ...] = Field(default=(), max_length=100_000)

    def of_row(self, keys: Keys) -> FindRequest:
        """The query of a row with these keys."""
        shared = {name: getattr(self, name) for name in FindRequest.model_fields}
        # The last word stands where a tag and its keyword are both there.
        others = {name: value for name, value in self.keys.items() if name not in keys}
        return FindRequest(**{**shared, "keys": {**others, **keys}})
