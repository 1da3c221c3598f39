"""A receipt for each instance of a job: what was sent or received, when, by whom, and what the peer said about it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.commitments import Commitments
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.outcomes import Instances, Line
from pacs_tasks.outcome import InstanceOutcome, ShownPath
from pacs_tasks.outcome.verification import Commitment
from pacs_tasks.request import RetrieveRequest, StoreDirectoryRequest, StoreRequest

_WITH_RECEIPTS = frozenset({StoreRequest.task, StoreDirectoryRequest.task, RetrieveRequest.task})

#: The category of what has no outcome: it was not begun, or is not finished.
NONE = "none"


class Receipt(BaseModel):
    """One line of a report. What is not known is empty; times are ISO 8601 in UTC, to the millisecond."""

    model_config = ConfigDict(frozen=True)

    #: The file that was sent, or where the instance that was received lies.
    path: ShownPath = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    transfer_syntax_uid: str = ""
    #: Of the file.
    bytes: int = 0
    #: Hexadecimal, of the encoded data set as it was sent.
    sha256: str = ""
    #: ``success``, ``warning``, ``failed``, ``missing``, ``present``, ``skipped`` or ``none``.
    category: str = NONE
    #: Of the response, four hexadecimal digits.
    status: str = ""
    reason: str = ""
    attempts: int = 0
    begun: str = ""
    ended: str = ""
    worker: str = ""
    #: ``committed``, ``failed``, ``pending``, or empty where nobody asked for it.
    commitment: str = ""
    commitment_time: str = ""
    commitment_peer: str = ""
    commitment_reason: str = ""


def receipts_of(ledger: Ledger, job_id: str) -> Iterator[Receipt]:
    """The receipts of a job in the order of its manifest, read as they are asked for.

    Raises
    ------
    JobNotFoundError
        If there is no such job.
    InvalidRequestError
        If it is none that sends or retrieves instance by instance.
    """
    if ledger.progress(job_id).task not in _WITH_RECEIPTS:
        raise InvalidRequestError(
            f"job {job_id} has no receipts; name a job of send-file, send-dir or retrieve (`pacs-tasks jobs` lists all)"
        )
    return _receipts(ledger, job_id)


def _receipts(ledger: Ledger, job_id: str) -> Iterator[Receipt]:
    request = ledger.request(job_id)
    lines = Instances(ledger, job_id).in_order()
    if isinstance(request, RetrieveRequest):
        for line in lines:
            yield _received(line)
        return
    words = Commitments(ledger, job_id).last_words()
    for line in lines:
        yield _sent(line, words.about(line))


def _received(line: Line) -> Receipt:
    """Where the peer gave a count alone, only what came has a SOP Instance UID; a row without a study has nothing."""
    name, series_uid, sop_class_uid, study_uid = line.entry
    known = {"sop_instance_uid": "" if " " in name else name, "sop_class_uid": sop_class_uid, "series_uid": series_uid}
    named = Receipt(study_uid=study_uid, **known)
    if line.outcome is None:
        return named
    common = _common(line.outcome)
    if not study_uid:
        common["reason"] = f"{name}: {line.outcome.reason}"
    found = {field: value or getattr(line.outcome, field) for field, value in known.items()}
    return named.model_copy(update={**found, "path": line.outcome.path, **common})


def _sent(line: Line, word: Commitment | None) -> Receipt:
    outcome = line.outcome
    if outcome is None:
        return Receipt(path=line.entry[0])
    return Receipt(
        path=outcome.subject,
        sop_class_uid=outcome.sop_class_uid,
        sop_instance_uid=outcome.sop_instance_uid,
        study_uid=outcome.study_uid,
        series_uid=outcome.series_uid,
        commitment=word.state if word else "",
        commitment_time=_time(word.time) if word else "",
        commitment_peer=word.peer if word else "",
        commitment_reason=word.reason if word else "",
        **_common(outcome),
    )


def _common(outcome: InstanceOutcome) -> dict[str, Any]:
    return {
        "transfer_syntax_uid": outcome.transfer_syntax_uid,
        "bytes": outcome.size,
        "sha256": outcome.sha256,
        "category": str(outcome.category),
        "status": f"{outcome.status.code:04X}" if outcome.status is not None else "",
        "reason": outcome.reason,
        "attempts": outcome.attempts,
        "begun": _time(outcome.begun),
        "ended": _time(outcome.ended),
        "worker": outcome.worker,
    }


def _time(seconds: float) -> str:
    """Unix seconds in UTC, which is the same on every machine; nothing for 0."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds") if seconds else ""
