"""Receipts: the instances that a job sent or received, with times, worker, status and storage commitment."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.commitments import Commitments
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.manifest import CountedLine, FileLine, InstanceLine, RetrieveLine, SelectionLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceOutcome, ShownPath
from pacs_tasks.outcome.verification import Commitment
from pacs_tasks.request import RetrieveRequest
from pacs_tasks.request.store import SENDING

#: The public tasks whose jobs have a receipt for each file or instance.
WITH_RECEIPTS = SENDING | {RetrieveRequest.task}


class Receipt(BaseModel):
    """One row of a report. An unknown value is empty; times are ISO 8601 in UTC, to the millisecond."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    #: The file that was sent, or the file of a received instance.
    path: ShownPath = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    transfer_syntax_uid: str = ""
    #: Size of the file.
    bytes: int = 0
    #: SHA-256 of the encoded data set as it was sent, hexadecimal.
    sha256: str = ""
    #: ``success``, ``warning``, ``failed``, ``missing``, ``present``, ``skipped``, or ``none``: it has no outcome yet.
    category: str = "none"
    #: Status of the response, four hexadecimal digits.
    status: str = ""
    reason: str = ""
    attempts: int = 0
    begun: str = ""
    ended: str = ""
    worker: str = ""
    #: ``committed``, ``failed``, ``pending``, or empty if commitment was not requested.
    commitment: str = ""
    commitment_time: str = ""
    commitment_peer: str = ""
    commitment_reason: str = ""
    #: The transfer syntax in which a file was sent, if that is another one than its own.
    sent_as: str = ""


def receipts_of(ledger: Ledger, job_id: str) -> Iterator[Receipt]:
    """Read the receipts of a job one after the other, in the order of its manifest.

    Raises
    ------
    JobNotFoundError
        If there is no such job.
    InvalidRequestError
        If the job does not send or retrieve instance by instance.
    """
    if ledger.progress(job_id).task not in WITH_RECEIPTS:
        raise InvalidRequestError(
            f"Job {job_id} has no receipts. "
            "Name a job of send, send-file, send-dir or retrieve; run `pacs-tasks jobs` to list them."
        )
    return _receipts(ledger, job_id)


def _receipts(ledger: Ledger, job_id: str) -> Iterator[Receipt]:
    commitments = Commitments(ledger, job_id).latest()
    for each in Instances(ledger, job_id).in_order():
        match each.line:
            case FileLine():
                yield _sent(each.line, each.outcome, commitments.of(each))
            case InstanceLine() | CountedLine() | SelectionLine():
                yield _received(each.line, each.outcome)


def _received(line: RetrieveLine, outcome: InstanceOutcome | None) -> Receipt:
    """Make the receipt of an instance; the outcome completes the fields that the remote did not list."""
    if outcome is None:
        return Receipt(
            sop_class_uid=line.sop_class_uid,
            sop_instance_uid=line.sop_instance_uid,
            study_uid=line.study_uid,
            series_uid=line.series_uid,
        )
    common = _common(outcome)
    if not line.study_uid:
        common["reason"] = f"{line.subject}: {outcome.reason}"
    return Receipt(
        path=outcome.path,
        sop_class_uid=line.sop_class_uid or outcome.sop_class_uid,
        sop_instance_uid=line.sop_instance_uid or outcome.sop_instance_uid,
        study_uid=line.study_uid,
        series_uid=line.series_uid or outcome.series_uid,
        **common,
    )


def _sent(line: FileLine, outcome: InstanceOutcome | None, commitment: Commitment | None) -> Receipt:
    if outcome is None:
        return Receipt(path=line.path)
    return Receipt(
        path=outcome.subject,
        sop_class_uid=outcome.sop_class_uid,
        sop_instance_uid=outcome.sop_instance_uid,
        study_uid=outcome.study_uid,
        series_uid=outcome.series_uid,
        commitment=commitment.state if commitment else "",
        commitment_time=_time(commitment.time) if commitment else "",
        commitment_peer=commitment.peer if commitment else "",
        commitment_reason=commitment.reason if commitment else "",
        **_common(outcome),
    )


def _common(outcome: InstanceOutcome) -> dict[str, Any]:
    return {
        "transfer_syntax_uid": outcome.transfer_syntax_uid,
        "sent_as": outcome.sent_as,
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
    """Write Unix seconds in UTC, which is the same on every machine; empty for 0."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds") if seconds else ""
