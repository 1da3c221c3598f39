"""How jobs are written in Redis: scripts, bitmaps and marks; keys; how states and outcomes are encoded.

Most instances of a job succeed or were already there: their outcome is written as a short list, so that a job of
100,000 files takes about 20 MB. Any other outcome is written whole. In both, a number stands for study and series: the
ledger adds it, and keeps the pairs.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pydantic import ValidationError

from pacs_tasks.errors import InvalidRequestError, JobNotFoundError, PacsTasksError, SealingError, from_record
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import Counters, InstanceCategory, InstanceOutcome, JobState, Progress, Status, StatusCategory
from pacs_tasks.request import BULK_APART, AnyRequest
from pacs_tasks.sealing import Sealer

if TYPE_CHECKING:
    import redis

#: importlib.resources would add 10 ms to the start of each command.
_PACKAGE = Path(__file__).parents[1]
_INCLUDE = re.compile(r"^-- include (\w+)/([\w/]+)$", re.MULTILINE)


@cache
def source(room: str, name: str) -> str:
    """Read a script, with the files that it includes."""
    text = (_PACKAGE / room / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda included: source(included[1], included[2]), text)


class Scripts:
    """Runs the scripts of one room in one Redis, which receives the text of each only once."""

    def __init__(self, client: redis.Redis, room: str = "ledger") -> None:
        self._redis, self._room = client, room
        self._registered: dict[str, Any] = {}

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Run a script and return its result."""
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self._redis.register_script(source(self._room, name))
        return script(keys=list(keys), args=list(arguments))


