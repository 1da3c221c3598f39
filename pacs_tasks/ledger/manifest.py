"""The manifest of a job: one line for each file, instance or row, in order; the studies of a retrieve in it.

The outcome of a study is read from the bitmaps of its lines and from its problems, not from its receipts: 100,000
instances take no longer than 100.
"""

from __future__ import annotations

import json
import re
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from pacs_tasks.ae import Value
from pacs_tasks.ledger.keys import Bitmap, Scripts, job_key, unseal_whole
from pacs_tasks.ledger.seals import Seals
from pacs_tasks.outcome import Category, InstanceCategory, JobState, Proof, StudyOutcome

if TYPE_CHECKING:
    import redis

#: The fields beside the methods of a study that count instances, each with what they are.
_NOTES = {
    "more": "more instances came than the remote had listed or counted",
    "refused": "instances that were not requested came and were refused",
    "again": "instances came again with other content, and both files are kept",
}
_LOST = (InstanceCategory.FAILED, InstanceCategory.MISSING, InstanceCategory.SKIPPED)

#: Start and end of consecutive lines of the manifest, as a Python slice.
Lines = tuple[int, int]


class Study(Value):
    """The plan for one study of a retrieve.

    ``lines`` are those of the instances that the remote promised. ``tail`` are those of which it lists nothing: a
    selection that named no study, with ``name``, or instances of this study.
    """

    study_uid: str = ""
    name: str = ""
    lines: tuple[Lines, ...] = ()
    tail: tuple[Lines, ...] = ()
    proof: Proof = Proof.NONE
    #: Instances were named, so the series need not be whole.
    picked: bool = False
    #: Positions in the request of the selections that name the study, and their rows of the batch file.
    selections: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    #: A remark on the promise.
    reason: str = ""
    #: The remote may have more than it listed.
    doubted: bool = False

    @property
    def promised(self) -> int:
        """The number of instances that the remote promised."""
        return _count(self.lines)

    @property
    def field(self) -> str:
        """The field of the study in its hash."""
        return self.study_uid or f"{self.name} #{min(self.selections, default=0)}"


def _count(groups: Sequence[Lines]) -> int:
    """Count the lines of these groups."""
    return sum(stop - start for start, stop in groups)


class _Owned(NamedTuple):
    """Lines, and the position of their study."""

    start: int
    stop: int
    study: int
    tail: bool


