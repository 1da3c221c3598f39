"""A remote that is expected to call a receiver: to deliver by C-MOVE, or to report about storage commitment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from pacs_tasks.ae import RemoteAE
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet.receivers import EXPECTED_FOR, ExpectedCallers
from pacs_tasks.tasks.engine.base import ledger
from pacs_tasks.tasks.engine.claim import Claim, heartbeat

logger = logging.getLogger(__name__)


class _Call:
    """Expects a remote to call, as long as the owner of the claim shows signs of life."""

    def __init__(self, claim: Claim, remote: RemoteAE) -> None:
        self._claim, self._remote = claim, remote
        self._expected = ExpectedCallers(ledger().client)

    @property
    def seen(self) -> float:
        return self._claim.seen

    def prolong(self, seconds: float = EXPECTED_FOR) -> None:
        self._expected.expect(self._remote, self._claim.owner, seconds)

    def forget(self) -> None:
        self._expected.withdraw(self._remote, self._claim.owner)


@contextmanager
def expecting_call(claim: Claim, remote: RemoteAE, later: Callable[[], float] = lambda: 0.0) -> Iterator[None]:
    """During the block, have every receiver accept calls of a remote, whether or not its settings name it.

    Parameters
    ----------
    later
        Called at the end: for how many seconds it may still call.

    Raises
    ------
    BrokerUnavailableError
        If Redis is away. Nothing may be requested then: the receiver might reject the remote.
    """
    call = _Call(claim, remote)
    call.prolong()
    heartbeat().keep(call)
    try:
        yield
    finally:
        heartbeat().forget(call)
        try:
            if seconds := later():
                call.prolong(seconds)
            else:
                call.forget()
        except (BrokerUnavailableError, redis.RedisError) as error:
            logger.debug("An expected call could not be removed (%s); it expires.", type(error).__name__)
