"""What arrives for a part of a retrieve: matched with the manifest, synced to disk, recorded."""

from __future__ import annotations

import logging
from pathlib import Path

from pacs_tasks.dimse import storage
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.tasks.transfer import Part

logger = logging.getLogger(__name__)

#: Received instances are synced to disk and recorded in groups of so many.
_GROUP = 20


class Arrivals:
    """Takes each instance that comes, whichever way it came; those of one part."""

    def __init__(self, part: Part) -> None:
        self._part = part
        #: SOP Instance UID to the index in the manifest.
        self.index_of: dict[str, int] = {entry[0]: index for index, entry in part.left.items()}
        self._whole: list[InstanceOutcome] = []

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
        storage.sync([Path(outcome.path) for outcome in arrived])
        for outcome in arrived:
            index = self.index_of[outcome.sop_instance_uid]
            if index in self._part.left:
                self._part.record(index, outcome)