class Bitmap:
    """The bits ``start`` up to, not including, ``stop`` of a bitmap, read in one command: 100,000 bits are 12 kB."""

    def __init__(self, client: redis.Redis, key: str, start: int, stop: int) -> None:
        self._start, self._stop, self._first = start, stop, start // 8
        self._bytes = b""
        if start < stop:
            execute: Any = client.execute_command
            self._bytes = execute("GETRANGE", key, self._first, (stop - 1) // 8, NEVER_DECODE=[])

    def indices(self) -> set[int]:
        """Give the indices of the bits that are set."""
        last = min(self._stop, (self._first + len(self._bytes)) * 8)
        bits, first = self._bytes, self._first
        return {index for index in range(self._start, last) if bits[index // 8 - first] >> (7 - index % 8) & 1}

    def count(self, start: int, stop: int) -> int:
        """Count the bits that are set in a part of the range."""
        first, last = start // 8, (stop + 7) // 8
        part = self._bytes[first - self._first : last - self._first].ljust(last - first, b"\0")
        bits = int.from_bytes(part, "big") >> (last * 8 - stop)
        return (bits & ((1 << (stop - start)) - 1)).bit_count()


class Marks:
    """The fields of a hash that expire unless somebody renews them; scripts include ``lua/marks.lua`` for the same.

    The value of a field is ``expiry value``. Redis before 7.4 cannot expire a field by itself.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._redis, self._key = client, key

    def renew(self, members: Collection[str], seconds: int, value: str = "") -> None:
        """Add members, or renew them, for some seconds; the hash lives as long."""
        expiry = math.floor(server_time(self._redis)) + seconds
        fields: dict[Any, Any] = dict.fromkeys(members, f"{expiry} {value}")
        self._redis.hset(self._key, mapping=fields)
        self._redis.expire(self._key, seconds)

    def remove(self, members: Collection[str]) -> None:
        self._redis.hdel(self._key, *members)

    def live(self, *, remove_expired: bool = True) -> dict[str, str]:
        """Read the members that have not expired, with their values."""
        fields = cast("dict[str, str]", self._redis.hgetall(self._key))
        now = server_time(self._redis) if fields else 0.0
        marks = ((member, *text.partition(" ")) for member, text in fields.items())
        live = {member: value for member, expiry, _, value in marks if float(expiry) > now}
        if remove_expired and len(live) < len(fields):
            self.remove(fields.keys() - live.keys())
        return live


def server_time(client: redis.Redis) -> float:
    """Read the clock of the server, in Unix seconds: those of workers may differ."""
    seconds, microseconds = client.time()
    return seconds + microseconds / 1_000_000


#: The text that the ledger adds before the number of study and series, at the end of a short and of a whole outcome.
BEFORE_SERIES_SHORT = ","
BEFORE_SERIES_WHOLE = ',"series":'

#: Number to study and series.
Series = Mapping[int, tuple[str, str]]

#: A success as ``dimse.status`` gives it. Its meaning is not stored: it is the same for every plain success.
_PLAIN = cache(lambda: Status(code=0x0000, category=StatusCategory.SUCCESS, meaning="Success."))
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
        # No UID has a space. Few files are sent in another transfer syntax than their own.
        f"{outcome.transfer_syntax_uid} {outcome.sent_as}".rstrip(),
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


def seal_short(sealer: Sealer, index: int, text: str) -> str:
    """Encrypt the text of :func:`encode_short`. The index stays, and the ledger adds the number as before."""
    return f'[{index},"{sealer.seal(text, f"receipts {index}")}"]' if sealer.active else text


def encode_whole(sealer: Sealer, index: int, outcome: InstanceOutcome) -> str:
    """Write any other outcome, encrypted but for the category and the attempts, which scripts read."""
    text = outcome.model_dump_json(exclude_defaults=True, exclude={"study_uid", "series_uid"})
    if not sealer.active:
        return text
    fields: dict[str, Any] = {"category": outcome.category.value, "sealed": sealer.seal(text, f"problems {index}")}
    if outcome.attempts:
        fields["attempts"] = outcome.attempts
    return json.dumps(fields, separators=(",", ":"))


def _kind_of(outcome: InstanceOutcome) -> int | None:
    if outcome.category is InstanceCategory.PRESENT:
        return _PRESENT if outcome.status is None else None
    if outcome.category is not InstanceCategory.SUCCESS:
        return None
    if outcome.status is None:
        return _UNANSWERED
    return _ANSWERED if outcome.status.code == _PLAIN().code and not outcome.status.comment else None


def index_of(text: str) -> int:
    """Read only the index from the text of :func:`encode_short`."""
    return int(text[1 : text.index(",")])


def decode_short(text: str, known: Series, sealer: Sealer) -> tuple[int, InstanceOutcome]:
    """Read the text of :func:`seal_short`: the index, and the outcome without its subject."""
    fields = json.loads(text)
    if sealer.active:
        fields = json.loads(sealer.unseal(str(fields[1]), f"receipts {fields[0]}")) + fields[2:]
    index, sop_class, sop_instance, syntax, size, kind, attempts, begun, took, worker, digest, path = fields[:_FIELDS]
    study_uid, series_uid = known.get(fields[_FIELDS], ("", "")) if len(fields) > _FIELDS else ("", "")
    syntax, _, sent_as = syntax.partition(" ")
    return index, InstanceOutcome(
        subject="",
        category=InstanceCategory.PRESENT if kind == _PRESENT else InstanceCategory.SUCCESS,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        study_uid=study_uid,
        series_uid=series_uid,
        transfer_syntax_uid=syntax,
        sent_as=sent_as,
        size=size,
        status=_PLAIN() if kind == _ANSWERED else None,
        attempts=attempts,
        begun=begun / _MILLISECONDS,
        ended=(begun + took) / _MILLISECONDS,
        worker=worker,
        sha256=b64decode(digest + "=" * (-len(digest) % 4)).hex(),
        path=path,
    )


def unseal_whole(text: str, index: int, sealer: Sealer) -> dict[str, Any]:
    """Read the fields of an outcome from the text of :func:`encode_whole`."""
    fields: dict[str, Any] = json.loads(text)
    if sealer.active:
        number = fields.get("series", -1)
        fields = json.loads(sealer.unseal(str(fields.get("sealed", "")), f"problems {index}"))
        fields["series"] = number
    return fields


def decode_whole(text: str, index: int, known: Series, sealer: Sealer) -> InstanceOutcome:
    """Read the text of :func:`encode_whole`."""
    fields = unseal_whole(text, index, sealer)
    study_uid, series_uid = known.get(fields.pop("series", -1), ("", ""))
    return InstanceOutcome.model_validate({**fields, "study_uid": study_uid, "series_uid": series_uid})


_PREFIX = "pacs_tasks"
#: The index of all jobs.
JOBS = f"{_PREFIX}:jobs"
#: The jobs that workers have begun and that have not ended; written by scripts.
RUNNING = f"{_PREFIX}:running"
#: The workers that run now.
WORKERS = f"{_PREFIX}:workers"
#: When a worker was last seen before Redis was silent; written by scripts.
SILENT_SINCE = f"{_PREFIX}:silent_since"
#: What follows the tasks that other services published, by the id of the job.
CALLERS = f"{_PREFIX}:callers"
#: The keys of a job beside its own: those kept as long as the job, and all.
KEPT = ("manifest", "studies", "ways", "recorded", "present", "receipts", "problems", "series", "commitments",
        "bulk", "matches")  # fmt: skip
PARTS = (*KEPT, "claims", "losses", "attempts", "ending", "fanned")
COUNTED = tuple(Counters.model_fields)
#: The field of a job that holds its key, encrypted.
SEALED_KEY = "sealed_key"
#: The fields of the error that ended a job.
ERROR_FIELDS = ("error_type", "error", "error_subject", "error_whole")
#: The fields of a job that :func:`progress_of` reads.
PROGRESS_FIELDS = ("task", "request", "state", "created", "started", "finished", "cancel", "attempt", "worker",
                   *ERROR_FIELDS, "waiting", "waiting_since", "waiting_reason", "waiting_until", "pace", "retrying",
                   SEALED_KEY, *COUNTED, *(f"before_{name}" for name in COUNTED))  # fmt: skip
_LONGEST_ID = 255
_CHUNK = 1_000
_LONGEST_SHOWN = 64


def job_key(job_id: str, part: str = "") -> str:
    """Give the key of a job, or of a part of it."""
    return f"{_PREFIX}:job:{job_id}:{part}" if part else f"{_PREFIX}:job:{job_id}"


def transaction_key(transaction_uid: str) -> str:
    """Give the key that holds the job of a storage commitment transaction."""
    return f"{_PREFIX}:commitment:{transaction_uid}"


def checked_job_key(job_id: str) -> str:
    """Give the key of a job whose id comes from a user: any id of a Celery task, but not the name of another key.

    Raises
    ------
    JobNotFoundError
        If no job can have this id.
    """
    # The message of a stranger may name any value.
    job_id = str(job_id)
    if not job_id.isprintable() or len(job_id) > _LONGEST_ID or job_id.rpartition(":")[2] in PARTS:
        raise not_found(job_id)
    return job_key(job_id)


def not_found(job_id: str) -> JobNotFoundError:
    """Make the error for an id that no job has."""
    shown = job_id if len(job_id) < _LONGEST_SHOWN else f"{job_id[:_LONGEST_SHOWN]}..."
    return JobNotFoundError(f"There is no job {shown!r}. Run `pacs-tasks jobs` to list the known jobs.")


def touch(client: redis.Redis, job_id: str, keep: int) -> None:
    """Keep a job for ``keep`` seconds from now."""
    # At once: a dozen commands one after the other took half of the time of an enqueuing.
    Scripts(client).run("expire", [*(job_key(job_id, part) for part in ("", *KEPT)), JOBS], [keep])


def dump_request(request: AnyRequest | None) -> tuple[str, str]:
    """Write a request without its large field, and that field alone, which few read."""
    if request is None:
        return "", ""
    bulk = request.model_dump_json(include={request.bulk}, exclude_none=True) if request.bulk else ""
    return request.model_dump_json(exclude_none=True, exclude={request.bulk}), bulk


def load_request(job_id: str, task: str, text: str, bulk: str | None) -> AnyRequest:
    """Read a request that :func:`dump_request` wrote; without ``bulk``, its large field is empty.

    Raises
    ------
    InvalidRequestError
        If another version wrote it.
    """
    try:
        found = OPERATIONS[task].request.model_validate_json(text, context=BULK_APART)
        return found if bulk is None else type(found).model_validate({**json.loads(text), **json.loads(bulk)})
    except (KeyError, ValidationError):
        raise InvalidRequestError(
            f"Another version of pacs-tasks wrote the request of job {job_id}. Enqueue it again."
        ) from None


def progress_of(job_id: str, fields: Mapping[str, str | None], sealer: Sealer) -> Progress:
    """Read the progress of a job from its fields.

    Without the key of the job, remote and error are unknown: other jobs, state and counters must stay visible.

    Raises
    ------
    JobNotFoundError
        If the fields are empty.
    """
    task, state, created = fields["task"], fields["state"], fields["created"]
    if task is None or state is None or created is None:
        raise not_found(job_id)
    error, request = "", fields["request"]
    try:
        request = sealer.unseal(request, "request") if request else ""
        error = str(load_error(fields, sealer)) if fields["error_type"] else ""
    except SealingError as sealed:
        error, request = (sealed.message if fields["error_type"] else ""), ""
    return Progress(
        job_id=job_id,
        task=task,
        state=JobState(state),
        counters=_counters_of(fields),
        earlier=_counters_of(fields, "before_"),
        created=float(created),
        started=_time(fields["started"]),
        finished=_time(fields["finished"]),
        cancel_requested=fields["cancel"] == "1",
        attempt=int(fields["attempt"] or 1),
        worker=fields["worker"] or "",
        error=error,
        remote=_remote_of(task, request) if request else "",
        waiting_for=fields["waiting"] or "",
        waiting_since=_time(fields["waiting_since"]),
        waiting_reason=fields["waiting_reason"] or "",
        waiting_until=_time(fields["waiting_until"]),
        pace=fields["pace"] or "",
        retrying=max(0, int(fields["retrying"] or 0)),
    )


def chunks(job_ids: Iterable[str]) -> Iterator[list[str]]:
    """Give these ids a thousand at a time."""
    rest = iter(job_ids)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


class JobView(NamedTuple):
    """As much of a job as a wait for many jobs reads. ``mark`` changes whenever somebody works on it."""

    state: JobState
    cancel_requested: bool
    mark: str

    @property
    def finished(self) -> bool:
        return self.state.finished

    @property
    def cancelling(self) -> bool:
        """Whether the job was cancelled and has not ended, perhaps since a worker died with a claim on it."""
        return self.cancel_requested and not self.state.finished


def read_views(job_ids: Iterable[str], reply: Iterable[Sequence[str]]) -> dict[str, JobView]:
    """Read the reply to the script ``states``.

    Raises
    ------
    JobNotFoundError
        If one of the jobs has no record.
    """
    found = {}
    for job_id, (state, cancel, mark) in zip(job_ids, reply, strict=True):
        if not state:
            raise not_found(job_id)
        found[job_id] = JobView(JobState(state), cancel == "1", mark)
    return found


def dump_error(error: PacsTasksError, sealer: Sealer) -> dict[str, str]:
    """Write the error that ends a job. What is public of it can be read without the key."""
    public = error.public().message
    private = {"error_subject": error.subject, "error_whole": "" if error.message == public else error.message}
    sealed = {field: text and sealer.seal(text, field) for field, text in private.items()}
    return {"error": public, "error_type": type(error).__name__, **sealed}


def load_error(fields: Mapping[str, str | None], sealer: Sealer) -> PacsTasksError:
    """Read the fields :data:`ERROR_FIELDS` that :func:`dump_error` wrote."""
    kind, public, *sealed = (fields[name] for name in ERROR_FIELDS)
    named = zip(ERROR_FIELDS[2:], sealed, strict=True)
    subject, whole = (sealer.unseal(text, field) if text else "" for field, text in named)
    return from_record(kind or "", whole or public or "", subject)


def _counters_of(fields: Mapping[str, str | None], prefix: str = "") -> Counters:
    return Counters(**{name: int(fields[prefix + name] or 0) for name in COUNTED})


def _time(text: str | None) -> float | None:
    return float(text) if text else None


def _remote_of(task: str, request: str) -> str:
    """Name the remote of a job; empty if another version wrote the request, which must not hide other jobs."""
    try:
        return str(OPERATIONS[task].request.model_validate_json(request, context=BULK_APART).remote)
    except (KeyError, ValidationError):
        return ""
