"""The outcomes of sending and retrieving, of a dry run, and of a verification by query or by storage commitment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pacs_tasks.cli.language import translated
from pacs_tasks.cli.output.exit_codes import Advice, ExitCode
from pacs_tasks.cli.output.terminal import STYLES, Cell, Fact, Table, counted, duration, size
from pacs_tasks.cli.output.view import LISTED, View, count_facts, done_of, of_all, positive
from pacs_tasks.errors import InvalidRequestError, from_record
from pacs_tasks.outcome import (
    Category,
    CommitOutcome,
    InstanceCategory,
    InstanceOutcome,
    PreflightOutcome,
    Proof,
    ProposedPair,
    StudyOutcome,
    TransferOutcome,
    VerifyOutcome,
)
from pacs_tasks.privacy import plain
from pacs_tasks.request import (
    CommitRequest,
    PreflightRequest,
    R,
    RetrieveRequest,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    VerifyRequest,
)

#: Rows of a batch file that the line of one study names.
_ROWS = 5
#: The uncompressed transfer syntaxes (PS3.6 table A-1), by the names that fit into a column.
_SYNTAXES = {
    "1.2.840.10008.1.2": "Implicit VR",
    "1.2.840.10008.1.2.1": "Explicit VR",
    "1.2.840.10008.1.2.1.99": "Deflated",
    "1.2.840.10008.1.2.2": "Big Endian",
}
_ORDER = (Category.FAILED, Category.PARTIAL, Category.CANCELLED, Category.WARNING, Category.SUCCESS)
_COMPLETE = frozenset({Category.SUCCESS, Category.WARNING})


class TransferView(View[R, TransferOutcome]):
    """What became of each item of a job that has many."""

    @property
    def exit_code(self) -> ExitCode:
        outcome = self.outcome
        if outcome.category is not Category.FAILED:
            return super().exit_code
        if outcome.unreachable:
            return ExitCode.UNREACHABLE
        return ExitCode.USAGE if outcome.nothing_found or self._input_is_unreadable() else ExitCode.FAILED

    def _input_is_unreadable(self) -> bool:
        """Whether nothing was done because none of the files could be read."""
        failed = [each for each in self.outcome.problems if each.category is not InstanceCategory.SKIPPED]
        return bool(failed) and all(map(_is_unreadable, failed))

    @property
    def advice(self) -> str:
        if self.outcome:
            return ""
        if self.outcome.cancelled:
            return f"Run `pacs-tasks retry {self.job.id}`, which continues with the rest only."
        if self.outcome.nothing_found:
            return self.check()
        return f"{self.check()} Then run `pacs-tasks retry {self.job.id}`, which continues with the rest only."

    def check(self) -> str:
        """What to check before the job is retried."""
        if self.outcome.unreachable:
            return Advice.CONNECTION
        problems = self.outcome.problems
        if problems and all(each.error in {"ConfigurationError", "DamagedFileError"} for each in problems):
            return Advice.REASONS
        return self.check_remote()

    def check_remote(self) -> str:
        """What to check where the remote answered and refused."""
        return Advice.REASONS

    @property
    def done(self) -> str:
        """What was done with an item that succeeded."""
        return done_of(self.request.task)

    def details(self) -> Iterable[Fact]:
        outcome, counters, earlier = self.outcome, self.outcome.counters, self.outcome.earlier
        now = counters.since(earlier)
        speed = f", {size(now.bytes / outcome.seconds)}/s" if outcome.seconds and now.bytes else ""
        sizes = size(now.bytes) if now.bytes == counters.bytes else f"{size(now.bytes)} ({size(counters.bytes)} in all)"
        return (
            *self.destination(),
            Fact("Total", of_all(now.total, counters.total) or "0"),
            *count_facts(self.done, counters, earlier),
            Fact("  converted", self._converted(), "yellow"),
            Fact("Not begun", positive(counters.total - counters.recorded), "yellow"),
            Fact("Size", f"{sizes} {self.done}" if counters.bytes else ""),
            *(_study_facts(outcome.studies[0]) if len(outcome.studies) == 1 else ()),
            Fact("Time", f"{duration(outcome.seconds)}{speed}"),
        )

    def _converted(self) -> str:
        number = self.outcome.counters.converted
        return f"{number} (in another transfer syntax than the file's: see `report {self.job.id}`)" if number else ""

    def destination(self) -> Iterable[Fact]:
        """Where the instances go, if that is another remote."""
        return ()

    def tables(self) -> Iterable[Table]:
        studies = self.outcome.studies
        return (study_table(studies),) if len(studies) > 1 else ()

    def problems(self) -> Iterable[InstanceOutcome]:
        return self.outcome.problems


def _is_unreadable(each: InstanceOutcome) -> bool:
    """Whether nothing was done with a file because it could not be read."""
    return bool(each.error) and isinstance(from_record(each.error, ""), InvalidRequestError)


class SendView(TransferView[StoreRequest | StoreDirectoryRequest | StorePathsRequest]):
    """What became of each file that was to be sent."""

    def check_remote(self) -> str:
        return Advice.NOT_DICOM if self.outcome.nothing_found else Advice.SENDING


class RetrieveView(TransferView[RetrieveRequest]):
    """What became of each instance that was to be retrieved, to a directory or to another remote."""

    def check(self) -> str:
        forwarded = self.request.to is not None and not self.outcome.unreachable
        return Advice.FORWARDING if forwarded else super().check()

    def check_remote(self) -> str:
        return Advice.RETRIEVING

    @property
    def done(self) -> str:
        return super().done if self.request.to is None else "sent"

    def destination(self) -> Iterable[Fact]:
        return (Fact("Destination", str(self.request.to or "")),)


def _study_facts(study: StudyOutcome) -> Iterable[Fact]:
    """By which method the only study came, and what its promise is worth if the remote did not list its instances."""
    weak = study.proof is not Proof.INSTANCES
    return (
        Fact("Promised", promised(study).replace("\n", " ") if weak and study.promised else "", "yellow"),
        Fact("Method", ", ".join(study.ways)),
        # The problems explain what is missing.
        Fact("Remark", study.reason if study.category in _COMPLETE or weak else "", "yellow"),
    )


def promised(study: StudyOutcome) -> str:
    """The number of instances, and how it is known if the remote did not list them."""
    if study.proof is Proof.COUNTS:
        return f"{study.promised}\n(counted)"
    if study.proof is Proof.NONE and study.promised:
        return f"{study.promised}\n(unlisted)"
    return str(study.promised)


_STUDY_COLUMNS: tuple[tuple[str, Callable[[StudyOutcome], str]], ...] = (
    ("Promised", promised),
    ("Received", lambda each: str(each.received)),
    ("Already there", lambda each: positive(each.present)),
    ("Missing", lambda each: positive(each.missing + each.failed)),
    ("Method", lambda each: "\n".join(each.ways)),
)


def study_table(studies: Sequence[StudyOutcome]) -> Table:
    """One row for each study, those with problems first.

    Terminals are narrow, so empty columns are left out and a reason stands below its study.
    """
    ordered = sorted(studies, key=lambda each: _ORDER.index(each.category))
    columns = [(name, cell) for name, cell in _STUDY_COLUMNS if any(cell(each) for each in ordered[:LISTED])]
    table = Table("Study", "Result", *(name for name, _ in columns), whole=range(1, len(columns) + 2))
    shown: set[str] = set()
    for each in ordered[:LISTED]:
        reason = translated("(as above)" if each.reason in shown else plain(each.reason))
        name = f"{plain(_name_of(each))}\n{reason}" if each.reason else plain(_name_of(each))
        shown.add(each.reason)
        table.add(name, Cell(translated(each.category), STYLES[each.category]), *(cell(each) for _, cell in columns))
    if more := ordered[LISTED:]:
        complete = sum(each.category in _COMPLETE for each in more)
        table.add(translated(f"... and {len(more)} more, {complete} of them complete (--json lists all)"))
    return table


def _name_of(study: StudyOutcome) -> str:
    rows = ", ".join(map(str, study.rows[:_ROWS])) + (", ..." if len(study.rows) > _ROWS else "")
    shown = translated(f"row {rows}") if rows else ""
    if study.study_uid and shown:
        return f"{study.study_uid} ({shown})"
    return study.study_uid or shown or translated("none found")


def _accepted(pair: ProposedPair) -> Cell:
    if pair.accepted:
        return Cell(translated("yes"), "green")
    return Cell(_SYNTAXES[pair.sent_as], "yellow") if pair.sent_as else Cell(translated("no"), "red")


class PreflightView(View[PreflightRequest, PreflightOutcome]):
    """What the remote would accept of a directory."""

    @property
    def exit_code(self) -> ExitCode:
        if self.outcome.pairs:
            return super().exit_code
        return ExitCode.USAGE if all(map(_is_unreadable, self.outcome.unreadable)) else ExitCode.FAILED

    @property
    def advice(self) -> str:
        if self.outcome.category is Category.SUCCESS:
            return ""
        if not all(pair.sendable for pair in self.outcome.pairs):
            return Advice.NOT_ACCEPTED
        return Advice.REASONS if self.outcome.unreadable else Advice.NOT_DICOM

    def details(self) -> Iterable[Fact]:
        outcome = self.outcome
        return (
            Fact("Files", f"{outcome.total} ({size(outcome.bytes)})"),
            Fact("DICOM instances", str(sum(pair.count for pair in outcome.pairs))),
            Fact("Accepted", str(sum(pair.count for pair in outcome.pairs if pair.accepted)), "green"),
            Fact("Converted", positive(sum(pair.count for pair in outcome.pairs if pair.sent_as)), "yellow"),
            Fact("Not DICOM", positive(len(outcome.skipped)), "yellow"),
            Fact("Unreadable", positive(len(outcome.unreadable)), "red"),
            Fact("Contexts", f"{outcome.contexts} in {counted(outcome.associations, 'association')}"),
        )

    def tables(self) -> Iterable[Table]:
        table = Table("SOP class", "Transfer syntax", "Files", "Size", "Accepted", whole=[3])
        for pair in self.outcome.pairs:
            table.add(
                pair.sop_class_name or pair.sop_class_uid,
                pair.transfer_syntax_name or pair.transfer_syntax_uid,
                str(pair.count),
                size(pair.bytes),
                _accepted(pair),
            )
        return (table,) if table.rows else ()

    def problems(self) -> Iterable[InstanceOutcome]:
        return (*self.outcome.unreadable, *self.outcome.skipped)

    def remarks(self) -> Iterable[str]:
        return ("Nothing was sent.",)


class VerificationView(View[VerifyRequest, VerifyOutcome]):
    """Which of the sent instances the remote lists."""

    @property
    def advice(self) -> str:
        if self.outcome.category is Category.SUCCESS:
            return ""
        if self.outcome.missing:
            return Advice.MISSING
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
            return Advice.NOT_COMMITTED
        if not outcome.receiver:
            return Advice.NO_RECEIVER
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
