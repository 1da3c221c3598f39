"""The instances that arrive for a part of a retrieve: matched with the manifest, synced to disk, recorded."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.files import part10, storage
from pacs_tasks.dimse.files.final_name import OTHER_CONTENT, Placed
from pacs_tasks.dimse.retrieve.c_get import MOST_UNREQUESTED
from pacs_tasks.dimse.retrieve.delivery import Arrived
from pacs_tasks.dimse.scp.c_store import OUT_OF_RESOURCES, Arrival, Refusal
from pacs_tasks.errors import AssociationError, InvalidRequestError, JobCancelledError
from pacs_tasks.layout import Layout
from pacs_tasks.ledger.manifest import CountedLine, RetrieveLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.tasks.engine.part import Part

logger = logging.getLogger(__name__)

#: Received instances that are synced to disk and recorded together.
_GROUP = 20


class Arrivals:
    """The instances of one part that arrive, by whichever method.

    If the remote has listed its instances, each belongs to the line of the manifest with its UID. If the remote has
    only counted them, each new one takes the next free line.

    Parameters
    ----------
    directory
        The output directory.
    layout
        How files are named there.
    remote
        Who was asked for them.
    known
        SOP Instance UIDs that have already taken a line of a part that is only counted.

    Attributes
    ----------
    place
        Moves a received file to its place in the output directory, as :func:`placed`.
    number
        How many wanted instances have come.
    bytes
        The bytes of all that have come.
    extra
        How many have come beyond those that the remote had listed or counted. They are kept.
    again
        How many have come again with other content, after their outcome was recorded. Both files are kept.
    """

    def __init__(
        self,
        part: Part[RetrieveLine],
        directory: Path,
        layout: Layout,
        remote: RemoteAE,
        known: Collection[str] = (),
    ) -> None:
        self._part, self._layout, self._remote = part, layout, remote
        self.place = partial(placed, layout, directory)
        self.counted = any(isinstance(line, CountedLine) for line in part.left.values())
        #: SOP Instance UID to the index in the manifest.
        self.index_of: dict[str, int] = {}
        if not self.counted:
            self.index_of = {line.sop_instance_uid: index for index, line in part.left.items()}
        self._free = deque(sorted(part.left) if self.counted else ())
        self._seen = set(known)
        self._unlisted: set[str] = set()
        #: Where collected instances are now; that may be where they arrived.
        self.places: set[str] = set()
        #: Complete instances that wait to be recorded, by their index.
        self._whole: dict[int, InstanceOutcome] = {}
        self.number = self.extra = self.again = self.bytes = 0
        #: How many have come with other content than before.
        self._differing = 0
        #: Whether the series or study was requested as a whole.
        self.whole = False
        #: Is called before outcomes are recorded; the last of these may end the job.
        self.before_recording: Callable[[], None] = lambda: None

    @property
    def complete(self) -> bool:
        """Whether everything that was promised is here."""
        return self._part.left.keys() <= self._whole.keys()

    def so_far(self) -> Arrived:
        """How many instances have come, and whether these are all.

        Raises
        ------
        AssociationError
            If more and more come that were not promised, or have other content each time.
        """
        more = self.extra if self.counted else len(self._unlisted)
        if more + self._differing > MOST_UNREQUESTED:
            raise AssociationError(
                f"{self._remote} sent more than {MOST_UNREQUESTED} instances beyond those that it had listed, so the "
                "association was aborted. Ask its administrator."
            )
        return Arrived(self.number + more, self.complete)

    def wants(self, sop_instance_uid: str) -> bool:
        """Whether an instance is promised and not here yet; if they are only counted, whether it is new."""
        if self.counted:
            return sop_instance_uid not in self._seen
        index = self.index_of.get(sop_instance_uid, -1)
        return index in self._part.left and index not in self._whole

    def has(self, sop_instance_uid: str) -> bool:
        """Whether an instance of this part is here already."""
        known = self._seen if self.counted else self.index_of
        return sop_instance_uid in self._unlisted or (sop_instance_uid in known and not self.wants(sop_instance_uid))

    def missing(self) -> list[str]:
        """SOP Instance UIDs that the remote has listed and that are not here yet."""
        return [uid for uid in self.index_of if self.wants(uid)]

    def collect(self, path: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> None:
        """Add an instance that is complete elsewhere, as in the storage of a receiver.

        Raises
        ------
        OSError
            If it cannot be written to the output directory.
        """
        now = self.place(Arrival(study_uid, series_uid, sop_instance_uid, path))
        if isinstance(now, Refusal):
            self.add(_outcome(sop_instance_uid, InstanceCategory.FAILED, reason=now.comment))
            return
        here = part10.read_instance(str(now.path))
        self.places.add(here.path)
        remarks = [now.remark] if now.remark else []
        if storage.breaks_rules(study_uid, series_uid, sop_instance_uid):
            remarks.append("a UID breaks PS3.5 section 9.1")
        self.add(
            _outcome(
                sop_instance_uid,
                InstanceCategory.WARNING if remarks else InstanceCategory.SUCCESS,
                reason=f"It was kept although {' and '.join(remarks)}." if remarks else "",
                sop_class_uid=here.sop_class_uid,
                transfer_syntax_uid=here.transfer_syntax_uid,
                path=here.path,
                size=here.size,
            )
        )

    def add(self, outcome: InstanceOutcome) -> None:
        """Add an instance that has come and is complete in its place, or could not be kept."""
        self.bytes += outcome.size
        index = self._line_of(outcome.sop_instance_uid)
        if index is None:
            self._note_other_content(outcome)
            return
        self.number += 1
        if outcome.category is not InstanceCategory.FAILED:
            self._whole[index] = outcome
        else:
            reason = (
                f"The instance came but could not be kept ({outcome.reason}). "
                "Check the output directory, then retry the job."
            )
            self._record(index, outcome.model_copy(update={"reason": reason}))
        # The last outcome may end the job, so it waits until it is known what else comes.
        if len(self._whole) >= _GROUP and not self.complete:
            self.record()

    def _note_other_content(self, outcome: InstanceOutcome) -> None:
        """Note that an instance of no line of its own has taken the name of a file with other content."""
        if OTHER_CONTENT not in outcome.reason:
            return
        self._differing += 1
        index = self.index_of.get(outcome.sop_instance_uid, -1)
        if index in self._whole:
            self._whole[index] = outcome
        else:
            self.again += 1

    def _line_of(self, sop_instance_uid: str) -> int | None:
        """The line of the manifest that an instance takes."""
        if self.has(sop_instance_uid):
            return None
        if self.counted:
            self._seen.add(sop_instance_uid)
            if self._free:
                return self._free.popleft()
            if not self.extra:
                logger.warning("Job %s: the remote sent more instances than it had counted.", self._part.job_id)
            self.extra += 1
            return None
        if not self.wants(sop_instance_uid):
            if not self._unlisted:
                logger.warning("Job %s: the remote sent instances that were not requested.", self._part.job_id)
            self._unlisted.add(sop_instance_uid)
            # Some remotes send the whole series for a list of instances. That says nothing about the promise.
            self.extra += self.whole
            return None
        return self.index_of[sop_instance_uid]

    def record(self) -> None:
        """Record what is complete as received, once it is synced to disk."""
        arrived, self._whole = self._whole, {}
        if arrived or self.extra or self.again:
            self.before_recording()
        storage.sync([Path(outcome.path) for outcome in arrived.values()], self._layout.depth)
        for index, outcome in arrived.items():
            self._record(index, outcome)

    def _record(self, index: int, outcome: InstanceOutcome) -> None:
        """Record what has come, even if the job was cancelled: the loop that waits for the remote sees to that."""
        with suppress(JobCancelledError):
            self._part.record(index, outcome)


def owner_of(part: Part[RetrieveLine]) -> str:
    """The name of a part in those of its unfinished files: one worker at a time writes for a part."""
    return f"{part.job_id}-{part.indices.start}"


def placed(layout: Layout, directory: Path, arrival: Arrival) -> Placed | Refusal:
    """Move a received file to its place below a directory.

    Raises
    ------
    OSError
        If it cannot be written there.
    """
    uids = arrival.study_uid, arrival.series_uid, arrival.sop_instance_uid
    try:
        return layout.place(directory, arrival.path, *uids)
    except InvalidRequestError as error:
        # An Error Comment has at most 64 characters (PS3.7 annex C).
        return Refusal(OUT_OF_RESOURCES, error.message.partition(",")[0][:64])


def _outcome(sop_instance_uid: str, category: InstanceCategory, **known: Any) -> InstanceOutcome:
    return InstanceOutcome(subject=sop_instance_uid, category=category, sop_instance_uid=sop_instance_uid, **known)
