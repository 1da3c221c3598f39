"""The audit trail of jobs: what each job asked for and what came of it, read from the ledger when it has ended.

The ledger is the buffer: a job stays due until its events are written, so that a full disk or a syslog server that is
away delays the trail and loses none of it for as long as Redis keeps the job. One worker at a time writes; the
transfers themselves are not held up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pacs_tasks.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    JobNotFoundError,
    MissingKeyError,
    PacsTasksError,
    SealingError,
)
from pacs_tasks.fleet.audits import Audits
from pacs_tasks.journal.audit import (
    RESTRICTED_FUNCTION,
    START,
    STOP,
    Code,
    Event,
    Kind,
    Party,
    Sink,
    message,
    privacy,
    sink_of,
)
from pacs_tasks.layout import elements_of
from pacs_tasks.ledger.ends import End
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import GetOutcome, MoveOutcome, Outcome, Progress, TransferOutcome
from pacs_tasks.outcome.instance import InstanceCategory
from pacs_tasks.request import (
    AnyRequest,
    FindBatchRequest,
    FindRequest,
    GetRequest,
    MoveRequest,
    RetrieveRequest,
    VerifyRequest,
)
from pacs_tasks.request.store import SENDING
from pacs_tasks.sealing import sealing_of
from pacs_tasks.settings import Settings, settings
from pacs_tasks.tasks.engine.base import ledger
from pacs_tasks.tasks.engine.permissions import enqueuer_of

logger = logging.getLogger(__name__)

#: Seconds between two rounds, and after which another worker writes the events of a job whose writer has died.
_INTERVAL = 1.0
#: What the events that belong to no job are claimed by.
_OTHERS = "others"
#: Characters of the keys of a query in one event.
_LONGEST_KEYS = 16_384
_RETRIEVING = (MoveRequest, GetRequest, RetrieveRequest)
_QUERIES = (FindRequest, FindBatchRequest, VerifyRequest)
_PATIENT_NAME, _PATIENT_ID = 0x0010_0010, 0x0010_0020
#: Component groups of a person's name (PS3.5 section 6.2.1.2), in the order of its text.
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_HERE = (InstanceCategory.SUCCESS, InstanceCategory.WARNING, InstanceCategory.PRESENT)


class _Study(NamedTuple):
    """What became of one study, and a file of it, from which its patient is read."""

    study_uid: str
    category: str
    instances: int
    path: str = ""


def events_of(record: Ledger, end: End, *, begun: bool) -> Iterator[Event]:
    """Give the events of a job: of its beginning, and when it has ended, of its query or of each study.

    Parameters
    ----------
    begun
        The event of its beginning is written already.

    Raises
    ------
    PacsTasksError
        If its record cannot be read.
    """
    progress, outcome = end
    job_id = progress.job_id
    request = record.request(job_id, bulk=True)
    if not (isinstance(request, (*_RETRIEVING, *_QUERIES)) or request.task in SENDING):
        return
    event = _event(record, progress, request)
    if not begun and event.kind is Kind.TRANSFERRED:
        yield replace(event, kind=Kind.BEGIN, time=progress.started or progress.created)
    if outcome is None:
        return
    if event.kind is Kind.QUERY:
        yield replace(event, category=_category(outcome))
        return
    for study in _studies(record, job_id, request, outcome):
        patient_id, patient_name = _patient_of(study.path, request.remote.charset)
        yield replace(
            event,
            keys="",
            category=study.category,
            study_uid=study.study_uid,
            instances=study.instances,
            patient_id=patient_id or event.patient_id,
            patient_name=patient_name,
        )


def _category(outcome: Outcome | PacsTasksError) -> str:
    return "failed" if isinstance(outcome, PacsTasksError) else str(outcome.category)


def _event(record: Ledger, progress: Progress, request: AnyRequest) -> Event:
    """What the events of a job have in common."""
    ours = Party((request.local or settings().local).ae_title)
    theirs = Party(request.remote.ae_title, request.remote.host)
    proven, said = enqueuer_of(record, progress.job_id, request), record.requester(progress.job_id)
    event = Event(
        kind=Kind.QUERY if isinstance(request, _QUERIES) else Kind.TRANSFERRED,
        time=progress.finished or time.time(),
        enqueuer=proven or said,
        requester=said if proven else "",
        source=ours,
        destination=theirs,
        job_id=progress.job_id,
        task=progress.task,
        keys=_keys_of(request),
    )
    if not isinstance(request, _RETRIEVING):
        return event
    event = replace(event, source=theirs, destination=ours)
    if isinstance(request, MoveRequest):
        event = replace(event, destination=Party(request.move_aet))
    elif isinstance(request, RetrieveRequest):
        event = replace(event, patient_id=request.patient_id or "")
        if request.to is not None:
            event = replace(event, destination=Party(request.to.ae_title, request.to.host))
    return event


def _keys_of(request: AnyRequest) -> str:
    """What was asked for, as JSON."""
    names = {"keys", "rows", "level", "study_uid", "series_uid", "sop_instance_uids", "accession_number", "patient_id"}
    names |= {"selections", "job_id"}
    text = request.model_dump_json(include=names & set(type(request).model_fields), exclude_defaults=True)
    return "" if text == "{}" else text[:_LONGEST_KEYS]


def _studies(record: Ledger, job_id: str, request: AnyRequest, outcome: Outcome | PacsTasksError) -> Iterator[_Study]:
    """Give what became of each study; of the whole job if no study is known."""
    named = request.study_uid or "" if isinstance(request, _RETRIEVING) else ""
    if isinstance(outcome, TransferOutcome):
        found = list(_studies_of_transfer(record, job_id))
        known = {each.study_uid for each in found}
        found += [_Study(each.study_uid, each.category, 0) for each in outcome.studies if each.study_uid not in known]
        yield from found or [_Study("", _category(outcome), 0)]
    elif isinstance(outcome, GetOutcome):
        paths = [each.path for each in outcome.instances]
        yield _Study(named, outcome.category, len(paths), next(iter(paths), ""))
    elif isinstance(outcome, MoveOutcome):
        counts = outcome.suboperations
        yield _Study(named, outcome.category, counts.completed + counts.warning)
    else:
        yield _Study(named, "failed", 0)


def _studies_of_transfer(record: Ledger, job_id: str) -> Iterator[_Study]:
    counts: dict[str, list[int]] = {}
    paths: dict[str, str] = {}
    for line in Instances(record, job_id).in_order():
        each = line.outcome
        if each is None:
            continue
        study_uid = each.study_uid or getattr(line.line, "study_uid", "")
        if not study_uid:
            continue
        count = counts.setdefault(study_uid, [0, 0])
        count[each.category not in _HERE] += 1
        paths.setdefault(study_uid, each.path or each.subject)
    for study_uid, (done, failed) in counts.items():
        category = "success" if not failed else "partial" if done else "failed"
        yield _Study(study_uid, category, done, paths[study_uid])


def _patient_of(path: str, charset: str) -> tuple[str, str]:
    """Read Patient ID and name from a file; nothing where it cannot be read any more."""
    if not Path(path).is_absolute():
        return "", ""
    try:
        found = elements_of(path, (_PATIENT_NAME, _PATIENT_ID), charset)
    except OSError:
        return "", ""
    return _text(found.get(f"{_PATIENT_ID:08X}", {})), _text(found.get(f"{_PATIENT_NAME:08X}", {}))


def _text(element: dict[str, Any]) -> str:
    """The values of a DICOM JSON element (PS3.18 section F.2.2) as they stand in a data set."""
    return "\\".join(_one(value) for value in element.get("Value") or () if value is not None)


def _one(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "=".join(value.get(group, "") for group in _GROUPS).rstrip("=")


class Trail:
    """Writes what is due, until the worker ends."""

    def __init__(self, config: Settings, sink: Sink, record: Ledger) -> None:
        self._sink, self._record = sink, record
        self._audits = Audits(record.client)
        self._private = privacy(config.audit_patients, sealing_of(record.client))
        self._failed = False

    def write(self, *events: Event) -> bool:
        """Write events; false, which is logged once, if that cannot be done now."""
        try:
            self._sink.write([message(event, self._private) for event in events])
        except OSError as error:
            if not self._failed:
                logger.error(
                    "The audit trail cannot be written (%s). Jobs continue; the trail is kept in Redis and is written "
                    "when that is possible again. Check PACS_TASKS_AUDIT.",
                    error.strerror or type(error).__name__,
                )
            self._failed = True
            return False
        if self._failed:
            logger.warning("The audit trail is written again.")
        self._failed = False
        return True

    def round(self) -> None:
        """Write the events of every job that has ended, and those that belong to no job."""
        if self._audits.claim(_OTHERS):
            try:
                self._write_others()
            finally:
                self._audits.release(_OTHERS)
        for job_id, begun in self._audits.due():
            if not self._write_job(job_id, begun=begun):
                return

    def _write_others(self) -> None:
        """Write the events that belong to no job, until one cannot be written now."""
        while True:
            try:
                text = self._audits.first()
            except MissingKeyError:
                return  # Another worker has its key.
            except SealingError as error:
                logger.error("An event of the audit trail is left out: %s", error.message)
            else:
                if text is None or not self.write(Event.from_json(text)):
                    return
            self._audits.drop_first()

    def _write_job(self, job_id: str, *, begun: bool) -> bool:
        """Write the events of a job unless somebody else does; false if they cannot be written now."""
        try:
            progress = self._record.progress(job_id)
            if (begun and progress.finished is None) or not self._audits.claim(job_id):
                return True
            try:
                return not self._audits.is_due(job_id, begun=begun) or self._write_events(progress, begun=begun)
            finally:
                self._audits.release(job_id)
        except MissingKeyError:
            return True  # Another worker has its key.
        except JobNotFoundError:
            self._audits.done(job_id)
        except BrokerUnavailableError:
            raise  # That is not the record's fault: it is read again.
        except PacsTasksError as error:
            alert(RESTRICTED_FUNCTION, Party("unknown"), f"The record of job {job_id}: {error.public().message}")
            self._audits.done(job_id)
        return True

    def _write_events(self, progress: Progress, *, begun: bool) -> bool:
        end = self._end_of(progress)
        if not self.write(*events_of(self._record, end, begun=begun)):
            return False
        if end.outcome is None:
            self._audits.record_begun(end.progress.job_id)
        else:
            self._audits.done(end.progress.job_id)
        return True

    def _end_of(self, progress: Progress) -> End:
        """Read how a job ended. One whose outcome is spoiled has failed for the trail."""
        try:
            return self._record.end(progress.job_id)
        except (BrokerUnavailableError, JobNotFoundError, MissingKeyError):
            raise
        except PacsTasksError as error:
            return End(progress, error if progress.finished is not None else None)


def watch_audits(stopped: threading.Event) -> None:
    """Write the audit trail until ``stopped``; the start and the end of this process are events too."""
    config = settings()
    try:
        sink = sink_of(config)
    except ConfigurationError as error:
        logger.error("There is no audit trail: %s", error.message)
        return
    if sink is None:
        return
    trail, audits = Trail(config, sink, ledger()), Audits(ledger().client)
    audits.put(Event(Kind.APPLICATION, time.time(), type=START).as_json())
    while True:
        ended = stopped.wait(_INTERVAL)
        try:
            if ended:
                audits.put(Event(Kind.APPLICATION, time.time(), type=STOP).as_json())
            audits.want()
            trail.round()
        except Exception as error:  # noqa: BLE001 - Redis may be unavailable in many ways
            logger.warning("a round of the audit trail failed (%s); it runs again", type(error).__name__)
        if ended:
            return


def alert(kind: Code, party: Party, detail: str) -> None:
    """Add a Security Alert to the trail, if there is one: a caller is not let in, or a message is not genuine."""
    if settings().audit:
        event = Event(Kind.ALERT, time.time(), category="failed", type=kind, source=party, detail=detail)
        Audits(ledger().client).put(event.as_json())
