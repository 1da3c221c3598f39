"""``pacs_tasks.retrieve``: bring a study here, and compare what arrived with what the peer listed.

The planner asks the peer which instances there are: the promise. A part is a series, or a slice of a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from celery import Task

from pacs_tasks.app import app
from pacs_tasks.dimse import c_find
from pacs_tasks.errors import (
    AssociationError,
    InvalidRequestError,
    JobCancelledError,
    JobFailedError,
    PeerBusyError,
)
from pacs_tasks.manifest import Entry
from pacs_tasks.outcome import Category, FindOutcome, Proof
from pacs_tasks.request import FindRequest, Level, RetrieveRequest
from pacs_tasks.studies import Study
from pacs_tasks.tasks.again import come_again
from pacs_tasks.tasks.associations import leased
from pacs_tasks.tasks.claim import Claim
from pacs_tasks.tasks.job import JobTask, ledger, local_ae, pause, timeouts
from pacs_tasks.tasks.paths import writable_directory
from pacs_tasks.tasks.retrieve_part import fetch
from pacs_tasks.tasks.transfer import Part, Promise, Range, fan_out, finish, pending, plan, work_on

#: A series with more instances is fetched in slices, by lists of UIDs: VR UI holds 64 KiB in explicit encodings.
PART_INSTANCES = 500


def cut(entries: Sequence[Entry]) -> list[Range]:
    """Cut a manifest into parts: consecutive instances of one series, at most :data:`PART_INSTANCES`."""
    ranges: list[Range] = []
    start = 0
    for index in range(1, len(entries) + 1):
        ended = index == len(entries) or _series(entries[index]) != _series(entries[start])
        if ended or index - start == PART_INSTANCES:
            ranges.append((start, index))
            start = index
    return ranges


def _series(entry: Entry) -> tuple[str, str]:
    return entry[3], entry[1]


def _ranges(job_id: str) -> list[Range]:
    return pending(job_id, cut(ledger().manifest.entries(job_id, 0, ledger().progress(job_id).counters.total)))


def _value(match: dict[str, Any], tag: str) -> str:
    """The first value of an element of a DICOM JSON object, as text (PS3.18 section F.2.2)."""
    values = match.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _listed(request: RetrieveRequest, claim: Claim, level: Level, keys: dict[str, str]) -> FindOutcome:
    asked = FindRequest(remote=request.remote, local=request.local, timeout=request.timeout, level=level, keys=keys)
    with leased(request.remote, claim) as stop:
        outcome = c_find.find(asked, local_ae(request), timeouts(request), stop)
    if claim.cancelled:
        raise JobCancelledError("cancelled before anything was fetched")
    if outcome.category is not Category.SUCCESS:
        raise JobFailedError(
            f"{request.remote} cannot list the {'series' if level is Level.SERIES else 'instances'} of the study "
            f"({outcome.status}); without that list nothing can be said to be complete",
            request.study_uid or "",
        )
    return outcome


def _promise(request: RetrieveRequest, claim: Claim) -> Promise:
    """Ask for the series, then for the instances of each: hierarchically, as every peer must support it.

    PS3.4 section C.4.1.2.1.
    """
    study_uid = _served(request)
    writable_directory(request.directory)
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": request.series_uid or ""}
    series = sorted({_value(match, "0020000E") for match in _listed(request, claim, Level.SERIES, keys).matches} - {""})
    entries: list[Entry] = []
    for series_uid in series:
        keys = {
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": series_uid,
            "SOPInstanceUID": "",
            "SOPClassUID": "",
        }
        found = {
            _value(match, "00080018"): _value(match, "00080016")
            for match in _listed(request, claim, Level.IMAGE, keys).matches
        }
        entries += [
            [sop_instance_uid, series_uid, found[sop_instance_uid], study_uid] for sop_instance_uid in sorted(found)
        ]
    if not entries:
        what = "series of this study" if request.series_uid else "study"
        raise JobFailedError(
            f"{request.remote} lists no instance of this {what}; "
            "check the Study Instance UID, for example with `pacs-tasks query`",
            request.series_uid or study_uid,
        )
    return Promise(entries, [Study(study_uid=study_uid, lines=((0, len(entries)),), proof=Proof.INSTANCES)])


def _served(request: RetrieveRequest) -> str:
    """The study that is asked for.

    Raises
    ------
    InvalidRequestError
        If what is asked for is not served.
    """
    unserved = ("accession_number", "selections", "sop_instance_uids", "to", "layout", "overwrite")
    if request.study_uid is None or any(getattr(request, name) for name in unserved):
        raise InvalidRequestError("this worker retrieves a study or one series of it to an output_dir, no more")
    return request.study_uid


@app.task(bind=True, base=JobTask, name=RetrieveRequest.task)  # type: ignore[untyped-decorator]
def retrieve(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Retrieve a study or series: asks what there is and becomes a chord of parts."""

    def chord_of_parts(_: RetrieveRequest, job_id: str) -> None:
        fan_out(self, job_id, _ranges(job_id), retrieve_part, retrieve_finish)

    return plan(self, request, RetrieveRequest, _promise, chord_of_parts)


@app.task(bind=True, name="pacs_tasks.retrieve_part", ignore_result=True)  # type: ignore[untyped-decorator]
def retrieve_part(self: Task, job_id: str, start: int, stop: int, tries: int = 0) -> None:
    """Fetch the instances ``start`` up to ``stop`` of a job's manifest; never raises for an instance."""

    def work(part: Part) -> bool:
        part.claim.check_deaths()
        request = cast(RetrieveRequest, ledger().request(job_id))
        try:
            return fetch(self, part, request, whole_series=_is_whole(job_id, start, stop), tries=tries)
        except PeerBusyError:
            raise
        except AssociationError as error:
            part.fail_rest(error)
            return False

    if work_on(self, job_id, start, stop, work):
        come_again(self, pause(tries), kwargs={"tries": tries + 1})


def _is_whole(job_id: str, start: int, stop: int) -> bool:
    """Whether a part holds all instances of its series."""
    around = ledger().manifest.entries(job_id, max(start - 1, 0), stop + 1)
    series = _series(around[1 if start else 0])
    expected = stop - start + (1 if start else 0)
    before = start > 0 and _series(around[0]) == series
    after = len(around) > expected and _series(around[expected]) == series
    return not before and not after


@app.task(bind=True, name="pacs_tasks.retrieve_finish")  # type: ignore[untyped-decorator]
def retrieve_finish(self: Task, job_id: str) -> dict[str, Any]:
    """The chord's body: the summary of the job."""
    return finish(self, job_id, _ranges, retrieve_part)
