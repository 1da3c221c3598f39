"""Following a job of a command."""

from __future__ import annotations

from typing import cast

import pytest

from pacs_tasks import EchoRequest, Job, JobCancelledError, RemoteAE
from pacs_tasks.cli import running
from pacs_tasks.cli.invocation import Invocation, Program


class _Begun:
    """A job on the queue that ends when it is cancelled."""

    id = "1f3870be274f6c49b3e31a0c6728957f"

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def wait(self, timeout: float) -> None:
        assert self.cancelled
        assert timeout == running.CANCEL_PATIENCE

    def outcome(self) -> None:
        raise JobCancelledError("cancelled")


def test_ctrl_c_cancels_a_job_of_which_nothing_is_shown_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may have begun before there is a progress bar."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "view", interrupted)
    job = _Begun()
    with pytest.raises(JobCancelledError):
        running.follow(Invocation(Program(), ["echo"]), cast("Job", job), EchoRequest(remote=RemoteAE(ae_title="PACS")))
    assert job.cancelled
