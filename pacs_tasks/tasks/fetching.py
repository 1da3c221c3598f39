"""One try at a part of a retrieve: ask by C-MOVE or C-GET, take what arrives, and record it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

from celery import Task

from pacs_tasks import receivers
from pacs_tasks.dimse import c_get, c_move, part10, storage
from pacs_tasks.dimse.contexts import COMMON_STORAGE_CLASSES
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.outcome import (
    InstanceCategory,
    InstanceOutcome,
    MoveOutcome,
    Status,
    StatusCategory,
    Suboperations,
)
from pacs_tasks.receivers import Receiver
from pacs_tasks.request import GetRequest, MoveRequest, RetrieveMethod, RetrieveRequest
from pacs_tasks.tasks.associations import leased
from pacs_tasks.tasks.claim import claimed
from pacs_tasks.tasks.job import ledger, local_ae, timeouts
from pacs_tasks.tasks.paths import move_file
from pacs_tasks.tasks.transfer import Part

logger = logging.getLogger(__name__)

#: Received instances are synced to disk and recorded in groups of so many.
_GROUP = 20
#: Seconds between two looks at the receiver's storage, and how long it may stay unchanged, after a peer that claims
#: more sub-operations than have arrived: the peer's answer and its last instance come on different associations.
_LOOK = 0.05
_QUIET = 3.0
#: "Move destination unknown" (PS3.4 table C.4-2).
_DESTINATION_UNKNOWN = 0xA801
_UNABLE = 0xC000
#: Seconds that a receiver has to take a connection.
_KNOCK = 2.0


class NoReceiverError(Exception):
    """C-MOVE is no way to this worker; the text says why."""


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell one file from another that had its name before; nothing if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


class Fetching:
    """One try at a part."""

    def __init__(self, part: Part, request: RetrieveRequest, *, whole_series: bool) -> None:
        self._part, self._request = part, request
        self._series_uid: str = next(iter(part.left.values()))[1]
        self._index_of: dict[str, int] = {entry[0]: index for index, entry in part.left.items()}
        whole = whole_series and len(part.left) == part.size
        #: What C-MOVE and C-GET ask for.
        self._named: dict[str, Any] = {
            "remote": request.remote,
            "study_uid": request.study_uid,
            "series_uid": self._series_uid,
            "sop_instance_uids": () if whole else tuple(self._index_of),
        }
        self._arrived: list[InstanceOutcome] = []
        #: What has been taken from the receiver's storage.
        self._taken: set[str] = set()
        self._before: dict[str, tuple[int, int] | None] = {}
        self._hint = ""
        #: The receiver that C-MOVE was to deliver to.
        self._asked: Receiver | None = None

    def ask(self, task: Task) -> Status:
        """Ask for the instances in the way that the request names."""
        if self._request.method is RetrieveMethod.GET:
            return self.get()
        return self.move(task) if self._request.method is RetrieveMethod.MOVE else self.auto(task)

    def auto(self, task: Task) -> Status:
        """C-MOVE where a receiver runs and the peer knows it, else C-GET."""
        try:
            status = self.move(task)
        except (NoReceiverError, ContextRejectedError) as error:
            self._asked = None
            self._hint = f" (C-MOVE was no way: {error})"
            return self.get()
        if status.code == _DESTINATION_UNKNOWN:
            self._hint = f" (C-MOVE was no way: {status})"
            return self.get()
        return status

    def get(self) -> Status:
        """Fetch by C-GET straight into the output directory."""
        request = self._request
        asked = GetRequest(output_dir=request.output_dir, **self._named)
        classes = {entry[2] for entry in self._part.left.values()}
        if "" in classes:
            # Not every peer lists them.
            classes = (classes | set(COMMON_STORAGE_CLASSES)) - {""}
        try:
            with leased(request.remote, self._part.must_end, one_of_many=True) as stop:
                outcome = c_get.get(asked, local_ae(request), timeouts(request), stop, classes, self._on_instance)
        except ContextRejectedError as error:
            raise ContextRejectedError(f"{error.message}{self._hint}") from None
        finally:
            self._record_arrived()
        return outcome.status

    def move(self, task: Task) -> Status:
        """Have it sent to a receiver that shares its storage with this worker, and take it from there."""
        receiver = self._asked = self._receiver()
        # Two jobs may want the same series at once: one after the other, or each would take the other's files.
        with claimed(task, ledger(), self._part.job_id, self._series_uid, f"receiver:{receiver.ae_title}") as claim:

            def stop() -> bool:
                claim()
                return self._part.must_end()

            def on_suboperations(_: Suboperations) -> None:
                self._take_from(receiver)

            self._note_what_lies_there(receiver)
            request = self._request
            asked = MoveRequest(move_aet=receiver.ae_title, **self._named)
            try:
                with leased(request.remote, stop, one_of_many=True) as watched:
                    outcome = c_move.move(asked, local_ae(request), timeouts(request), watched, on_suboperations)
                self._await_stragglers(receiver, outcome)
            finally:
                self._take_from(receiver)
                self._record_arrived()
            return outcome.status

    def worth_another_try(self, status: Status, *, first: bool) -> bool:
        """Whether what did not come now, although nothing did, may come the next time."""
        if status.category is StatusCategory.TRANSIENT or not self._receiver_listens():
            return True
        # Cxxx may be anything (PS3.4 tables C.4-2 and C.4-3): Orthanc says so when the receiver hangs up.
        return first and (status.category is not StatusCategory.PERMANENT or status.code & 0xF000 == _UNABLE)

    def _receiver_listens(self) -> bool:
        """Whether the receiver that was asked for is still there, as far as we see; C-GET needs none."""
        if self._asked is None:
            return True
        try:
            socket.create_connection((self._asked.host, self._asked.port), timeout=_KNOCK).close()
        except OSError:
            return False
        return True

    def record_missing(self, status: Status) -> None:
        """What the peer listed and did not deliver, by name."""
        for sop_instance_uid, index in self._index_of.items():
            if index in self._part.left:
                reason = f"the peer lists it but did not deliver it ({status}){self._hint}; retry the job"
                self._part.record(
                    index,
                    InstanceOutcome(
                        subject=sop_instance_uid,
                        category=InstanceCategory.MISSING,
                        sop_class_uid=self._part.left[index][2],
                        sop_instance_uid=sop_instance_uid,
                        status=None if status.category is StatusCategory.SUCCESS else status,
                        reason=reason,
                    ),
                )

    def _receiver(self) -> Receiver:
        wanted = self._request.move_aet
        known = [each for each in receivers.running(ledger().client) if wanted in {None, each.ae_title}]
        if not known:
            which = f"receiver {wanted}" if wanted else "receiver"
            raise NoReceiverError(f"no {which} is running; start one with `pacs-tasks receiver`")
        shared = [each for each in known if each.shared]
        if not shared:
            raise NoReceiverError(
                f"this worker does not see the storage of receiver {known[0].ae_title}; mount it at the same path"
            )
        return shared[0]

    def _paths(self, receiver: Receiver) -> dict[str, Path]:
        """Where the receiver puts what has not been taken yet."""
        return {
            uid: storage.instance_path(Path(receiver.directory), self._request.study_uid, self._series_uid, uid)
            for uid in self._index_of.keys() - self._taken
        }

    def _note_what_lies_there(self, receiver: Receiver) -> None:
        """What is there from before must not be taken for what comes now, nor be lost if nothing comes."""
        self._before = {uid: _identity(path) for uid, path in self._paths(receiver).items()}

    def _await_stragglers(self, receiver: Receiver, outcome: MoveOutcome) -> None:
        """Wait for instances that the peer says it has sent, as long as some still come."""
        said = outcome.suboperations.completed + outcome.suboperations.warning
        clock, quiet_since, before = threading.Event(), time.monotonic(), -1
        while not self._part.must_end():
            self._take_from(receiver)
            if len(self._taken) >= min(said, len(self._index_of)):
                return
            if len(self._taken) != before:
                before, quiet_since = len(self._taken), time.monotonic()
            if time.monotonic() - quiet_since > _QUIET:
                return
            clock.wait(_LOOK)

    def _take_from(self, receiver: Receiver) -> None:
        """Bring what has arrived at the receiver to the output directory."""
        for uid, path in self._paths(receiver).items():
            if _identity(path) != self._before[uid]:
                target = storage.instance_path(
                    Path(self._request.output_dir), self._request.study_uid, self._series_uid, uid
                )
                move_file(path, target)
                self._taken.add(uid)
                here = part10.read_instance(str(target))
                self._on_instance(
                    InstanceOutcome(
                        subject=uid,
                        category=InstanceCategory.SUCCESS,
                        sop_class_uid=here.sop_class_uid,
                        sop_instance_uid=uid,
                        transfer_syntax_uid=here.transfer_syntax_uid,
                        path=str(target),
                        size=here.size,
                    )
                )

    def _on_instance(self, outcome: InstanceOutcome) -> None:
        index = self._index_of.get(outcome.sop_instance_uid, -1)
        if index not in self._part.left:
            logger.warning("job %s: the peer sent an instance that was not asked for", self._part.job_id)
        elif outcome.category is InstanceCategory.SUCCESS:
            self._arrived.append(outcome)
        else:
            why = f"it came but could not be kept ({outcome.reason}); check the output directory, then retry the job"
            self._part.record(index, outcome.model_copy(update={"reason": why}))
        if len(self._arrived) >= _GROUP:
            self._record_arrived()

    def _record_arrived(self) -> None:
        """Received means: whole, in its place, and synced to disk."""
        arrived, self._arrived = self._arrived, []
        storage.sync([Path(outcome.path) for outcome in arrived])
        for outcome in arrived:
            index = self._index_of[outcome.sop_instance_uid]
            if index in self._part.left:
                self._part.record(index, outcome)
