"""How the ledger keeps what became of an instance.

Success is what nearly every instance of a job has in common, so it is kept short, as one item of a list: a job of
100,000 files takes about 20 MB. What is anything else is kept whole.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory

_PLAIN = Status(code=0x0000, category=StatusCategory.SUCCESS, meaning="success")
_MILLISECONDS = 1000


def short(index: int, outcome: InstanceOutcome) -> str | None:
    """Write a success; nothing if there is more to say about it than a receipt holds."""
    plain = outcome.category is InstanceCategory.SUCCESS and outcome.status in {None, _PLAIN}
    if not plain or outcome.error or outcome.reason:
        return None
    begun = round(outcome.begun * _MILLISECONDS)
    fields = (
        index,
        outcome.sop_class_uid,
        outcome.sop_instance_uid,
        outcome.transfer_syntax_uid,
        outcome.size,
        int(outcome.status is not None),
        outcome.attempts,
        begun,
        round(outcome.ended * _MILLISECONDS) - begun,
        outcome.worker,
        b64encode(bytes.fromhex(outcome.sha256)).decode("ascii").rstrip("="),
        outcome.path,
    )
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def read(text: str) -> tuple[int, InstanceOutcome]:
    """Read what :func:`short` wrote: the index and the outcome, whose subject the manifest knows."""
    index, sop_class, sop_instance, syntax, size, answered, attempts, begun, took, worker, digest, path = json.loads(
        text
    )
    return index, InstanceOutcome(
        subject="",
        category=InstanceCategory.SUCCESS,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        transfer_syntax_uid=syntax,
        size=size,
        status=_PLAIN if answered else None,
        attempts=attempts,
        begun=begun / _MILLISECONDS,
        ended=(begun + took) / _MILLISECONDS,
        worker=worker,
        sha256=b64decode(digest + "=" * (-len(digest) % 4)).hex(),
        path=path,
    )
