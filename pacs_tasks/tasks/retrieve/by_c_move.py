"""C-MOVE to a receiver whose storage this worker sees, and the collection of what arrives there."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import redis

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.files import storage
from pacs_tasks.dimse.retrieve import c_move
from pacs_tasks.dimse.retrieve.delivery import Arrived
from pacs_tasks.dimse.status import move_status
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.connecting import connect
from pacs_tasks.errors import AssociationError, BrokerUnavailableError
from pacs_tasks.fleet import receivers
from pacs_tasks.fleet.receivers import EXPECTED_FOR, ExpectedSeries, Receiver
from pacs_tasks.fleet.senders import Expectation, Stranger, expectation
from pacs_tasks.ledger.manifest import RetrieveLine
from pacs_tasks.outcome import MoveOutcome
from pacs_tasks.request import MoveRequest, RetrieveRequest
from pacs_tasks.sealing import sealing_of
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.claim import Claim, claimed, heartbeat
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.expected import expecting_call
from pacs_tasks.tasks.retrieve.arrivals import Arrivals
from pacs_tasks.tasks.retrieve.attempt import UIDs, move_request

logger = logging.getLogger(__name__)

#: Seconds between two checks of the receiver's storage, and how long it may stay unchanged, while the remote claims
#: to have sent more than has arrived: its final response and its last instance come on different associations.
_PAUSE = 0.05
_QUIET = 3.0
#: Seconds that a receiver has to accept a connection.
_CONNECT = 2.0
#: The name of an instance; an older one with other content has a number more.
_FILE = re.compile(r"(.+)\.dcm(\.\w+)?")
#: The greatest message id that we choose: some remotes read it as a signed number.
_MOST_MESSAGE_ID = 0x7FFF


class NoReceiverError(Exception):
    """C-MOVE cannot deliver to this worker; the text says why.

    ``expected`` if the site is set up like that: no receiver runs, and the request names none.
    """

    def __init__(self, message: str, *, expected: bool = False) -> None:
        super().__init__(message)
        self.expected = expected


def receiver_for(wanted: str | None) -> Receiver:
    """The receiver to which C-MOVE delivers: the one with this AE title, or any if ``wanted`` is None.

    Raises
    ------
    NoReceiverError
        If none runs, or this worker sees the storage of none.
    """
    known = [each for each in receivers.running(ledger().client) if wanted in {None, each.ae_title}]
    if not known:
        which = f"receiver {wanted}" if wanted else "receiver"
        raise NoReceiverError(f"No {which} is running. Start one with `pacs-tasks receiver`.", expected=wanted is None)
    shared = [each for each in known if each.shared]
    if not shared:
        raise NoReceiverError(
            f"This worker does not see the storage of receiver {known[0].ae_title}. Mount it at the same path."
        )
    return shared[0]


def accepts_connections(receiver: Receiver) -> bool:
    """Whether a receiver still accepts connections from this machine."""
    try:
        connect(receiver.host, receiver.port, receiver.ae_title, _CONNECT, lambda: None).close()
    except AssociationError:
        return False
    return True


class _Found(NamedTuple):
    """An instance that lies at the receiver."""

    sop_instance_uid: str
    series_uid: str
    path: str
    #: Inode and time of the last change, which differ for another file that had the same name before.
    identity: tuple[int, int]
    #: When it was written, in Unix seconds.
    since: float


class Move:
    """One C-MOVE of a study, a series or some instances of a series.

    Parameters
    ----------
    named
        Study, series (empty for the whole study) and SOP Instance UIDs (none for the whole series).

    Attributes
    ----------
    strangers
        Who else sent instances of this series or study meanwhile, if not all have come.
    """

    def __init__(
        self,
        part: Part[RetrieveLine],
        request: RetrieveRequest,
        arrivals: Arrivals,
        receiver: Receiver,
        named: tuple[str, str, UIDs],
    ) -> None:
        self._part, self._request = part, request
        self._arrivals, self._receiver = arrivals, receiver
        self._study_uid, self._series_uid, self._sop_instance_uids = named
        #: How many instances have been collected from the receiver's storage.
        self._collected = 0
        #: What was there before this job.
        self._before: dict[str, tuple[int, int]] = {}
        self.strangers: tuple[Stranger, ...] = ()

    def run(self) -> MoveOutcome:
        """Have the remote send to the receiver, and collect from there what arrives."""
        receiver, request = self._receiver, self._request
        # Two jobs may want the same series, or without a series the same study, at once. They run one after the other;
        # otherwise each would collect the other's files. Receivers that share a storage have the same token.
        hashed = sealing_of(ledger().client).hashed
        scope = f"receiver:{receiver.token}:{hashed(self._study_uid)}"
        name = self._series_uid and hashed(self._series_uid)
        with (
            claimed(self._part.task, ledger(), self._part.job_id, name, scope) as claim,
            expecting(claim, receiver, request, (self._study_uid, self._series_uid)) as expected,
            ExitStack() as calls,
        ):
            for caller in callers_of(request.remote):
                calls.enter_context(expecting_call(claim, caller))

            def stop() -> bool:
                claim()
                return self._part.must_end()

            def collected() -> Arrived:
                before = self._collected
                self._collect()
                if self._collected > before:
                    lease.moved(self._collected - before, 0)
                return self._arrivals.so_far()

            operation = self._request_for_the_rest()
            if operation is None:
                return MoveOutcome(status=move_status(0x0000))
            try:
                with leased(request, self._part.job_id, stop, one_of_many=True) as lease:
                    outcome = c_move.move(
                        operation,
                        local_ae(request),
                        timeouts(request),
                        lease.stop,
                        check_arrived=collected,
                        on_association=expected.begin,
                        message_id=message_id_of(self._part.job_id),
                    )
                self._await_stragglers(outcome)
            finally:
                self._collect()
                self._arrivals.record()
            if not self._arrivals.complete:
                self.strangers = expected.strangers()
            return outcome

    def _request_for_the_rest(self) -> MoveRequest | None:
        """The request for what is still to come, if anything is, after what a worker that died had requested.

        Files from before this job stay where they are: they must not count as arrived, nor be lost if nothing comes.
        """
        created = ledger().progress(self._part.job_id).created
        self._before = {each.path: each.identity for each in self._there() if each.since < created}
        self._collect()
        self._arrivals.record()
        if self._arrivals.complete:
            return None
        uids = self._uids_of_the_rest()
        self._collected = 0
        return move_request(self._request, self._receiver.ae_title, self._study_uid, self._series_uid, uids)

    def _uids_of_the_rest(self) -> UIDs:
        """SOP Instance UIDs of what is still to come; none where it is requested as a whole series or study."""
        uids = self._sop_instance_uids
        if uids or (self._collected and not self._arrivals.counted):
            uids = tuple(uid for uid in uids or self._arrivals.index_of if self._arrivals.wants(uid))
        return uids

    def _there(self) -> Iterator[_Found]:
        """Yield the instances of the series, or the study, at the receiver."""
        named = storage.kept_path(self._receiver.incoming, self._study_uid, self._series_uid, self._study_uid)
        study, wanted = named.parent.parent, named.parent.name if self._series_uid else ""
        for series in _listed(study):
            if series.is_dir(follow_symlinks=False) and wanted in {"", series.name}:
                series_uid = "" if series.name == storage.NO_SERIES else series.name
                for uid, each in _older_first(_listed(Path(series.path))):
                    # Another process may just have collected it.
                    with suppress(FileNotFoundError):
                        stat = each.stat(follow_symlinks=False)
                        identity = stat.st_ino, stat.st_mtime_ns
                        names = storage.uids_behind(each.path, uid, series_uid)
                        yield _Found(*names, each.path, identity, stat.st_mtime)

    def _await_stragglers(self, outcome: MoveOutcome) -> None:
        """Wait for instances that the remote claims to have sent, as long as some still come."""
        claimed_sent = outcome.suboperations.completed + outcome.suboperations.warning
        clock, quiet_since, before = threading.Event(), time.monotonic(), -1
        while not self._part.must_end():
            self._collect()
            if self._collected >= claimed_sent or self._arrivals.complete:
                return
            if self._collected != before:
                before, quiet_since = self._collected, time.monotonic()
            if time.monotonic() - quiet_since > _QUIET:
                return
            clock.wait(_PAUSE)

    def _collect(self) -> None:
        """Move what has arrived at the receiver to the output directory."""
        for each in self._there():
            if self._before.get(each.path) == each.identity:
                continue
            uid, has = each.sop_instance_uid, self._arrivals.has(each.sop_instance_uid)
            # A whole series may hold more than the remote has listed: it may limit its lists.
            new = self._arrivals.wants(uid) or not (self._sop_instance_uids or has)
            # It may have come again, perhaps with other content.
            if new or (has and each.path not in self._arrivals.places):
                self._arrivals.collect(Path(each.path), self._study_uid, each.series_uid, uid)
                self._collected += new


def _older_first(entries: list[os.DirEntry[str]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Give the files of instances with the UIDs in their names, and older ones of the same name before them."""
    files = [(_FILE.fullmatch(each.name), each) for each in entries if each.is_file(follow_symlinks=False)]
    for older in (True, False):
        yield from ((name[1], each) for name, each in files if name is not None and bool(name[2]) is older)


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    """List a directory, but follow no link: it may lead to what nobody has received."""
    if directory.is_symlink():
        return []
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def callers_of(remote: RemoteAE) -> Iterator[RemoteAE]:
    """Give a remote under each AE title and address with which it may deliver."""
    known = settings().known_as(remote)
    titles = [title for each in known for title in each.receive_from_ae_titles or ()]
    hosts = [host for each in known for host in each.receive_from or ()]
    for ae_title in dict.fromkeys((remote.ae_title, *titles)):
        for host in dict.fromkeys((remote.host, *hosts)):
            yield remote.model_copy(update={"ae_title": ae_title, "host": host})


