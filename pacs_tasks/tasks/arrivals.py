"""What arrives for a part of a retrieve: matched with the manifest, synced to disk, recorded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pacs_tasks.dimse import part10, storage
from pacs_tasks.dimse.receiving import OUT_OF_RESOURCES, Arrival, Placed, Refusal
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.layout import Layout
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.tasks.transfer import Part

logger = logging.getLogger(__name__)

#: Received instances are synced to disk and recorded in groups of so many.
_GROUP = 20


class Arrivals:
    """Takes each instance that comes, whichever way it came; those of one part.

    Parameters
    ----------
    directory
        The output directory.
    layout
        How files are called there.
    """

    def __init__(self, part: Part, directory: Path, layout: Layout) -> None:
        self._part = part
        self._directory, self._layout = directory, layout
        #: SOP Instance UID to the index in the manifest.
        self.index_of: dict[str, int] = {entry[0]: index for index, entry in part.left.items()}
        self._whole: list[InstanceOutcome] = []

    def place(self, arrival: Arrival) -> Placed | Refusal:
        """Put a file that has come in its place.

        Raises
        ------
        OSError
            If it cannot be written there.
        """
        uids = arrival.study_uid, arrival.series_uid, arrival.sop_instance_uid
        try:
            return Placed(self._layout.place(self._directory, arrival.path, *uids))
        except InvalidRequestError as error:
            # At most 64 characters: the peer is told.
            return Refusal(OUT_OF_RESOURCES, error.message.partition(",")[0][:64])

    def bring(self, path: Path, study_uid: str, series_uid: str, sop_instance_uid: str) -> None:
        """Take an instance that lies whole somewhere else, as in the storage of a receiver.

        Raises
        ------
        OSError
            If it cannot be written to the output directory.
        """
        placed = self.place(Arrival(study_uid, series_uid, sop_instance_uid, path, moved=True))
        if isinstance(placed, Refusal):
            self.take(_outcome(sop_instance_uid, InstanceCategory.FAILED, reason=placed.comment))
            return
        here = part10.read_instance(str(placed.path))
        self.take(
            _outcome(
                sop_instance_uid,
                InstanceCategory.SUCCESS,
                sop_class_uid=here.sop_class_uid,
                transfer_syntax_uid=here.transfer_syntax_uid,
                path=here.path,
                size=here.size,
            )
        )

    def take(self, outcome: InstanceOutcome) -> None:
        """Take an instance that has come: it lies whole in its place, or could not be kept."""
        index = self.index_of.get(outcome.sop_instance_uid, -1)
        if index not in self._part.left:
            logger.warning("job %s: the peer sent an instance that was not asked for", self._part.job_id)
        elif outcome.category is InstanceCategory.SUCCESS:
            self._whole.append(outcome)
        else:
            why = f"it came but could not be kept ({outcome.reason}); check the output directory, then retry the job"
            self._part.record(index, outcome.model_copy(update={"reason": why}))
        if len(self._whole) >= _GROUP:
            self.record()

    def record(self) -> None:
        """Received means: whole, in its place, and synced to disk."""
        arrived, self._whole = self._whole, []
        storage.sync([Path(outcome.path) for outcome in arrived], self._layout.depth)
        for outcome in arrived:
            index = self.index_of[outcome.sop_instance_uid]
            if index in self._part.left:
                self._part.record(index, outcome)


def _outcome(sop_instance_uid: str, category: InstanceCategory, **known: Any) -> InstanceOutcome:
    return InstanceOutcome(subject=sop_instance_uid, category=category, sop_instance_uid=sop_instance_uid, **known)
