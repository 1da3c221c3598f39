"""Send the files of one part, each to its own outcome."""

from __future__ import annotations

from collections.abc import Iterator

from pacs_tasks.dimse import c_store
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import (
    AssociationError,
    JobCancelledError,
    PeerBusyError,
    PeerUnavailableError,
    PeerUnreachableError,
)
from pacs_tasks.outcome import InstanceOutcome, StatusCategory
from pacs_tasks.request import TransferRequest
from pacs_tasks.settings import settings
from pacs_tasks.tasks.engine.associations import lent
from pacs_tasks.tasks.engine.base import local_ae, timeouts
from pacs_tasks.tasks.engine.chord import Part, PartCancelledError
from pacs_tasks.tasks.engine.claim import poison
from pacs_tasks.tasks.engine.parking import note_unreachable, park_if_down
from pacs_tasks.tasks.engine.shutdown import WorkerStoppingError, stopping
from pacs_tasks.tasks.store.recognise import recognise

#: Associations that may be lost in one try of a part before what is left of it goes back on the queue.
_LOSSES_OF_A_TRY = 2
#: Associations that may be lost at one file before it fails: some files make a peer abort, or fall silent, each time.
_LOSSES_OF_A_FILE = 3
#: Workers that may die with a part, for whatever reason, before all that is left of it fails.
_MOST_DEATHS_OF_A_PART = 10

#: Index in the manifest to instance, in the order in which they are sent.
_Queue = dict[int, StoredInstance]


def send(part: Part, request: TransferRequest, *, last_try: bool, alone: bool = False) -> bool:
    """Send what is left of a part; true if something should be tried again later.

    Parameters
    ----------
    part, request
        Which files, and to whom.
    last_try
        What would be tried again later fails now.
    alone
        The part is the whole job: a peer that cannot be reached at all is told at once.

    Raises
    ------
    PeerBusyError
        If there is no association now, and nothing but that keeps the rest from being sent: it was no try.
    """
    if part.claim.deaths >= _MOST_DEATHS_OF_A_PART:
        raise poison(part.claim.deaths)
    part.quarantine()
    if not alone:
        park_if_down(part.job_id, request)
    instances = _recognise(part)
    index_of = {instance.path: index for index, instance in instances}
    again = False
    for proposed, batch in contexts.contexts_for([instance for _, instance in instances]):
        queue = {index_of[instance.path]: instance for instance in batch}
        sending = _Sending(part, request, proposed, last_try=last_try, alone=alone)
        try:
            sending.send(queue)
        except PeerBusyError:
            if not (again or sending.again):
                raise
            return True
        again |= sending.again
    return again


def _recognise(part: Part) -> list[tuple[int, StoredInstance]]:
    """Read the headers; what is no DICOM instance or cannot be read has its outcome here."""
    found = []
    for index, (path, _) in list(part.left.items()):
        if part.claim():
            raise JobCancelledError
        if stopping():
            raise WorkerStoppingError
        part.begin(index)
        read = recognise(path)
        if isinstance(read, InstanceOutcome):
            part.record(index, read)
        else:
            found.append((index, read))
    return found


class _Sending:
    """Sends the files that share an association."""

    def __init__(
        self, part: Part, request: TransferRequest, proposed: list[Context], *, last_try: bool, alone: bool
    ) -> None:
        self._part, self._request, self._proposed = part, request, proposed
        self._last_try, self._alone = last_try, alone
        #: Something failed for now, which counts as a try.
        self.again = self._cancelled = False
        #: What has been put on the wire and is not answered.
        self._unanswered: set[int] = set()

    def send(self, queue: _Queue) -> None:
        losses = 0
        while queue:
            try:
                self._over_one_association(queue)
            except PeerBusyError:
                raise
            except PeerUnavailableError as error:
                if self._opened:
                    losses += 1
                    self._put_aside(queue, error)
                elif self._alone:
                    raise
                elif isinstance(error, PeerUnreachableError):
                    note_unreachable(self._part.job_id, self._request, error)
                if not self._opened or losses == _LOSSES_OF_A_TRY:
                    if not self._last_try:
                        self.again |= bool(queue)
                        return
                    self._fail(queue, error)
            except AssociationError as error:
                if self._alone:
                    raise
                self._fail(queue, error)

    def _over_one_association(self, queue: _Queue) -> None:
        """Send until the queue is empty or the association is lost; the file that met the loss stays in front."""
        request = self._request
        self._opened = False
        with lent(
            local_ae(request), request.remote, self._proposed, timeouts(request), self._part.claim.overdue
        ) as assoc:
            self._opened = True
            index_of = {instance.path: index for index, instance in queue.items()}
            instances = self._until_cancelled(queue)
            for instance, outcome in c_store.store_all(assoc, instances, digest=settings().sha256):
                index = index_of[instance.path]
                del queue[index]
                self._unanswered.discard(index)
                self._conclude(index, outcome)
        if self._cancelled:
            raise JobCancelledError
        if queue and stopping():
            raise WorkerStoppingError

    def _until_cancelled(self, queue: _Queue) -> Iterator[StoredInstance]:
        """What is to be sent. After a cancel, or when the worker ends, nothing more is begun; what was is awaited."""
        for index, instance in list(queue.items()):
            if self._cancelled or self._part.claim():
                self._cancelled = True
                return
            if stopping():
                return
            self._unanswered.add(index)
            self._part.begin(index)
            yield instance

    def _conclude(self, index: int, outcome: InstanceOutcome) -> None:
        transient = outcome.status is not None and outcome.status.category is StatusCategory.TRANSIENT
        if transient and not self._last_try:
            self._part.count_attempt(index)
            self.again = True
            return
        try:
            self._part.record(index, outcome)
        except PartCancelledError:
            self._cancelled = True

    def _put_aside(self, queue: _Queue, error: PeerUnavailableError) -> None:
        """The file in front met the loss: it waits for the next try, so that it does not hold up the others."""
        for each in self._unanswered:
            self._part.count_attempt(each)
        self._unanswered.clear()
        index, instance = _first(queue)
        if self._last_try or self._part.count_loss(index) >= _LOSSES_OF_A_FILE:
            self._part.record(index, InstanceOutcome.unanswered(instance.path, error))
        else:
            self.again = True

    def _fail(self, queue: _Queue, error: AssociationError) -> None:
        while queue:
            index, instance = _first(queue)
            self._part.record(index, InstanceOutcome.unanswered(instance.path, error))


def _first(queue: _Queue) -> tuple[int, StoredInstance]:
    """Take the first one off the queue."""
    index = next(iter(queue))
    return index, queue.pop(index)
