"""A remote that is expected to call a receiver: to deliver by C-MOVE, or to report about storage commitment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pacs_tasks.ae import RemoteAE
from pacs_tasks.fleet.receivers import EXPECTED_FOR, ExpectedCallers
from pacs_tasks.tasks.engine.base import ledger, quickly
from pacs_tasks.tasks.engine.claim import Claim, heartbeat


class _Call:
    """Expects a remote to call, as long as the owner of the claim shows signs of life."""

    def __init__(self, claim: Claim, remote: RemoteAE) -> None:
        self._claim, self._remote = claim, remote
        self._expected = ExpectedCallers(ledger().client)

    @property
    def seen(self) -> float:
        return self._claim.seen

    def prolong(self) -> None:
        self._expected.expect(self._remote, self._claim.owner, EXPECTED_FOR)

    def end(self, seconds: float) -> None:
        """Expect it for so many seconds more, or not at all."""
        if seconds:
            self._expected.expect(self._remote, self._claim.owner, seconds)
        else:
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
        quickly(lambda: call.end(later()), "an expected call could not be removed, and expires")
