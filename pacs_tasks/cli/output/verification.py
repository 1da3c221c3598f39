"""The outcomes of a verification: by query, and by storage commitment."""

from __future__ import annotations

from collections.abc import Iterable

from pacs_tasks.cli.output import advice
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.output.text import Fact, counted, duration
from pacs_tasks.cli.output.view import View, positive
from pacs_tasks.outcome import Category, CommitOutcome, InstanceOutcome, VerifyOutcome
from pacs_tasks.request import CommitRequest, VerifyRequest


class VerificationView(View[VerifyRequest, VerifyOutcome]):
    """Which of the sent instances the remote lists."""

    @property
    def advice(self) -> str:
        if self.outcome.category is Category.SUCCESS:
            return ""
        if self.outcome.missing:
            return advice.MISSING
        return (
            f"Follow the reasons above, or request storage commitment: `pacs-tasks verify {self.request.job_id} "
            "--commit`."
        )

    def details(self) -> Iterable[Fact]:
        outcome = self.outcome
        return (
            Fact("Sent", str(outcome.total)),
            Fact("Held", str(outcome.held), "green"),
            Fact("Missing", positive(outcome.missing), "red"),
            Fact("Unknown", positive(outcome.unknown), "yellow"),
            Fact("Time", f"{duration(outcome.seconds)}, {counted(outcome.queries, 'query', 'queries')}"),
        )

    def problems(self) -> Iterable[InstanceOutcome]:
        return self.outcome.problems


class CommitmentView(View[CommitRequest, CommitOutcome]):
    """Which of the sent instances the remote commits to store."""

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.NOT_FINISHED if self.outcome.unfinished else super().exit_code

    @property
    def advice(self) -> str:
        outcome = self.outcome
        if outcome.category is Category.SUCCESS:
            return ""
        if outcome.failed:
            return advice.NOT_COMMITTED
        if not outcome.receiver:
            return advice.NO_RECEIVER
        return (
            f"Make sure that the PACS knows the receiver, {outcome.receiver}. "
            f"`pacs-tasks report {self.request.job_id}` shows what the PACS reports later."
        )

    def details(self) -> Iterable[Fact]:
        outcome = self.outcome
        return (
            Fact("Sent", str(outcome.total)),
            Fact("Committed", str(outcome.committed), "green"),
            Fact("Failed", positive(outcome.failed), "red"),
            Fact("Pending", positive(outcome.pending), "yellow"),
            Fact("Receiver", outcome.receiver or "none is running", "" if outcome.receiver else "yellow"),
            Fact("Time", duration(outcome.seconds)),
        )

    def problems(self) -> Iterable[InstanceOutcome]:
        return self.outcome.problems
