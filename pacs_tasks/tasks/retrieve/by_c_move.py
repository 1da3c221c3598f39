"""C-MOVE to a receiver that shares its storage with this worker, and the taking of what arrives there."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import redis
from celery import Task

from pacs_tasks.dimse.files import storage
from pacs_tasks.dimse.retrieve import c_move
from pacs_tasks.dimse.retrieve.delivery import Arrived
from pacs_tasks.dimse.status import move_status
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet import receivers
from pacs_tasks.fleet.receivers import EXPECTED_FOR, ExpectedSeries, Receiver
from pacs_tasks.ledger.manifest import RetrieveLine
from pacs_tasks.outcome import MoveOutcome
from pacs_tasks.request import MoveRequest, RetrieveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.claim import Claim, claimed, heartbeat
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.retrieve.arrivals import Arrivals

logger = logging.getLogger(__name__)

#: Seconds between two looks at the receiver's storage, and how long it may stay unchanged, after a peer that claims
#: more sub-operations than have arrived: the peer's answer and its last instance come on different associations.
_LOOK = 0.05
_QUIET = 3.0
#: Seconds that a receiver has to take a connection.
_KNOCK = 2.0


class NoReceiverError(Exception):
    """C-MOVE is no way to this worker; the text says why.

    ``expected`` where that is how the site is set up: nobody runs a receiver, and nobody has named one.
    """

    def __init__(self, message: str, *, expected: bool = False) -> None:
        super().__init__(message)
        self.expected = expected


def receiver_for(wanted: str | None) -> Receiver:
    """The receiver to move to: the one of this AE title, else any.

    Raises
    ------
    NoReceiverError
        If none runs, or none whose storage this worker sees.
    """
    known = [each for each in receivers.running(ledger().client) if wanted in {None, each.ae_title}]
    if not known:
        which = f"receiver {wanted}" if wanted else "receiver"
        why = f"no {which} is running; start one with `pacs-tasks receiver`"
        raise NoReceiverError(why, expected=wanted is None)
    shared = [each for each in known if each.shared]
    if not shared:
        raise NoReceiverError(
            f"this worker does not see the storage of receiver {known[0].ae_title}; mount it at the same path"
        )
    return shared[0]


def listens(receiver: Receiver) -> bool:
    """Whether a receiver is still there, as far as we see."""
    try:
        socket.create_connection((receiver.host, receiver.port), timeout=_KNOCK).close()
    except OSError:
        return False
    return True


class _Found(NamedTuple):
    """An instance that lies at the receiver."""

    sop_instance_uid: str
    series_uid: str
    path: str
    #: What tells it from another one that had its name before.
    identity: tuple[int, int]
    #: When it was written, in Unix seconds.
    since: float


class Moving:
    """One C-MOVE of a series, of instances of it, or of a study.

    Parameters
    ----------
    series_uid
        Empty: the whole study.
    sop_instance_uids
        Empty: the whole series.
    """

    def __init__(
        self,
        part: Part[RetrieveLine],
        request: RetrieveRequest,
        arrivals: Arrivals,
        receiver: Receiver,
        named: tuple[str, str, tuple[str, ...]],
    ) -> None:
        self._part, self._request = part, request
        self._arrivals, self._receiver = arrivals, receiver
        self._study_uid, self._series_uid, self._sop_instance_uids = named
        #: How many instances have been taken from the receiver's storage.
        self._taken = 0
        self._before: dict[str, tuple[int, int]] = {}

    def move(self, task: Task) -> MoveOutcome:
        """Have it sent to the receiver, and take it from there."""
        receiver, request = self._receiver, self._request
        # Two jobs may want the same series at once: one after the other, or each would take the other's files. Without
        # a series it is the whole study. The token stands for the storage, which several receivers may share.
        scope = f"receiver:{receiver.token}:{self._study_uid}"
        with (
            claimed(task, ledger(), self._part.job_id, self._series_uid, scope) as claim,
            expecting(claim, receiver, self._study_uid, self._series_uid),
        ):

            def stop() -> bool:
                claim()
                return self._part.must_end()

            def look() -> Arrived:
                self._take()
                return self._arrivals.here()

            asked = self._what_is_left()
            if asked is None:
                return MoveOutcome(status=move_status(0x0000))
            try:
                with leased(request.remote, stop, one_of_many=True) as watched:
                    outcome = c_move.move(asked, local_ae(request), timeouts(request), watched, check_arrived=look)
                self._await_stragglers(outcome)
            finally:
                self._take()
                self._arrivals.record()
            return outcome

    def _what_is_left(self) -> MoveRequest | None:
        """Take what a worker that died had asked for; what is still to be asked for, if anything is.

        What was there before this job must not be taken for what comes now, nor be lost if nothing comes.
        """
        created = ledger().progress(self._part.job_id).created
        self._before = {each.path: each.identity for each in self._there() if each.since < created}
        self._take()
        self._arrivals.record()
        if self._arrivals.complete:
            return None
        uids = self._sop_instance_uids
        if uids or (self._taken and not self._arrivals.counted):
            uids = tuple(uid for uid in uids or self._arrivals.index_of if self._arrivals.wants(uid))
        self._taken = 0
        return MoveRequest(
            remote=self._request.remote,
            move_aet=self._receiver.ae_title,
            study_uid=self._study_uid,
            series_uid=self._series_uid or None,
            sop_instance_uids=uids,
        )

    def _there(self) -> Iterator[_Found]:
        """What lies at the receiver of the series, or the study."""
        named = storage.instance_path(self._receiver.incoming, self._study_uid, self._series_uid, self._study_uid)
        for series in [named.parent] if self._series_uid else map(Path, _listed(named.parent.parent)):
            series_uid = "" if series.name == storage.NO_SERIES else series.name
            for each in _listed(series):
                uid, _, ending = each.name.rpartition(".")
                if ending == "dcm":
                    # It may have gone since.
                    with suppress(FileNotFoundError):
                        stat = each.stat()
                        identity = stat.st_ino, stat.st_mtime_ns
                        yield _Found(uid, series_uid, each.path, identity, stat.st_mtime)

    def _await_stragglers(self, outcome: MoveOutcome) -> None:
        """Wait for instances that the peer says it has sent, as long as some still come."""
        said = outcome.suboperations.completed + outcome.suboperations.warning
        clock, quiet_since, before = threading.Event(), time.monotonic(), -1
        while not self._part.must_end():
            self._take()
            if self._taken >= said or self._arrivals.complete:
                return
            if self._taken != before:
                before, quiet_since = self._taken, time.monotonic()
            if time.monotonic() - quiet_since > _QUIET:
                return
            clock.wait(_LOOK)

    def _take(self) -> None:
        """Bring what has arrived at the receiver to the output directory."""
        for each in self._there():
            if self._before.get(each.path) == each.identity:
                continue
            # Of what was asked for as a whole, also what the peer did not list: it may have cut its list off.
            unlisted = not self._sop_instance_uids and not self._arrivals.has(each.sop_instance_uid)
            if unlisted or self._arrivals.wants(each.sop_instance_uid):
                self._arrivals.bring(Path(each.path), self._study_uid, each.series_uid, each.sop_instance_uid)
                self._taken += 1
            elif self._arrivals.has(each.sop_instance_uid) and each.path not in self._arrivals.places:
                # It has come once more.
                Path(each.path).unlink(missing_ok=True)


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


class _Expectation:
    """One series, or a whole study, at one receiver; it lives as long as the owner of the claim gives signs of life."""

    def __init__(self, claim: Claim, receiver: Receiver, study_uid: str, series_uid: str) -> None:
        self._claim = claim
        self._expected = ExpectedSeries(ledger().client)
        self._what = (receiver.ae_title, study_uid, series_uid, claim.owner)

    @property
    def seen(self) -> float:
        return self._claim.seen

    def prolong(self) -> None:
        self._expected.expect(*self._what, EXPECTED_FOR)

    def forget(self) -> None:
        self._expected.withdraw(*self._what)


@contextmanager
def expecting(claim: Claim, receiver: Receiver, study_uid: str, series_uid: str) -> Iterator[None]:
    """Expect a series, or with an empty ``series_uid`` its study, at a receiver during the block.

    Raises
    ------
    BrokerUnavailableError
        If Redis is away: nothing is to be asked for then, since nobody would know that it was.
    """
    expectation = _Expectation(claim, receiver, study_uid, series_uid)
    expectation.prolong()
    heartbeat().keep(expectation)
    try:
        yield
    finally:
        heartbeat().forget(expectation)
        try:
            expectation.forget()
        except (BrokerUnavailableError, redis.RedisError) as error:
            logger.debug("an expectation was not taken back (%s); it runs out", type(error).__name__)
