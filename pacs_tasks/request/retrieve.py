"""Requests to retrieve."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from pacs_tasks.ae import AETitle
from pacs_tasks.request.base import Request, TransferRequest
from pacs_tasks.request.values import UID, RetrieveMethod


class _RetrieveOperation(Request):
    """What one C-MOVE or C-GET names: a study, a series of it, or instances of that series."""

    study_uid: UID
    series_uid: UID | None = None
    sop_instance_uids: tuple[UID, ...] = ()

    @model_validator(mode="after")
    def _instances_need_their_series(self) -> Self:
        """A unique key of a level needs those of the levels above it (PS3.4 section C.4.2.2.1)."""
        if self.sop_instance_uids and self.series_uid is None:
            raise ValueError("sop_instance_uids need the series_uid that they belong to")
        return self


class MoveRequest(_RetrieveOperation):
    """Let the peer send a study or series to the AE ``move_aet``, whoever that is (C-MOVE, PS3.4 section C.4.2)."""

    task: ClassVar[str] = "pacs_tasks.move"

    move_aet: AETitle


class GetRequest(_RetrieveOperation):
    """Fetch a study or series to ``output_dir`` on the association that asks for it (C-GET, PS3.4 section C.4.3)."""

    task: ClassVar[str] = "pacs_tasks.get"

    output_dir: str = Field(min_length=1)


class RetrieveRequest(TransferRequest):
    """Bring a study (or one series of it) to ``output_dir`` and compare what arrived with what the peer listed.

    ``move_aet`` names the receiver to use; where left out, any receiver that runs.
    """

    task: ClassVar[str] = "pacs_tasks.retrieve"

    study_uid: UID
    output_dir: str = Field(min_length=1)
    series_uid: UID | None = None
    method: RetrieveMethod = RetrieveMethod.AUTO
    move_aet: AETitle | None = None
