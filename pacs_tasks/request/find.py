"""Requests for queries, and the attributes of a worklist's scheduled procedure step (PS3.4 table K.6-1)."""

from types import MappingProxyType
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pacs_tasks.ae import Charset
from pacs_tasks.request.base import Keys, Level, QueryModel, Request, TransferRequest

#: Its one item holds the keys below.
STEP_SEQUENCE = "ScheduledProcedureStepSequence"

STEP_KEYS = frozenset(
    {
        "Modality",
        "RequestedContrastAgent",
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "ScheduledProcedureStepEndDate",
        "ScheduledProcedureStepEndTime",
        "ScheduledPerformingPhysicianName",
        "ScheduledPerformingPhysicianIdentificationSequence",
        "ScheduledProcedureStepDescription",
        "ScheduledProtocolCodeSequence",
        "ScheduledProcedureStepID",
        "ScheduledStationName",
        "ScheduledProcedureStepLocation",
        "PreMedication",
        "ScheduledProcedureStepStatus",
        "CommentsOnTheScheduledProcedureStep",
    }
)


def place_of(keyword: str) -> str:
    """Return the path of an attribute in a worklist: a keyword, or two joined by a dot."""
    return f"{STEP_SEQUENCE}.{keyword}" if keyword in STEP_KEYS else keyword


class Query(Request):
    """The common fields of one query and of a batch."""

    level: Level = Level.STUDY
    keys: Keys = Field(default_factory=lambda: MappingProxyType({}))
    query_model: QueryModel | None = None
    limit: int | None = Field(default=None, ge=1)
    charset: Charset | None = None
    split_dates: bool = False
    strict: bool = False

    @property
    def model(self) -> QueryModel:
        """The information model of the query."""
        return self.query_model or (QueryModel.PATIENT_ROOT if self.level is Level.PATIENT else QueryModel.STUDY_ROOT)

    @model_validator(mode="after")
    def _level_is_in_the_model(self) -> Self:
        if self.level is Level.PATIENT and self.model is QueryModel.STUDY_ROOT:
            raise ValueError(
                "the Study Root model has no PATIENT level; query at STUDY level, or in the Patient Root model"
            )
        if self.level is not Level.STUDY and self.model is QueryModel.WORKLIST:
            raise ValueError("a worklist has no levels; leave the level out")
        if self.level is Level.PATIENT and self.split_dates:
            raise ValueError("patients have no study date to split by; query at STUDY level")
        return self


class FindRequest(Query):
    """Query a remote (C-FIND, PS3.4 section C.4.1; worklist: section K.4.1).

    Attributes
    ----------
    keys
        Keywords of the DICOM data dictionary, or ``ggggeeee`` tags, and their values. An empty value requests the
        attribute. Keywords joined by dots lead into the item of a sequence; for a worklist, attributes of a scheduled
        procedure step go there by themselves.
    query_model
        None: Patient Root at PATIENT level, else Study Root. A worklist has no levels.
    limit
        Cancel the query with C-CANCEL after so many matches.
    charset
        The specific character set of the keys, and of matches that name none. None: that of the remote.
    split_dates
        Query halves of the range of study dates if the remote limits its matches.
    strict
        Leave out matches that do not have the values of the keys: a remote need not match all keys.
    """

    task: ClassVar[str] = "pacs_tasks.find"


class FindRow(BaseModel):
    """One query of a batch. ``keys`` are as in :class:`FindRequest`; ``number`` is the caller's."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    number: int = Field(ge=0)
    keys: Keys


class FindBatchRequest(Query, TransferRequest):
    """A batch of queries, each with its own outcome and matches.

    The keys of a row override ``keys``, which all rows share. ``limit`` applies to each row.
    """

    task: ClassVar[str] = "pacs_tasks.find_batch"
    bulk: ClassVar[str] = "rows"

    rows: tuple[FindRow, ...] = Field(default=(), max_length=100_000)

    def of_row(self, keys: Keys) -> FindRequest:
        """Return the query of a row with these keys."""
        shared = {name: getattr(self, name) for name in FindRequest.model_fields}
        # If both a tag and its keyword are there, the later one wins.
        others = {name: value for name, value in self.keys.items() if name not in keys}
        return FindRequest(**{**shared, "keys": {**others, **keys}})