def message_id_of(job_id: str) -> int:
    """Give the message id of each C-MOVE request of a job.

    A PACS passes it on as Move Originator Message ID. It is the same for all requests of a job, so that an instance
    that comes late, after a worker has died, still counts.
    """
    return 1 + zlib.crc32(job_id.encode()) % _MOST_MESSAGE_ID


class Expected:
    """Expects a series, or a whole study, at a receiver, as long as the owner of the claim shows signs of life."""

    def __init__(self, claim: Claim, receiver: Receiver, request: RetrieveRequest, uids: tuple[str, str]) -> None:
        self._claim, self._receiver, self._request, self._uids = claim, receiver, request, uids
        self._expected = ExpectedSeries(ledger().client)
        self._what: Expectation | None = None

    def begin(self, assoc: Association) -> None:
        """Expect the series from the PACS of this association, from now on.

        Raises
        ------
        BrokerUnavailableError
            If Redis is away. Nothing may be requested then: the instances would count as unsolicited.
        """
        request = self._request
        self._what = expectation(
            self._claim.owner,
            settings().known_as(request.remote),
            self._receiver.host,
            assoc.wire.certificate_marks(),
            (local_ae(request).ae_title, message_id_of(self._claim.job_id)),
        )
        self.prolong()
        heartbeat().keep(self)

    @property
    def seen(self) -> float:
        return self._claim.seen

    def prolong(self) -> None:
        if self._what is not None:
            self._expected.expect(self._receiver.ae_title, *self._uids, self._what, EXPECTED_FOR)

    def end(self) -> None:
        heartbeat().forget(self)
        if self._what is not None:
            self._expected.withdraw(self._receiver.ae_title, *self._uids, self._what)

    def strangers(self) -> tuple[Stranger, ...]:
        """Read who else sent what is expected."""
        return self._expected.strangers(self._claim.owner)


@contextmanager
def expecting(claim: Claim, receiver: Receiver, request: RetrieveRequest, uids: tuple[str, str]) -> Iterator[Expected]:
    """During the block, from ``begin`` on, have a receiver expect a series, or without one the whole study."""
    expected = Expected(claim, receiver, request, uids)
    try:
        yield expected
    finally:
        try:
            expected.end()
        except (BrokerUnavailableError, redis.RedisError) as error:
            logger.debug("An expectation could not be removed (%s); it expires.", type(error).__name__)
