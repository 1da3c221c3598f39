"""The view of each operation's outcome, and the views of outcomes that are one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import Advice
from pacs_tasks.cli.output.query import BatchView, QueryView
from pacs_tasks.cli.output.terminal import STYLES, Fact, duration
from pacs_tasks.cli.output.transfer import CommitmentView, PreflightView, RetrieveView, SendView, VerificationView
from pacs_tasks.cli.output.view import View, positive
from pacs_tasks.outcome import EchoOutcome, MoveOutcome, Outcome
from pacs_tasks.request import (
    AnyRequest,
    CommitRequest,
    EchoRequest,
    FindBatchRequest,
    FindRequest,
    GetRequest,
    MoveRequest,
    PreflightRequest,
    RetrieveRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    VerifyRequest,
)

if TYPE_CHECKING:
    from pacs_tasks.cli.output.terminal import Terminal
    from pacs_tasks.client import Job


class EchoView(View[EchoRequest, EchoOutcome]):
    """The answer to C-ECHO."""

    @property
    def advice(self) -> str:
        return "" if self.outcome.category in {"success", "warning"} else Advice.CONNECTION

    def summarise(self, terminal: Terminal) -> None:
        outcome = self.outcome
        answer = f"{self.request.remote} answered in {outcome.seconds * 1000:.0f} ms: {outcome.status}"
        terminal.line(translated(answer), STYLES[outcome.category])


class SuboperationsView(View[MoveRequest | GetRequest, MoveOutcome]):
    """The final answer to C-MOVE or C-GET."""

    @property
    def advice(self) -> str:
        return "" if self.outcome.category in {"success", "warning"} else Advice.RETRIEVING

    def details(self) -> Iterable[Fact]:
        outcome, counts = self.outcome, self.outcome.suboperations
        return (
            Fact("Status", str(outcome.status)),
            Fact("Completed", str(counts.completed), "green"),
            Fact("  with a warning", positive(counts.warning), "yellow"),
            Fact("Failed", positive(counts.failed), "red"),
            Fact("Remaining", positive(counts.remaining), "yellow"),
            Fact("Time", duration(outcome.seconds)),
        )


_VIEWS: Mapping[str, Callable[..., View[Any, Any]]] = {
    EchoRequest.task: EchoView,
    StoreRequest.task: SendView,
    StoreDirectoryRequest.task: SendView,
    StorePathsRequest.task: SendView,
    PreflightRequest.task: PreflightView,
    FindRequest.task: QueryView,
    FindBatchRequest.task: BatchView,
    MoveRequest.task: SuboperationsView,
    GetRequest.task: SuboperationsView,
    RetrieveRequest.task: RetrieveView,
    VerifyRequest.task: VerificationView,
    CommitRequest.task: CommitmentView,
}


def view_of(task: str, outcome: Outcome, request: AnyRequest | None = None, job: Job | None = None) -> View[Any, Any]:
    """The view of an outcome of this public task.

    ``request`` and ``job`` can be left out where only the exit code or the JSON document is needed.
    """
    return _VIEWS[task](outcome, request, job)
