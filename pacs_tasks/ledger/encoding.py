"""How the ledger keeps what became of an instance.

Success is what nearly every instance of a job has in common, so it is kept short, as one item of a list: a job of
100,000 files takes about 20 MB. So is what was there already. What is anything else is kept whole. In both, study and
series are a number: the ledger adds it, and knows the pair.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping

from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory

#: What the ledger puts before the number of study and series, at the end of a short and of a whole outcome.
BEFORE_SERIES_SHORT = ","
BEFORE_SERIES_WHOLE = ',"series":'

#: Number to study and series.
Series = Mapping[int, tuple[str, str]]

_PLAIN = Status(code=0x0000, category=StatusCategory.SUCCESS, meaning="success")
_MILLISECONDS = 1000
#: How a short outcome came about: without a status, with success, or not at all, since it was there already.
_UNANSWERED, _ANSWERED, _PRESENT = 0, 1, 2
#: Fields of a short outcome before that number.
_FIELDS = 12


def short(index: int, outcome: InstanceOutcome) -> str | None:
    """Write a success, or what was there already; nothing if there is more to say about it than a receipt holds."""
    how = _how(outcome)
    if how is None or outcome.error or outcome.reason:
        return None
    begun = round(outcome.begun * _MILLISECONDS)
    fields = (
        index,
        outcome.sop_class_uid,
        outcome.sop_instance_uid,
        outcome.transfer_syntax_uid,
        outcome.size,
        how,
        outcome.attempts,
        begun,
        round(outcome.ended * _MILLISECONDS) - begun,
        outcome.worker,
        b64encode(bytes.fromhex(outcome.sha256)).decode("ascii").rstrip("="),
        outcome.path,
    )
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def _how(outcome: InstanceOutcome) -> int | None:
    if outcome.category is InstanceCategory.PRESENT:
        return _PRESENT if outcome.status is None else None
    if outcome.category is not InstanceCategory.SUCCESS or outcome.status not in {None, _PLAIN}:
        return None
    return _UNANSWERED if outcome.status is None else _ANSWERED


def whole(outcome: InstanceOutcome) -> str:
    """Write anything else."""
    return outcome.model_dump_json(exclude_defaults=True, exclude={"study_uid", "series_uid"})


def index_of(text: str) -> int:
    """The index of what :func:`short` wrote, without reading the rest."""
    return int(text[1 : text.index(",")])


def read(text: str, known: Series) -> tuple[int, InstanceOutcome]:
    """Read what :func:`short` wrote: the index and the outcome, whose subject the manifest knows."""
    fields = json.loads(text)
    index, sop_class, sop_instance, syntax, size, how, attempts, begun, took, worker, digest, path = fields[:_FIELDS]
    study_uid, series_uid = known.get(fields[_FIELDS], ("", "")) if len(fields) > _FIELDS else ("", "")
    return index, InstanceOutcome(
        subject="",
        category=InstanceCategory.PRESENT if how == _PRESENT else InstanceCategory.SUCCESS,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        study_uid=study_uid,
        series_uid=series_uid,
        transfer_syntax_uid=syntax,
        size=size,
        status=_PLAIN if how == _ANSWERED else None,
        attempts=attempts,
        begun=begun / _MILLISECONDS,
        ended=(begun + took) / _MILLISECONDS,
        worker=worker,
        sha256=b64decode(digest + "=" * (-len(digest) % 4)).hex(),
        path=path,
    )


def read_whole(text: str, known: Series) -> InstanceOutcome:
    """Read what :func:`whole` wrote."""
    fields = json.loads(text)
    study_uid, series_uid = known.get(fields.pop("series", -1), ("", ""))
    return InstanceOutcome.model_validate({**fields, "study_uid": study_uid, "series_uid": series_uid})