class _Tally:
    """Counts the problems of a study, and keeps why the first of them failed."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(InstanceCategory, 0)
        #: Promised instances that did not arrive.
        self.lost = 0
        self.reason = ""

    def add(self, category: InstanceCategory, reason: str, *, tail: bool) -> None:
        self.counts[category] += 1
        if category in _LOST:
            self.lost += not tail
            self.reason = self.reason or reason


class Studies:
    """The studies of all jobs in one Redis, which remembers their methods for ``keep`` seconds."""

    def __init__(self, client: redis.Redis, keep: int, seals: Seals) -> None:
        self._redis, self._keep, self._seals = client, keep, seals

    def planned(self, job_id: str) -> list[Study]:
        """Read the studies of a job, in the order of the manifest."""
        texts = cast("dict[str, str]", self._redis.hgetall(job_key(job_id, "studies")))
        sealer = self._seals.of(job_id)
        found = [Study.model_validate_json(sealer.unseal(text, f"studies {field}")) for field, text in texts.items()]
        return sorted(found, key=lambda each: min((*each.lines, *each.tail), default=(0, 0)))

    def picked(self, job_id: str, study_uid: str) -> bool:
        """Return whether the request names instances of this study."""
        sealer = self._seals.of(job_id)
        field = sealer.name(study_uid, "studies")
        text = cast("str | None", self._redis.hget(job_key(job_id, "studies"), field))
        return text is not None and Study.model_validate_json(sealer.unseal(text, f"studies {field}")).picked

    def record_method(self, job_id: str, study_uid: str, method: str, why: str = "") -> None:
        """Record a method by which instances of a study came, and why not by another. Later reasons are ignored."""
        methods, sealer = job_key(job_id, "ways"), self._seals.of(job_id)
        field = f"{sealer.name(study_uid, 'ways')} {method}"
        self._redis.hsetnx(methods, field, sealer.seal(why, f"ways {field}"))
        self._redis.expire(methods, self._keep)

    def record_notes(self, job_id: str, study_uid: str, *, more: int = 0, refused: int = 0, again: int = 0) -> None:
        """Record that instances came which were not promised, were not requested, or had come with other content."""
        key, name = job_key(job_id, "ways"), self._seals.of(job_id).name(study_uid, "ways")
        for note, number in (("more", more), ("refused", refused), ("again", again)):
            if number:
                self._redis.hincrby(key, f"{name} {note}", number)
                self._redis.expire(key, self._keep)

    def outcomes(self, job_id: str) -> tuple[StudyOutcome, ...]:
        """Read the outcome of each study, in the order of the manifest; nothing for a job without studies."""
        planned = self.planned(job_id)
        if not planned:
            return ()
        tallies, methods = self._tallies(job_id, planned), self._methods(job_id)
        last = max((stop for study in planned for _, stop in study.lines), default=0)
        recorded = Bitmap(self._redis, job_key(job_id, "recorded"), 0, last)
        present = Bitmap(self._redis, job_key(job_id, "present"), 0, last)
        cancelled = self._redis.hget(job_key(job_id), "state") == JobState.CANCELLED
        return tuple(
            _outcome(
                study,
                tally,
                sum(recorded.count(*lines) for lines in study.lines),
                sum(present.count(*lines) for lines in study.lines),
                methods.get(study.study_uid, {}),
                cancelled=cancelled,
            )
            for study, tally in zip(planned, tallies, strict=True)
        )

    def _methods(self, job_id: str) -> dict[str, dict[str, str]]:
        """Read the methods of each study, with the reason for each."""
        methods: dict[str, dict[str, str]] = {}
        sealer = self._seals.of(job_id)
        for field, why in sorted(cast("dict[str, str]", self._redis.hgetall(job_key(job_id, "ways"))).items()):
            name, _, method = field.partition(" ")
            note = f"{_NOTES[method]} ({why})" if method in _NOTES else ""
            reason = note or sealer.unseal(why, f"ways {field}")
            methods.setdefault(sealer.unname(name, "ways"), {})[method] = reason
        return methods

    def _tallies(self, job_id: str, planned: Sequence[Study]) -> list[_Tally]:
        """Count the problems of each study."""
        tallies = [_Tally() for _ in planned]
        owned = sorted(
            _Owned(start, stop, number, tail)
            for number, each in enumerate(planned)
            for tail, group in ((False, each.lines), (True, each.tail))
            for start, stop in group
        )
        starts = [each.start for each in owned]
        for index, category, reason in sorted(self._problems(job_id)):
            place = bisect_right(starts, index) - 1
            if place >= 0 and index < owned[place].stop:
                tallies[owned[place].study].add(category, reason, tail=owned[place].tail)
        return tallies

    def _problems(self, job_id: str) -> Iterator[tuple[int, InstanceCategory, str]]:
        found = dict(self._redis.hscan_iter(job_key(job_id, "problems"), count=_CHUNK))
        sealer = self._seals.of(job_id)
        for index, text in found.items():
            outcome = unseal_whole(text, int(index), sealer)
            yield int(index), InstanceCategory(outcome["category"]), outcome.get("reason", "")


def _outcome(
    study: Study, tally: _Tally, recorded: int, present: int, methods: dict[str, str], *, cancelled: bool
) -> StudyOutcome:
    received = recorded - present - tally.lost
    reasons = dict.fromkeys(reason for reason in (study.reason, tally.reason, *methods.values()) if reason)
    return StudyOutcome(
        study_uid=study.study_uid,
        category=_category(study, tally, received + present, cancelled=cancelled),
        promised=study.promised,
        received=received,
        present=present,
        missing=tally.counts[InstanceCategory.MISSING],
        failed=tally.counts[InstanceCategory.FAILED] + tally.counts[InstanceCategory.SKIPPED],
        proof=study.proof,
        ways=tuple(method for method in methods if method not in _NOTES),
        reason="; ".join(reasons),
        rows=study.rows,
    )


def _category(study: Study, tally: _Tally, held: int, *, cancelled: bool) -> Category:
    """Judge a study by the number of promised instances that are here, received now or already."""
    if study.promised and held == study.promised and not _count(study.tail):
        remarked = study.doubted or tally.counts[InstanceCategory.WARNING]
        return Category.WARNING if remarked else Category.SUCCESS
    if cancelled:
        return Category.CANCELLED
    return Category.PARTIAL if held else Category.FAILED


_CHUNK = 1_000
#: The name of an instance that the remote only counted. That of a selection has a space, too; a UID has none.
_COUNTED = re.compile(r"(\d+) of (\d+)")


@dataclass(frozen=True, slots=True)
class FileLine:
    """A file to send, and its size in bytes.

    ``archive`` is the archive that holds it, if one does, and ``place`` its place there. An object at a URL is its own
    archive. A negative place is in an archive that can only be read from its beginning.
    """

    path: str
    size: int
    archive: str = ""
    place: int = 0

    @property
    def subject(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class RowLine:
    """A row of a batch query, and its keys."""

    number: int
    keys: Mapping[str, str]

    @property
    def subject(self) -> str:
        return f"row {self.number}"


@dataclass(frozen=True, slots=True)
class InstanceLine:
    """An instance to retrieve that the remote listed. Not every remote gives its SOP class.

    ``transfer_syntax_uids`` are those in which the remote says that it can send it, between backslashes; few say so.
    """

    sop_instance_uid: str
    series_uid: str
    sop_class_uid: str
    study_uid: str
    transfer_syntax_uids: str = ""

    @property
    def subject(self) -> str:
        return self.sop_instance_uid


@dataclass(frozen=True, slots=True)
class CountedLine:
    """Any instance of a series, or of a study where the series is empty: the remote gave only their number."""

    sop_instance_uid: ClassVar[str] = ""
    sop_class_uid: ClassVar[str] = ""
    transfer_syntax_uids: ClassVar[str] = ""
    number: int
    count: int
    series_uid: str
    study_uid: str

    @property
    def subject(self) -> str:
        return f"{self.number} of {self.count}"


@dataclass(frozen=True, slots=True)
class SelectionLine:
    """A selection for which the remote listed nothing; without a study if it named none."""

    sop_instance_uid: ClassVar[str] = ""
    sop_class_uid: ClassVar[str] = ""
    transfer_syntax_uids: ClassVar[str] = ""
    series_uid: ClassVar[str] = ""
    name: str
    study_uid: str

    @property
    def subject(self) -> str:
        return self.name


RetrieveLine = InstanceLine | CountedLine | SelectionLine
#: What a part needs to know of one file, instance or row. ``subject`` names it in outcomes.
Line = FileLine | RowLine | RetrieveLine


def encode(line: Line) -> str:
    """Write a line as JSON."""
    match line:
        case FileLine():
            fields: list[Any] = [line.path, line.size, *((line.archive, line.place) if line.archive else ())]
        case RowLine():
            fields = [line.subject, line.number, line.keys]
        case _:
            syntaxes = (line.transfer_syntax_uids,) if line.transfer_syntax_uids else ()
            fields = [line.subject, line.series_uid, line.sop_class_uid, line.study_uid, *syntaxes]
    return json.dumps(fields, separators=(",", ":"))


def decode(text: str) -> Line:
    """Read a line that :func:`encode` wrote."""
    match json.loads(text):
        case [path, size]:
            return FileLine(path, size)
        case [path, int(size), archive, int(place)]:
            return FileLine(path, size, archive, place)
        case [_, number, keys]:
            return RowLine(number, keys)
        case [name, series_uid, sop_class_uid, study_uid, *syntaxes]:
            if counted := _COUNTED.fullmatch(name):
                return CountedLine(int(counted[1]), int(counted[2]), series_uid, study_uid)
            if " " in name:
                return SelectionLine(name, study_uid)
            return InstanceLine(name, series_uid, sop_class_uid, study_uid, *syntaxes)
    raise ValueError("This is not a line of a manifest.")


class Manifest:
    """The manifests of all jobs in one Redis, which keeps each for ``keep`` seconds.

    The *tail* of a manifest are the lines at its end for which the remote has nothing to retrieve.
    """

    def __init__(self, client: redis.Redis, keep: int, seals: Seals) -> None:
        self._redis, self._keep, self._seals = client, keep, seals
        self._run = Scripts(client).run

    def plan(
        self, job_id: str, lines: Iterable[Line], attempt_key: str, studies: Sequence[Study] = (), tail: int = 0
    ) -> int:
        """Write the manifest unless there is one; return its number of lines.

        Parameters
        ----------
        attempt_key
            Tells apart two workers that plan the same job: the first to finish wins.
        studies
            The studies of a retrieve.
        tail
            Number of lines in the tail.
        """
        new_lines, total = self._write_lines(job_id, lines, attempt_key, 0)
        new_studies = self._write_studies(job_id, studies, attempt_key)
        keys = [job_key(job_id), job_key(job_id, "manifest"), new_lines, job_key(job_id, "studies"), new_studies]
        self._run("manifest/plan", keys, [total, total - tail])
        return self.total(job_id)

    def replace_tail(
        self, job_id: str, lines: Sequence[Line], attempt_key: str, studies: Sequence[Study], tail: int
    ) -> int:
        """Replace the tail with these lines and drop its outcomes; return the number of lines of the manifest.

        The parameters are those of :meth:`plan`; ``studies`` are all studies of the job.
        """
        start, before = self.resolved(job_id), self.total(job_id)
        new_lines, count = self._write_lines(job_id, lines, attempt_key, start)
        new_studies = self._write_studies(job_id, studies, attempt_key)
        parts = ("manifest", "studies", "recorded", "problems")
        keys = [job_key(job_id), new_lines, new_studies, *(job_key(job_id, part) for part in parts)]
        total = start + count
        self._run("manifest/replace_tail", keys, [start, before, total, total - tail, uuid.uuid4().hex, self._keep])
        return self.total(job_id)

    def lines(self, job_id: str, start: int, stop: int) -> list[Line]:
        """Read the lines from ``start`` up to, not including, ``stop``."""
        texts = cast("list[str]", self._redis.lrange(job_key(job_id, "manifest"), start, stop - 1))
        sealer = self._seals.of(job_id)
        return [decode(sealer.unseal(text, f"manifest {index}")) for index, text in enumerate(texts, start)]

    def planned(self, job_id: str) -> bool:
        """Return whether the job has a manifest."""
        return self._redis.hget(job_key(job_id), "planned") == "1"

    def total(self, job_id: str) -> int:
        """Read the number of lines."""
        return int(cast("str | None", self._redis.hget(job_key(job_id), "total")) or 0)

    def resolved(self, job_id: str) -> int:
        """Read the number of lines before the tail."""
        return int(cast("str | None", self._redis.hget(job_key(job_id), "resolved")) or 0)

    def _write_lines(self, job_id: str, lines: Iterable[Line], attempt_key: str, start: int) -> tuple[str, int]:
        """Write lines, the first of which will be line ``start`` of the manifest."""
        new, sealer = job_key(job_id, f"manifest:{attempt_key}"), self._seals.of(job_id)
        self._redis.delete(new)
        total = 0
        texts = (sealer.seal(encode(line), f"manifest {index}") for index, line in enumerate(lines, start))
        while chunk := list(islice(texts, _CHUNK)):
            self._run("manifest/append", [new], [total, self._keep, *chunk])
            total += len(chunk)
        return new, total

    def _write_studies(self, job_id: str, studies: Sequence[Study], attempt_key: str) -> str:
        new, sealer = job_key(job_id, f"studies:{attempt_key}"), self._seals.of(job_id)
        self._redis.delete(new)
        for start in range(0, len(studies), _CHUNK):
            chunk = studies[start : start + _CHUNK]
            fields: dict[Any, Any] = {}
            for each in chunk:
                field = sealer.name(each.field, "studies")
                fields[field] = sealer.seal(each.model_dump_json(exclude_defaults=True), f"studies {field}")
            self._redis.hset(new, mapping=fields)
            self._redis.expire(new, self._keep)
        return new
