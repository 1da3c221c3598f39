"""How long remotes took from a request to its final response, for whoever measures it in this process."""

from __future__ import annotations

from collections.abc import Callable

from pacs_tasks.ae import RemoteAE

#: Receives the remote, the service (``C-STORE``) and the seconds.
OnAnswered = Callable[[RemoteAE, str, float], object]

_observers: list[OnAnswered] = []


def observe(observer: OnAnswered) -> None:
    """Have ``observer`` called after each final response, on the thread that received it."""
    _observers.append(observer)


def answered(remote: RemoteAE, service: str, seconds: float) -> None:
    """Tell the observers of a final response."""
    for observer in _observers:
        observer(remote, service, seconds)
