"""One try at a part of a retrieve: choose the way, C-MOVE or C-GET, and say what did not come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Task

from pacs_tasks.dimse import c_get
from pacs_tasks.dimse.contexts import COMMON_STORAGE_CLASSES
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.layout import Layout
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory
from pacs_tasks.receivers import Receiver
from pacs_tasks.request import GetRequest, RetrieveMethod, RetrieveRequest
from pacs_tasks.tasks.arrivals import Arrivals
from pacs_tasks.tasks.associations import leased
from pacs_tasks.tasks.job import local_ae, timeouts
from pacs_tasks.tasks.moving import Moving, NoReceiverError, listens, receiver_for
from pacs_tasks.tasks.transfer import Part

#: "Move destination unknown" (PS3.4 table C.4-2).
_DESTINATION_UNKNOWN = 0xA801
_UNABLE = 0xC000


class Fetching:
    """One try at a part."""

    def __init__(self, part: Part, request: RetrieveRequest, *, whole_series: bool) -> None:
        self._part, self._request = part, request
        layout = Layout(request.layout, request.remote.charset)
        self._arrivals = Arrivals(part, Path(request.directory), layout)
        whole = whole_series and len(part.left) == part.size
        first = next(iter(part.left.values()))
        #: What C-MOVE and C-GET ask for.
        self._named: dict[str, Any] = {
            "study_uid": first[3],
            "series_uid": first[1],
            "sop_instance_uids": () if whole else tuple(self._arrivals.index_of),
        }
        self._hint = ""
        #: The receiver that C-MOVE was to deliver to.
        self._asked: Receiver | None = None

    def ask(self, task: Task) -> Status:
        """Ask for the instances in the way that the request names."""
        if self._request.method is RetrieveMethod.GET:
            return self.get()
        return self.move(task) if self._request.method is RetrieveMethod.MOVE else self.auto(task)

    def auto(self, task: Task) -> Status:
        """C-MOVE where a receiver runs and the peer knows it, else C-GET."""
        try:
            status = self.move(task)
        except (NoReceiverError, ContextRejectedError) as error:
            self._asked = None
            self._hint = f" (C-MOVE was no way: {error})"
            return self.get()
        if status.code == _DESTINATION_UNKNOWN:
            self._hint = f" (C-MOVE was no way: {status})"
            return self.get()
        return status

    def get(self) -> Status:
        """Fetch by C-GET straight into the output directory."""
        request = self._request
        asked = GetRequest(remote=request.remote, output_dir=request.directory, **self._named)
        classes = {entry[2] for entry in self._part.left.values()}
        if "" in classes:
            # Not every peer lists them.
            classes = (classes | set(COMMON_STORAGE_CLASSES)) - {""}
        try:
            with leased(request.remote, self._part.must_end, one_of_many=True) as stop:
                outcome = c_get.get(
                    asked,
                    local_ae(request),
                    timeouts(request),
                    stop,
                    classes,
                    self._arrivals.take,
                    place=self._arrivals.place,
                )
        except ContextRejectedError as error:
            raise ContextRejectedError(f"{error.message}{self._hint}") from None
        finally:
            self._arrivals.record()
        return outcome.status

    def move(self, task: Task) -> Status:
        """Have it sent to a receiver that shares its storage with this worker, and take it from there."""
        self._asked = receiver_for(self._request.move_aet)
        return Moving(self._part, self._request, self._named, self._arrivals, self._asked).move(task).status

    def worth_another_try(self, status: Status, *, first: bool) -> bool:
        """Whether what did not come now, although nothing did, may come the next time."""
        if status.category is StatusCategory.TRANSIENT or (self._asked is not None and not listens(self._asked)):
            return True
        # Cxxx may be anything (PS3.4 tables C.4-2 and C.4-3): Orthanc says so when the receiver hangs up.
        return first and (status.category is not StatusCategory.PERMANENT or status.code & 0xF000 == _UNABLE)

    def record_missing(self, status: Status) -> None:
        """What the peer listed and did not deliver, by name."""
        for sop_instance_uid, index in self._arrivals.index_of.items():
            if index in self._part.left:
                reason = f"the peer lists it but did not deliver it ({status}){self._hint}; retry the job"
                self._part.record(
                    index,
                    InstanceOutcome(
                        subject=sop_instance_uid,
                        category=InstanceCategory.MISSING,
                        sop_class_uid=self._part.left[index][2],
                        sop_instance_uid=sop_instance_uid,
                        status=None if status.category is StatusCategory.SUCCESS else status,
                        reason=reason,
                    ),
                )
