"""Requests for retrieval."""

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from pacs_tasks.ae import AETitle, RemoteAE
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request.base import (
    UID,
    AccessionNumber,
    ListedUID,
    PatientID,
    Request,
    RetrieveMethod,
    Root,
    TransferRequest,
)
from pacs_tasks.request.template import Template
from pacs_tasks.source import AbsolutePath


class _RetrieveOperation(Request):
    """One C-MOVE or C-GET: of a study, of a series of it, or of instances of that series."""

    study_uid: ListedUID
    series_uid: ListedUID | None = None
    sop_instance_uids: tuple[ListedUID, ...] = ()
    #: None: the one that the remote offers.
    query_model: Root | None = None

    @model_validator(mode="after")
    def _instances_need_their_series(self) -> Self:
        """Check that the unique keys of the levels above are there (PS3.4 section C.4.2.2.1)."""
        if self.sop_instance_uids and self.series_uid is None:
            raise ValueError("sop_instance_uids need the series_uid that they belong to")
        return self


class MoveRequest(_RetrieveOperation):
    """Have the remote send a study or series to the AE ``move_aet`` (C-MOVE, PS3.4 section C.4.2)."""

    task: ClassVar[str] = "pacs_tasks.move"

    move_aet: AETitle


class GetRequest(_RetrieveOperation):
    """Fetch a study or series to ``output_dir`` on the same association (C-GET, PS3.4 section C.4.3)."""

    task: ClassVar[str] = "pacs_tasks.get"

    output_dir: AbsolutePath


class _Selected(BaseModel):
    """A study, a series of it, or instances of it, even without their series.

    An accession number or a Patient ID stands for all studies that have it.
    """

    model_config = ConfigDict(defer_build=True)

    study_uid: UID | None = None
    series_uid: UID | None = None
    sop_instance_uids: tuple[UID, ...] = ()
    accession_number: AccessionNumber | None = None
    patient_id: PatientID | None = None

    @property
    def names_a_study(self) -> bool:
        return not (self.study_uid is None and self.accession_number is None and self.patient_id is None)

    def _check_levels(self) -> None:
        if (self.series_uid or self.sop_instance_uids) and not (self.study_uid or self.accession_number):
            raise ValueError("series and instances need the study_uid or the accession_number that they belong to")


class Selection(_Selected):
    """One row of a batch. ``row`` is its number in the batch file."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    row: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        self._check_levels()
        if not self.names_a_study:
            raise ValueError("a selection needs a study_uid, an accession_number or a patient_id")
        return self


class RetrieveRequest(TransferRequest, _Selected):
    """Retrieve studies to ``output_dir`` and compare the instances with those that the remote listed.

    The fields of the request select one study; ``selections`` select a batch.

    Attributes
    ----------
    to
        Have the remote send everything to this AE instead of ``output_dir``.
    move_aet
        The receiver to use. None: any running receiver.
    overwrite
        Fetch instances again that are already complete in ``output_dir``.
    layout
        The template of file names. Empty: study/series/instance.
    query_model
        None: Study Root, or Patient Root where the remote offers no other.
    """

    task: ClassVar[str] = "pacs_tasks.retrieve"
    bulk: ClassVar[str] = "selections"

    selections: tuple[Selection, ...] = Field(default=(), max_length=100_000)
    output_dir: AbsolutePath | None = None
    to: RemoteAE | None = None
    method: RetrieveMethod = RetrieveMethod.AUTO
    move_aet: AETitle | None = None
    overwrite: bool = False
    layout: Template = ""
    query_model: Root | None = None

    @model_validator(mode="after")
    def _names_something(self, info: ValidationInfo) -> Self:
        self._check_levels()
        apart = bool((info.context or {}).get("bulk_apart"))
        if not self.names_a_study and not self.selections and not apart:
            raise ValueError("name what to retrieve: study_uid, accession_number, patient_id or selections")
        if self.names_a_study and self.selections:
            raise ValueError("selections stand alone; leave out study_uid, accession_number and patient_id")
        return self

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.output_dir is None and self.to is None:
            raise ValueError("name a destination: output_dir or to")
        if self.to is not None and (self.output_dir is not None or self.layout):
            raise ValueError("a retrieve to another AE has no output_dir and no layout; leave them out")
        if self.to is not None and (self.method is RetrieveMethod.GET or self.move_aet is not None):
            raise ValueError("a retrieve to another AE uses C-MOVE to that AE; leave out method and move_aet")
        if self.to is not None and str(self.to) == str(self.remote):
            raise ValueError("to and remote are the same; name another one")
        return self

    @property
    def directory(self) -> str:
        """The output directory.

        Raises
        ------
        InvalidRequestError
            If the instances go to another AE.
        """
        if self.output_dir is None:
            raise InvalidRequestError("This retrieve has no output directory: it goes to another AE.")
        return self.output_dir

    def wanted(self) -> tuple[Selection, ...]:
        """Return the selections, at least one."""
        own = {name: getattr(self, name) for name in _Selected.model_fields}
        return self.selections or (Selection(**own),)
