"""A session goes on over another association where one is lost, as long as its user lets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.errors import ContextRejectedError, InvalidRequestError, PeerBusyError, PeerUnavailableError
from pacs_tasks.tasks.engine.associations import Loss, Session


class Remote:
    """Opens associations, which are numbers here, and records how each ended."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.reusable = self.fresh = True
        self.opened = 0
        self.ended: list[str] = []
        self.losses: list[tuple[bool, bool]] = []
        self.session = Session(self.associate)

    @contextmanager
    def associate(self) -> Iterator[Association]:
        if self.refusal:
            raise self.refusal
        self.opened += 1
        try:
            yield cast(Association, self.Opened(self))
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("released")

    class Opened:
        """One association."""

        def __init__(self, remote: Remote) -> None:
            self.number, self._remote, self.fresh = remote.opened, remote, remote.fresh

        def reusable(self) -> bool:
            return self._remote.reusable

    def attempt(self, *errors: Exception) -> int | None:
        """Run a step that raises the error, if there is one; else return the number of its association."""

        def step(assoc: Association) -> int:
            if errors:
                raise errors[0]
            return cast(Remote.Opened, assoc).number

        def lost(loss: Loss) -> None:
            self.losses.append((loss.opened, loss.first))

        return self.session.attempt(step, lost)


@pytest.fixture
def remote() -> Remote:
    return Remote()


def test_steps_share_an_association_until_it_is_lost(remote: Remote) -> None:
    """The next step opens another one; the loss shows whether a step had succeeded over the lost one."""
    with remote.session:
        assert [remote.attempt(), remote.attempt()] == [1, 1]
        assert remote.attempt(PeerUnavailableError("aborted")) is None
        assert remote.attempt(PeerUnavailableError("aborted")) is None
        assert remote.attempt() == 3
    assert remote.losses == [(True, False), (True, True)]
    assert remote.ended == ["PeerUnavailableError", "PeerUnavailableError", "released"]


def test_an_association_that_another_task_has_used_may_have_ended_since(remote: Remote) -> None:
    """Its loss says nothing about the step."""
    remote.fresh = False
    assert remote.attempt(PeerUnavailableError("aborted")) is None
    assert remote.losses == [(True, False)]


def test_an_association_that_cannot_be_opened_is_a_loss_too(remote: Remote) -> None:
    """A busy remote is an exception: the work comes again later."""
    remote.refusal = PeerUnavailableError("no route")
    assert remote.attempt() is None
    assert remote.losses == [(False, True)]
    remote.refusal = PeerBusyError("local limit exceeded")
    with pytest.raises(PeerBusyError):
        remote.attempt()


def test_an_association_that_the_remote_has_ended_is_replaced_without_a_loss(remote: Remote) -> None:
    """Some remotes end each association after one request."""
    remote.reusable = False
    assert [remote.attempt(), remote.attempt()] == [1, 2]
    assert (remote.losses, remote.ended) == ([], ["released", "released"])


def test_an_invalid_request_costs_no_association_and_any_other_error_does(remote: Remote) -> None:
    """The remote has not received anything of it."""
    assert remote.attempt() == 1
    with pytest.raises(InvalidRequestError):
        remote.attempt(InvalidRequestError("no such key"))
    assert remote.attempt() == 1
    with pytest.raises(ContextRejectedError):
        remote.attempt(ContextRejectedError("no such context"))
    assert (remote.losses, remote.ended) == ([], ["ContextRejectedError"])
