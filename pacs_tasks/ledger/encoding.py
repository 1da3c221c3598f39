"""How the ledger writes the outcome of an instance.

Most instances of a job succeed or were already there: their outcome is written as a short list, so that a job of
100,000 files takes about 20 MB. Any other outcome is written whole. In both, a number stands for study and series: the
ledger adds it, and keeps the pairs.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping

from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory

#: The text that the ledger adds before the number of study and series, at the end of a short and of a whole outcome.
BEFORE_SERIES_SHORT = ","
BEFORE_SERIES_WHOLE = ',"series":'

#: Number to study and series.
Series = Mapping[int, tuple[str, str]]

#: A success as ``dimse.status`` gives it. Its meaning is not stored: it is the same for every plain success.
_PLAIN = Status(code=0x0000, category=StatusCategory.SUCCESS, meaning="Success.")
_MILLISECONDS = 1000
#: The kinds of a short outcome: a success without and with a status, and an instance that was already there.
_UNANSWERED, _ANSWERED, _PRESENT = 0, 1, 2
#: Fields of a short outcome before that number.
_FIELDS = 12


def encode_short(index: int, outcome: InstanceOutcome) -> str | None:
    """Write a success, or an instance that was already there; nothing if the outcome holds more than that."""
    kind = _kind_of(outcome)
    if kind is None or outcome.error or outcome.reason:
        return None
    begun = round(outcome.begun * _MILLISECONDS)
    fields = (
        index,
        outcome.sop_class_uid,
        outcome.sop_instance_uid,
        outcome.transfer_syntax_uid,
        outcome.size,
        kind,
        outcome.attempts,
        begun,
        round(outcome.ended * _MILLISECONDS) - begun,
        outcome.worker,
        b64encode(bytes.fromhex(outcome.sha256)).decode("ascii").rstrip("="),
        outcome.path,
    )
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def _kind_of(outcome: InstanceOutcome) -> int | None:
    if outcome.category is InstanceCategory.PRESENT:
        return _PRESENT if outcome.status is None else None
    if outcome.category is not InstanceCategory.SUCCESS:
        return None
    if outcome.status is None:
        return _UNANSWERED
    return _ANSWERED if outcome.status.code == _PLAIN.code and not outcome.status.comment else None


def encode_whole(outcome: InstanceOutcome) -> str:
    """Write any other outcome."""
    return outcome.model_dump_json(exclude_defaults=True, exclude={"study_uid", "series_uid"})


def index_of(text: str) -> int:
    """Read only the index from the text of :func:`encode_short`."""
    return int(text[1 : text.index(",")])


def decode_short(text: str, known: Series) -> tuple[int, InstanceOutcome]:
    """Read the text of :func:`encode_short`: the index, and the outcome without its subject."""
    fields = json.loads(text)
    index, sop_class, sop_instance, syntax, size, kind, attempts, begun, took, worker, digest, path = fields[:_FIELDS]
    study_uid, series_uid = known.get(fields[_FIELDS], ("", "")) if len(fields) > _FIELDS else ("", "")
    return index, InstanceOutcome(
        subject="",
        category=InstanceCategory.PRESENT if kind == _PRESENT else InstanceCategory.SUCCESS,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        study_uid=study_uid,
        series_uid=series_uid,
        transfer_syntax_uid=syntax,
        size=size,
        status=_PLAIN if kind == _ANSWERED else None,
        attempts=attempts,
        begun=begun / _MILLISECONDS,
        ended=(begun + took) / _MILLISECONDS,
        worker=worker,
        sha256=b64decode(digest + "=" * (-len(digest) % 4)).hex(),
        path=path,
    )


def decode_whole(text: str, known: Series) -> InstanceOutcome:
    """Read the text of :func:`encode_whole`."""
    fields = json.loads(text)
    study_uid, series_uid = known.get(fields.pop("series", -1), ("", ""))
    return InstanceOutcome.model_validate({**fields, "study_uid": study_uid, "series_uid": series_uid})
