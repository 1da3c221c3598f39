"""The manifest of a job: one line for each file, instance or row, in order."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pacs_tasks.ledger.keys import job_key
from pacs_tasks.ledger.scripts import Scripts
from pacs_tasks.ledger.studies import Study

if TYPE_CHECKING:
    import redis

_CHUNK = 1_000
#: The name of an instance that the remote only counted. That of a selection has a space, too; a UID has none.
_COUNTED = re.compile(r"(\d+) of (\d+)")


@dataclass(frozen=True, slots=True)
class FileLine:
    """A file to send, and its size in bytes."""

    path: str
    size: int

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
    """An instance to retrieve that the remote listed. Not every remote gives its SOP class."""

    sop_instance_uid: str
    series_uid: str
    sop_class_uid: str
    study_uid: str

    @property
    def subject(self) -> str:
        return self.sop_instance_uid


@dataclass(frozen=True, slots=True)
class CountedLine:
    """Any instance of a series, or of a study where the series is empty: the remote gave only their number."""

    sop_instance_uid: ClassVar[str] = ""
    sop_class_uid: ClassVar[str] = ""
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
            fields: list[Any] = [line.path, line.size]
        case RowLine():
            fields = [line.subject, line.number, line.keys]
        case _:
            fields = [line.subject, line.series_uid, line.sop_class_uid, line.study_uid]
    return json.dumps(fields, separators=(",", ":"))


def decode(text: str) -> Line:
    """Read a line that :func:`encode` wrote."""
    match json.loads(text):
        case [path, size]:
            return FileLine(path, size)
        case [_, number, keys]:
            return RowLine(number, keys)
        case [name, series_uid, sop_class_uid, study_uid]:
            if counted := _COUNTED.fullmatch(name):
                return CountedLine(int(counted[1]), int(counted[2]), series_uid, study_uid)
            if " " in name:
                return SelectionLine(name, study_uid)
            return InstanceLine(name, series_uid, sop_class_uid, study_uid)
    raise ValueError("This is not a line of a manifest.")


class Manifest:
    """The manifests of all jobs in one Redis, which keeps each for ``keep`` seconds.

    The *tail* of a manifest are the lines at its end for which the remote has nothing to retrieve.
    """

    def __init__(self, client: redis.Redis, keep: int) -> None:
        self._redis, self._keep = client, keep
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
        new_lines, total = self._write_lines(job_id, lines, attempt_key)
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
        new_lines, count = self._write_lines(job_id, lines, attempt_key)
        new_studies = self._write_studies(job_id, studies, attempt_key)
        parts = ("manifest", "studies", "recorded", "problems")
        keys = [job_key(job_id), new_lines, new_studies, *(job_key(job_id, part) for part in parts)]
        total = start + count
        self._run("manifest/replace_tail", keys, [start, before, total, total - tail, uuid.uuid4().hex, self._keep])
        return self.total(job_id)

    def lines(self, job_id: str, start: int, stop: int) -> list[Line]:
        """Read the lines from ``start`` up to, not including, ``stop``."""
        texts = cast("list[str]", self._redis.lrange(job_key(job_id, "manifest"), start, stop - 1))
        return [decode(text) for text in texts]

    def planned(self, job_id: str) -> bool:
        """Return whether the job has a manifest."""
        return self._redis.hget(job_key(job_id), "planned") == "1"

    def total(self, job_id: str) -> int:
        """Read the number of lines."""
        return int(cast("str | None", self._redis.hget(job_key(job_id), "total")) or 0)

    def resolved(self, job_id: str) -> int:
        """Read the number of lines before the tail."""
        return int(cast("str | None", self._redis.hget(job_key(job_id), "resolved")) or 0)

    def _write_lines(self, job_id: str, lines: Iterable[Line], attempt_key: str) -> tuple[str, int]:
        new = job_key(job_id, f"manifest:{attempt_key}")
        self._redis.delete(new)
        total, texts = 0, map(encode, lines)
        while chunk := list(islice(texts, _CHUNK)):
            self._run("manifest/append", [new], [total, self._keep, *chunk])
            total += len(chunk)
        return new, total

    def _write_studies(self, job_id: str, studies: Sequence[Study], attempt_key: str) -> str:
        new = job_key(job_id, f"studies:{attempt_key}")
        self._redis.delete(new)
        for start in range(0, len(studies), _CHUNK):
            chunk = studies[start : start + _CHUNK]
            fields: dict[Any, Any] = {each.field: each.model_dump_json(exclude_defaults=True) for each in chunk}
            self._redis.hset(new, mapping=fields)
            self._redis.expire(new, self._keep)
        return new
