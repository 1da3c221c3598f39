"""Send a part straight from one PACS to another: a C-MOVE by the source, then a query to the destination.

Nothing passes through here, so the source's answer alone proves nothing. An instance counts as sent when the
destination lists it (C-FIND at IMAGE level, PS3.4 section C.4.1), and never where the destination cannot be queried.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import cast

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.retrieve import c_move
from pacs_tasks.errors import AssociationError, JobCancelledError, PeerBusyError, PeerUnavailableError
from pacs_tasks.ledger.manifest import RetrieveLine
from pacs_tasks.outcome import InstanceCategory, MoveOutcome
from pacs_tasks.request import RetrieveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.retrieve.attempt import Answer, Attempt, UIDs, lists_of, move_request
from pacs_tasks.tasks.retrieve.fetch import Method
from pacs_tasks.tasks.verify.inventory import Inquiry, Series

#: Seconds for which the destination may list nothing new although the source claims to have sent more: some databases
#: take their time. Also how long it may have no association for us. The first attempt waits less, since what is not
#: listed then is only requested again; each request waits at least the last of these.
_QUIET_AT_FIRST, _QUIET, _LEAST = 4.0, 10.0, 1.0
#: How often a destination is queried that answers, but cannot list its instances.
_MOST_REFUSALS = 3
#: Seconds between two queries at the first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
#: UIDs in one request: at the first attempt by name, and from the second on, since some remotes accept one only.
_LISTS = (500, 1)


class Forward(Attempt):
    """One attempt to have the source send what is left of a part.

    The AE title of ``request.to`` is the move destination; its host and port answer the queries.
    """

    def __init__(self, part: Part[RetrieveLine], request: RetrieveRequest, *, whole_series: bool) -> None:
        super().__init__(part, request, whole_series=whole_series)
        self._destination = cast(RemoteAE, request.to)
        self._index_of: dict[str, int] = {}
        if not self._counted:
            self._index_of = {line.sop_instance_uid: index for index, line in part.left.items()}
        self._inquiry = Inquiry(request, self._destination, part.job_id, part.must_end)
        #: Why the destination cannot list what it holds, if it cannot.
        self._unlisted = "The source has counted its instances and not named them." if self._counted else ""
        #: How often the destination itself has answered so.
        self._refusals = 0
        #: When it was last seen to have more.
        self._since = time.monotonic()

    def record_present(self) -> None:
        """Record what the destination already holds; nothing if it cannot be queried.

        Raises
        ------
        PeerBusyError
            If it has no association for us now.
        """
        if not self._counted:
            try:
                self._record_held(self._held(), InstanceCategory.PRESENT)
            except PeerBusyError:
                raise
            except AssociationError as error:
                self._unlisted = error.message

    def run(self) -> Answer:
        """Have the source send, and query the destination."""
        if self._tries and not self._request.overwrite:
            # What came late.
            self._record_held(self._listed(), InstanceCategory.SUCCESS)
        left = list(self._left())
        whole = self._whole_series and len(left) == self._part.size and not self._tries
        size = self._part.pacing.list_size(_LISTS[min(max(self._tries - 1, 0), len(_LISTS) - 1)])
        whole = self._counted or (whole and size >= len(left))
        self._since = time.monotonic()
        answer = self._request_lists([()] if whole else lists_of(left, size), self._send)
        if self._unlisted and not answer.destination_unknown and not self._part.must_end():
            self._record_unverified(answer)
        return answer

    @property
    def _number(self) -> int:
        return self._part.size - len(self._part.left)

    def _missing_of(self, _uids: UIDs) -> Sequence[str]:
        return list(self._left())

    def _may_continue(self, answer: Answer) -> bool:
        return not self._unlisted and super()._may_continue(answer)

    def _read(self, outcome: MoveOutcome, *, brought: bool) -> Answer:
        """The source's answer with its counts: its status alone may be wrong."""
        answer, counts = super()._read(outcome, brought=brought), outcome.suboperations
        if answer.destination_unknown:
            return answer
        done, failed = counts.completed + counts.warning, counts.failed + counts.remaining
        return answer._replace(text=f"{outcome.status}; of its sub-operations {done} completed, {failed} failed")

    def worth_another_try(self, answer: Answer) -> bool:
        return not answer.destination_unknown and super().worth_another_try(answer)

    def record_missing(self, answer: Answer) -> None:
        """Record by name what the source lists and the destination does not."""
        source = self._request.remote
        if answer.destination_unknown:
            reason = answer.text
        elif self._request.overwrite:
            reason = (
                f"{source} lists this instance but did not send it to {self._destination} again ({answer.text}). "
                "Retry the job."
            )
        else:
            reason = (
                f"{source} lists this instance, but {self._destination} does not after {source} was asked to send it "
                f"there ({answer.text}). Retry the job."
            )
        self._fail_rest(InstanceCategory.MISSING, reason, answer.status)

    def _left(self) -> dict[str, int]:
        return {uid: index for uid, index in self._index_of.items() if index in self._part.left}

    def _send(self, uids: UIDs) -> MoveOutcome:
        """Have the source send these, and record what the destination lists afterwards."""
        outcome = self._move(uids)
        self._destination_unknown = c_move.refuses_destination(outcome, uids)
        if not self._destination_unknown:
            if not self._counted:
                self._await(outcome, uids or list(self._left()))
            return outcome
        knows = "does" if outcome.status.code == c_move.DESTINATION_UNKNOWN else "sent nothing: it probably does"
        meaning = (
            f"{self._request.remote} {knows} not know the move destination {self._destination.ae_title!r}. Ask its "
            f"administrator to add {self._destination} to its destinations."
        )
        return outcome.model_copy(update={"status": outcome.status.model_copy(update={"meaning": meaning})})

    def _move(self, uids: UIDs) -> MoveOutcome:
        request = self._request
        operation = move_request(request, self._destination.ae_title, self._study_uid, self._series_uid, uids)
        self._part.pacing.before_request(len(uids) or len(self._part.left))
        try:
            with leased(request, self._part.job_id, self._part.must_end, one_of_many=True) as lease:
                outcome = c_move.move(operation, local_ae(request), timeouts(request), lease.stop)
                lease.moved(outcome.suboperations.completed, 0)
        except PeerBusyError:
            raise
        except PeerUnavailableError:
            # Some of it may have arrived all the same.
            if not request.overwrite and not self._counted:
                self._record_held(self._listed(), InstanceCategory.SUCCESS)
            raise
        if outcome.suboperations.completed + outcome.suboperations.warning:
            ledger().studies.record_method(self._part.job_id, self._study_uid, Method.MOVE)
        return outcome

    def _await(self, outcome: MoveOutcome, requested: Collection[str]) -> None:
        """Record what the destination lists, and wait while it lists more of what the source claims to have sent."""
        claimed, brought = outcome.suboperations.completed + outcome.suboperations.warning, 0
        none_counts = self._request.overwrite and not _accounts_for_each(outcome, requested)
        clock, pause, enough = threading.Event(), _FIRST_PAUSE, time.monotonic() + _LEAST
        quiet = _QUIET if self._tries else _QUIET_AT_FIRST
        while True:
            listed = self._counted_as_sent(self._listed(), outcome, requested)
            self._record_held(listed, InstanceCategory.SUCCESS)
            if listed:
                self._since, pause, brought = time.monotonic(), _FIRST_PAUSE, brought + len(listed)
            left = max(self._since + quiet, enough) - time.monotonic()
            if left <= 0 or self._must_stop_waiting():
                return
            # The destination answers, and nothing more is to come.
            if not self._unlisted and (brought >= claimed or none_counts):
                return
            clock.wait(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _counted_as_sent(self, listed: set[str], outcome: MoveOutcome, requested: Collection[str]) -> set[str]:
        """Which of the instances that the destination lists count as sent.

        With ``overwrite``, it lists what it had before in any case. That it has received it again is the source's
        claim, and counts if the source accounts for each instance.
        """
        if not self._request.overwrite:
            return listed
        if not _accounts_for_each(outcome, requested):
            return set()
        return (listed & set(requested)) - set(outcome.failed_sop_instance_uids)

    def _must_stop_waiting(self) -> bool:
        """Whether nothing is left to wait for, the destination cannot list its instances, or the part must end."""
        return not self._part.left or self._refusals >= _MOST_REFUSALS or self._part.must_end()

    def _listed(self) -> set[str]:
        """Which of the instances that are left the destination lists; none if it cannot be queried."""
        try:
            return self._held()
        except PeerUnavailableError as error:
            self._unlisted = error.message
        except AssociationError as error:
            self._unlisted, self._refusals = error.message, _MOST_REFUSALS
        return set()

    def _held(self) -> set[str]:
        self._unlisted = ""
        series = Series(self._study_uid, self._series_uid, self._left())
        # The caller checks whether to end; what is known by then counts.
        with suppress(JobCancelledError):
            self._inquiry.find([series])
        if series.unknown:
            self._unlisted = next(iter(series.unknown.values()))
            self._refusals += 1
        return series.held

    def _record_held(self, held: set[str], category: InstanceCategory) -> None:
        left = self._left()
        self._record([left[uid] for uid in sorted(held & left.keys())], category)

    def _record_unverified(self, answer: Answer) -> None:
        """Record what the source alone claims to have sent as failed."""
        reason = (
            f"{self._request.remote} was asked to send this instance to {self._destination} ({answer.text}), but "
            f"its arrival is not verified. {self._unlisted} Retry the job afterwards."
        )
        self._fail_rest(InstanceCategory.FAILED, reason, answer.status)


def _accounts_for_each(outcome: MoveOutcome, requested: Collection[str]) -> bool:
    """Whether the source accounts for each requested instance: as sent, or by its UID as failed."""
    counts, refused = outcome.suboperations, set(outcome.failed_sop_instance_uids)
    claimed = counts.completed + counts.warning
    return claimed + len(refused) >= len(requested) and counts.failed <= len(refused)
