"""C-MOVE to a receiver that shares its storage with this worker, and the taking of what arrives there."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

from celery import Task

from pacs_tasks import receivers
from pacs_tasks.dimse import c_move, storage
from pacs_tasks.outcome import MoveOutcome, Suboperations
from pacs_tasks.receivers import Receiver
from pacs_tasks.request import MoveRequest, RetrieveRequest
from pacs_tasks.tasks.arrivals import Arrivals
from pacs_tasks.tasks.associations import leased
from pacs_tasks.tasks.claim import claimed
from pacs_tasks.tasks.expecting import expecting
from pacs_tasks.tasks.job import ledger, local_ae, timeouts
from pacs_tasks.tasks.transfer import Part

#: Seconds between two looks at the receiver's storage, and how long it may stay unchanged, after a peer that claims
#: more sub-operations than have arrived: the peer's answer and its last instance come on different associations.
_LOOK = 0.05
_QUIET = 3.0
#: Seconds that a receiver has to take a connection.
_KNOCK = 2.0


class NoReceiverError(Exception):
    """C-MOVE is no way to this worker; the text says why."""


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
        raise NoReceiverError(f"no {which} is running; start one with `pacs-tasks receiver`")
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


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell one file from another that had its name before; nothing if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


class Moving:
    """One C-MOVE of instances of one series.

    Parameters
    ----------
    named
        What it asks for: ``study_uid``, ``series_uid``, ``sop_instance_uids``.
    """

    def __init__(
        self,
        part: Part,
        request: RetrieveRequest,
        named: dict[str, Any],
        arrivals: Arrivals,
        receiver: Receiver,
    ) -> None:
        self._part, self._request, self._named = part, request, named
        self._arrivals, self._receiver = arrivals, receiver
        #: What has been taken from the receiver's storage.
        self._taken: set[str] = set()
        # What is there from before must not be taken for what comes now, nor be lost if nothing comes.
        self._before: dict[str, tuple[int, int] | None] = {}

    def move(self, task: Task) -> MoveOutcome:
        """Have it sent to the receiver, and take it from there."""
        receiver, request = self._receiver, self._request
        # Two jobs may want the same series at once: one after the other, or each would take the other's files. The
        # token stands for the storage, which several receivers may share.
        study, series, scope = self._named["study_uid"], self._named["series_uid"], f"receiver:{receiver.token}"
        with (
            claimed(task, ledger(), self._part.job_id, series, scope) as claim,
            expecting(claim, receiver, study, series),
        ):

            def stop() -> bool:
                claim()
                return self._part.must_end()

            def on_suboperations(_: Suboperations) -> None:
                self._take()

            self._before = {uid: _identity(path) for uid, path in self._paths().items()}
            asked = MoveRequest(remote=request.remote, move_aet=receiver.ae_title, **self._named)
            try:
                with leased(request.remote, stop, one_of_many=True) as watched:
                    outcome = c_move.move(asked, local_ae(request), timeouts(request), watched, on_suboperations)
                self._await_stragglers(outcome)
            finally:
                self._take()
                self._arrivals.record()
            return outcome

    def _paths(self) -> dict[str, Path]:
        """Where the receiver puts what has not been taken yet."""
        incoming, study, series = self._receiver.incoming, self._named["study_uid"], self._named["series_uid"]
        return {
            uid: storage.instance_path(incoming, study, series, uid)
            for uid in self._arrivals.index_of.keys() - self._taken
        }

    def _await_stragglers(self, outcome: MoveOutcome) -> None:
        """Wait for instances that the peer says it has sent, as long as some still come."""
        said = outcome.suboperations.completed + outcome.suboperations.warning
        clock, quiet_since, before = threading.Event(), time.monotonic(), -1
        while not self._part.must_end():
            self._take()
            if len(self._taken) >= min(said, len(self._arrivals.index_of)):
                return
            if len(self._taken) != before:
                before, quiet_since = len(self._taken), time.monotonic()
            if time.monotonic() - quiet_since > _QUIET:
                return
            clock.wait(_LOOK)

    def _take(self) -> None:
        """Bring what has arrived at the receiver to the output directory."""
        for uid, path in self._paths().items():
            if _identity(path) != self._before[uid]:
                self._taken.add(uid)
                self._arrivals.bring(path, self._named["study_uid"], self._named["series_uid"], uid)
