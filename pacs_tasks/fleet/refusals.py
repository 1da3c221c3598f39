"""The retrieve methods that remotes have refused.

A refusal is forgotten after an hour, so that a change at the PACS is noticed, and at once when the method works.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pacs_tasks.ledger.keys import Marks

if TYPE_CHECKING:
    import redis

_REFUSED = "pacs_tasks:ways:"
#: Seconds to remember a refusal.
REFUSED_FOR = 3600


class Method(StrEnum):
    """The DIMSE service that brings the instances."""

    MOVE = "C-MOVE"
    GET = "C-GET"


def move_to(receiver_ae_title: str) -> str:
    """Name the refusal of a remote that does not know a receiver."""
    return f"{Method.MOVE} to {receiver_ae_title}"


def get_of(sop_class_uid: str) -> str:
    """Name the refusal of a remote that does not send a SOP class to us."""
    return f"{Method.GET} of {sop_class_uid}"


def refusals_of(client: redis.Redis, remote: str, calling_aet: str) -> Marks:
    """Give what a remote has refused: a :class:`Method`, :func:`move_to` a receiver, or :func:`get_of` a SOP class.

    The value of each is the reason. A remote may refuse one calling AE title and accept another.
    """
    return Marks(client, f"{_REFUSED}{remote} for {calling_aet}")
