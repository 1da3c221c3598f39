"""``pacs_tasks.verify``: does the peer list what a job has sent?

It is asked for all instances of a series at once, which costs one query for each series and which every peer must
support. What it does not list it is asked for again, by name: some peers end their answers at a limit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from typing import Any, NamedTuple

from celery import Task
from pydantic import TypeAdapter, ValidationError

from pacs_tasks.app import app
from pacs_tasks.dimse import holdings
from pacs_tasks.dimse.association import Association
from pacs_tasks.errors import ContextRejectedError, JobCancelledError, PeerUnavailableError
from pacs_tasks.instances import Instances
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory
from pacs_tasks.proof import VerifyOutcome
from pacs_tasks.request import UID, VerifyRequest
from pacs_tasks.tasks.associations import lent
from pacs_tasks.tasks.claim import Claim
from pacs_tasks.tasks.job import JobTask, answer, local_ae, timeouts
from pacs_tasks.tasks.sent import instances_sent

#: UIDs in one query by name.
_NAMED = 100
#: So many queries for one instance each, all in vain, and the rest of the series is believed to be missing as well.
_IN_VAIN = 20
#: A series at which the association was lost this often is left alone.
_LOSSES = 2

_uid = TypeAdapter(UID)


class _Member(NamedTuple):
    """``line`` of the manifest."""

    line: int
    sop_class_uid: str


class _Series:
    """The instances of one series, by SOP Instance UID, and what has been found out about them."""

    def __init__(self, study_uid: str, series_uid: str) -> None:
        # What is no UID would be a wrong query, not a wrong answer.
        known = _is_uid(study_uid) and _is_uid(series_uid)
        self.study_uid, self.series_uid = (study_uid, series_uid) if known else ("", "")
        self.known = known
        self.members: dict[str, list[_Member]] = {}
        self.held: set[str] = set()
        self.missing: set[str] = set()
        #: SOP Instance UID to reason.
        self.unknown: dict[str, str] = {}
        self.losses = 0

    def open(self) -> list[str]:
        """What is neither known to be held nor to be missing."""
        return sorted(self.members.keys() - self.held - self.missing)

    def give_up(self, reason: str) -> None:
        self.unknown.update(dict.fromkeys(self.open(), reason))


def _is_uid(text: str) -> bool:
    try:
        return bool(_uid.validate_python(text))
    except ValidationError:
        return False


class _Verifying:
    """One look at the peer."""

    def __init__(self, request: VerifyRequest, claim: Claim) -> None:
        self._request, self._claim = request, claim
        self.queries = 0

    def ask_for(self, series: Collection[_Series]) -> None:
        """Find out about each series, over one association as long as it lasts.

        Raises
        ------
        AssociationError
            If there is none to be had.
        """
        waiting, request = deque(series), self._request
        while waiting:
            opened = False
            try:
                with lent(
                    local_ae(request), request.remote, [holdings.CONTEXT], timeouts(request), self._claim
                ) as assoc:
                    opened = True
                    while waiting:
                        if self._claim():
                            raise JobCancelledError("cancelled before the PACS had answered for everything")
                        self._look(assoc, waiting[0])
                        waiting.popleft()
            except ContextRejectedError as error:
                while waiting:
                    waiting.popleft().give_up(error.message)
            except PeerUnavailableError as error:
                if not opened:
                    raise
                waiting[0].losses += 1
                if waiting[0].losses >= _LOSSES:
                    waiting.popleft().give_up(error.message)

    def _look(self, assoc: Association, series: _Series) -> None:
        if not series.known:
            for uids in _slices(series.open()):
                self._ask(assoc, series, uids, by_name=True)
            series.give_up("its data set names no study and series, and the PACS did not list it without these")
            return
        asked = series.open()
        if len(asked) == 1:
            self._ask_singly(assoc, series, asked[0])
            return
        said = self._ask(assoc, series, asked, by_name=False)
        for uids in _slices(series.open()):
            self._look_again(assoc, series, uids, complete=said.category is StatusCategory.SUCCESS)

    def _look_again(self, assoc: Association, series: _Series, uids: list[str], *, complete: bool) -> None:
        """Ask by name for what was not listed. ``complete``: the peer said that it had listed the whole series."""
        # One that it holds shows whether it understands lists of UIDs, which it need not.
        witness = set(sorted(series.held)[:1])
        said = self._ask(assoc, series, [*uids, *witness], by_name=True)
        rest = [uid for uid in uids if uid not in series.held]
        if witness and said.category is StatusCategory.SUCCESS and witness <= self._listed:
            series.missing.update(rest)
            return
        for count, uid in enumerate(rest):
            if complete and count >= _IN_VAIN:
                series.missing.add(uid)
            elif not self._ask_singly(assoc, series, uid):
                return
            elif uid in series.held:
                # It has one after all: then its earlier answers mean nothing.
                complete = False

    def _ask_singly(self, assoc: Association, series: _Series, uid: str) -> bool:
        """Ask for one instance; false if the peer cannot answer even that, so that all the rest is unknown."""
        said = self._ask(assoc, series, [uid], by_name=True)
        if uid in series.held:
            return True
        if said.category is StatusCategory.SUCCESS:
            series.missing.add(uid)
            return True
        series.give_up(f"{self._request.remote} cannot answer at IMAGE level ({said})")
        return False

    def _ask(self, assoc: Association, series: _Series, uids: Collection[str], *, by_name: bool) -> Status:
        self.queries += 1
        said, self._listed = holdings.held(assoc, series.study_uid, series.series_uid, set(uids), by_name=by_name)
        series.held |= self._listed
        return said


def _slices(uids: list[str]) -> list[list[str]]:
    return [uids[start : start + _NAMED] for start in range(0, len(uids), _NAMED)]


def _by_series(instances: Instances) -> list[_Series]:
    """What was sent, by series; of each instance no more than is needed to ask for it."""
    found: dict[tuple[str, str], _Series] = {}
    classes: dict[str, str] = {}
    for index, outcome in instances.sent():
        pair = outcome.study_uid, outcome.series_uid
        series = found.get(pair) or found.setdefault(pair, _Series(*pair))
        sop_class = classes.setdefault(outcome.sop_class_uid, outcome.sop_class_uid)
        series.members.setdefault(outcome.sop_instance_uid, []).append(_Member(index, sop_class))
    return list(found.values())


def _problems(request: VerifyRequest, instances: Instances, series: list[_Series]) -> tuple[InstanceOutcome, ...]:
    """What is missing or unknown, by name, in the order of the manifest."""
    missing = f"{request.remote} does not list it"
    found: list[tuple[_Member, str, InstanceCategory, str]] = []
    for each in series:
        for uid in each.missing:
            found += [(member, uid, InstanceCategory.MISSING, missing) for member in each.members[uid]]
        for uid, reason in each.unknown.items():
            found += [(member, uid, InstanceCategory.FAILED, reason) for member in each.members[uid]]
    subjects = instances.subjects(member.line for member, *_ in found)
    return tuple(
        InstanceOutcome(
            subject=subjects[member.line],
            category=category,
            sop_class_uid=member.sop_class_uid,
            sop_instance_uid=uid,
            reason=reason,
        )
        for member, uid, category, reason in sorted(found)
    )


def _work(request: VerifyRequest, claim: Claim) -> VerifyOutcome:
    started = time.monotonic()
    instances = instances_sent(request.job_id)
    series = _by_series(instances)
    verifying = _Verifying(request, claim)
    verifying.ask_for(series)
    problems = _problems(request, instances, series)
    missing = sum(each.category is InstanceCategory.MISSING for each in problems)
    total = sum(len(members) for each in series for members in each.members.values())
    return VerifyOutcome(
        held=total - len(problems),
        missing=missing,
        unknown=len(problems) - missing,
        problems=problems,
        queries=verifying.queries,
        seconds=time.monotonic() - started,
    )


@app.task(bind=True, base=JobTask, name=VerifyRequest.task)  # type: ignore[untyped-decorator]
def verify(self: Task, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask whether the peer lists what a job has sent (C-FIND)."""
    return answer(self, request, VerifyRequest, _work)
