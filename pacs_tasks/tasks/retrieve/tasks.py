"""``pacs_tasks.retrieve``: bring studies here, and compare what arrived with what the peer listed.

The planner asks the peer which instances there are: the promise. A part is a series, or a slice of a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pacs_tasks.errors import AssociationError, PeerBusyError
from pacs_tasks.ledger.manifest import CountedLine, RetrieveLine
from pacs_tasks.request import RetrieveRequest
from pacs_tasks.tasks.engine.base import ledger
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.job import Promise, Range, register_chord
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.engine.paths import writable_directory
from pacs_tasks.tasks.retrieve.part import fetch
from pacs_tasks.tasks.retrieve.plan import promise, promise_again

#: A series with more instances is fetched in slices, by lists of UIDs: VR UI holds 64 KiB in explicit encodings.
PART_INSTANCES = 500


def cut(lines: Sequence[RetrieveLine]) -> list[Range]:
    """Cut a manifest into parts: consecutive instances of one series, at most :data:`PART_INSTANCES`.

    What has no name can only be asked for together: all of a series, or all of a study, is one part then.
    """
    ranges: list[Range] = []
    start = 0
    for index in range(1, len(lines) + 1):
        ended = index == len(lines) or _series(lines[index]) != _series(lines[start])
        if ended or (index - start == PART_INSTANCES and not isinstance(lines[start], CountedLine)):
            ranges.append((start, index))
            start = index
    return ranges


def _series(line: RetrieveLine) -> tuple[str, str]:
    return line.study_uid, line.series_uid


def _parts(job_id: str) -> list[Range]:
    manifest = ledger().manifest
    return cut(cast(list[RetrieveLine], manifest.lines(job_id, 0, manifest.resolved(job_id))))


def _promise(request: RetrieveRequest, claim: Claim) -> Promise:
    """See that there is a place for it, then ask the peer.

    Raises
    ------
    InvalidRequestError
        If what is asked for is not served.
    """
    if request.to is None:
        writable_directory(request.directory)
    return promise(request, claim)


def _fetch(part: Part[RetrieveLine], request: RetrieveRequest) -> bool:
    """Fetch the rest of a part; true if something should be tried again later."""
    part.claim.check_deaths()
    whole_series = _is_whole(part.job_id, part.indices.start, part.indices.stop)
    try:
        return fetch(part.task, part, request, whole_series=whole_series, tries=part.tries)
    except PeerBusyError:
        raise
    except AssociationError as error:
        part.fail_rest(error)
        return False


def _is_whole(job_id: str, start: int, stop: int) -> bool:
    """Whether a part is all of its series, as far as the peer has told, so that it can be asked for as a whole."""
    around = cast(list[RetrieveLine], ledger().manifest.lines(job_id, max(start - 1, 0), stop + 1))
    first = around[1 if start else 0]
    if isinstance(first, CountedLine):
        return True
    expected = stop - start + (1 if start else 0)
    before = start > 0 and _series(around[0]) == _series(first)
    after = len(around) > expected and _series(around[expected]) == _series(first)
    return not before and not after and not ledger().studies.picked(job_id, first.study_uid)


register_chord(RetrieveRequest, "pacs_tasks.retrieve", _promise, _parts, _fetch, promise_again=promise_again)
