"""Leases of associations that somebody else holds or waits for, for as long as a test needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pacs_tasks.fleet.leases import AssociationLeases, Associations

#: A lease runs out after 15 s, a place in the line after 3 s: both are kept up well before.
_BEAT = 0.5


@contextmanager
def held(budget: AssociationLeases, remote: str, lease: str = "ours", limit: int = 1) -> Iterator[Callable[[], None]]:
    """Hold a lease as a worker does: it does not run out, however long a machine takes. Gives what gives it back."""
    assert budget.request(remote, lease, limit, wait=False).granted
    with _kept_up(lambda: budget.renew(remote, [lease], limit), lambda: budget.release(remote, lease, limit)) as end:
        yield end


@contextmanager
def in_line(
    budget: AssociationLeases, remote: str, lease: str = "next", limit: int = 1
) -> Iterator[Callable[[], None]]:
    """Stand in line for a lease that is not to be had. Gives what leaves the line."""

    def ask() -> None:
        assert not budget.request(remote, lease, limit, wait=True).granted

    ask()
    with _kept_up(ask, lambda: budget.release(remote, lease, limit)) as end:
        yield end


def in_use(budget: AssociationLeases, remote: str) -> Associations | None:
    """What is in use of one remote: others may use the same Redis."""
    return next((each for each in budget.in_use() if each.remote == remote), None)


@contextmanager
def _kept_up(again: Callable[[], None], last: Callable[[], None]) -> Iterator[Callable[[], None]]:
    ended = threading.Event()

    def keep_up() -> None:
        while not ended.wait(_BEAT):
            again()

    def end() -> None:
        if not ended.is_set():
            ended.set()
            thread.join(10)
            last()

    thread = threading.Thread(target=keep_up, daemon=True)
    thread.start()
    try:
        yield end
    finally:
        end()
