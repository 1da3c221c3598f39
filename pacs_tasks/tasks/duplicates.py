"""Instances that a remote rejects with 0111, duplicate SOP Instance: already there, if its lists do not deny it."""

from __future__ import annotations

from collections.abc import Mapping

from pacs_tasks.dimse.status import DUPLICATE_SOP_INSTANCE
from pacs_tasks.dimse.upper_layer.association import StopCheck
from pacs_tasks.errors import AssociationError, PeerBusyError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import Request
from pacs_tasks.tasks.verify.inventory import Inquiry, Series


def is_duplicate(outcome: InstanceOutcome) -> bool:
    """Whether the remote rejected an instance because it already holds one with this UID."""
    return outcome.status is not None and outcome.status.code == DUPLICATE_SOP_INSTANCE


def resolve(
    outcomes: Mapping[int, InstanceOutcome], request: Request, job_id: str, stop: StopCheck
) -> dict[int, InstanceOutcome]:
    """Query which of these duplicates the remote lists (C-FIND), and return their outcomes.

    Each is present, unless the remote answers that it does not hold it. A remote that cannot be queried is believed.

    Raises
    ------
    PeerBusyError
        If there is no association now.
    JobCancelledError
        If ``stop`` returned true.
    """
    found: dict[tuple[str, str], Series] = {}
    for each in outcomes.values():
        pair = each.study_uid, each.series_uid
        found.setdefault(pair, Series(*pair)).wanted.add(each.sop_instance_uid)
    try:
        if found:
            Inquiry(request, request.remote, job_id, stop).find(found.values())
    except PeerBusyError:
        raise
    except AssociationError as error:
        for series in found.values():
            series.give_up(error.message)
    return {index: _resolved(each, found[each.study_uid, each.series_uid], request) for index, each in outcomes.items()}


def _resolved(outcome: InstanceOutcome, series: Series, request: Request) -> InstanceOutcome:
    uid = outcome.sop_instance_uid
    if uid in series.missing:
        reason = (
            f"{request.remote} rejected this instance as a duplicate (0111) but does not list it. Ask its "
            "administrator what became of it."
        )
        return outcome.model_copy(update={"reason": reason})
    reason = f"{request.remote} already holds an instance with this UID (0111)."
    if uid in series.unknown:
        reason = f"{reason} This could not be confirmed: {series.unknown[uid]}"
    return outcome.model_copy(update={"category": InstanceCategory.PRESENT, "reason": reason})
