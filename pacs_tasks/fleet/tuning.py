"""The number of associations with each remote that may be open now, as the fleet has measured it.

Workers report what they move. One script closes a window of measurements, compares it with the one before, and raises
or lowers the number: see ``lua/tune.lua``. The record of a remote is forgotten after a month without use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, cast

from pacs_tasks.fleet.leases import lease_arguments, lease_keys, tuning_key
from pacs_tasks.ledger.keys import Scripts

if TYPE_CHECKING:
    import redis


class Trouble(StrEnum):
    """A sign that a remote has more associations than it bears."""

    NONE = ""
    #: It rejected an association for now.
    REFUSED = "refused"
    #: It aborted an association.
    ABORTED = "aborted"
    #: It answered that it is out of resources, or took long to accept an association.
    BUSY = "busy"


class Moved(NamedTuple):
    """What a process has moved over its associations with a remote since its last report."""

    #: Seconds since that report, and seconds of associations in use in these: their sum.
    elapsed: float = 0.0
    used: float = 0.0
    instances: int = 0
    bytes: int = 0
    #: Seconds from one instance to the next on the same association, and from request to response: the sums.
    cycles: float = 0.0
    responses: float = 0.0
    #: Seconds for which the remote let associations wait that it had not accepted: the sum.
    unaccepted: float = 0.0


class Tuned(NamedTuple):
    """How many associations with a remote may be open now, and who shall give one back.

    Attributes
    ----------
    claims
        By :func:`~pacs_tasks.fleet.leases.group_of` a lease, the seconds of holding after each of which one of its
        holders shall give it back.
    """

    limit: int
    claims: Mapping[str, Sequence[float]]


class Tuning:
    """The tuning of all remotes in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = Scripts(client, "fleet")

    def report(self, remote: str, limit: int, process: str, moved: Moved, trouble: Trouble = Trouble.NONE) -> Tuned:
        """Report what a process has moved, or trouble.

        Parameters
        ----------
        limit
            How many leases of this remote there may be in any case.
        process
            A name of the process, unique in the fleet.
        """
        arguments = [*lease_arguments(remote, limit), "", process, *moved, trouble.value]
        keys = [*lease_keys(remote), f"{tuning_key(remote)}:window"]
        number, *claims = self._scripts.run("tune", keys, arguments)
        pairs = zip(claims[::2], claims[1::2], strict=True)
        return Tuned(int(number), {group: json.loads(text) for group, text in pairs})

    def begin_with(self, remote: str, number: int, response: float) -> None:
        """Have a remote of which nothing is known begin with these: associations, and seconds to a response."""
        with self._redis.pipeline() as pipe:
            pipe.hsetnx(tuning_key(remote), "limit", str(number))
            pipe.hsetnx(tuning_key(remote), "response", f"{response:.4f}")
            pipe.execute()

    def response_time(self, remote: str) -> float | None:
        """Give the seconds that the remote usually takes to respond to a request; None if that is not known."""
        text = cast("str | None", self._redis.hget(tuning_key(remote), "response"))
        return None if text is None else float(text)
