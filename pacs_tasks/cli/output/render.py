"""From outcomes to what people and programs read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from pacs_tasks.cli.commands.shared import later
from pacs_tasks.cli.output import completeness
from pacs_tasks.cli.output.progress import duration, size
from pacs_tasks.cli.output.study_tables import promised, study_table
from pacs_tasks.cli.output.tables import STYLES, facts, new_table
from pacs_tasks.cli.output.terminal import Terminal, plain
from pacs_tasks.outcome import (
    Category,
    EchoOutcome,
    FindOutcome,
    InstanceCategory,
    InstanceOutcome,
    MoveOutcome,
    Outcome,
    PreflightOutcome,
    Proof,
    Status,
    StudyOutcome,
    TransferOutcome,
)
from pacs_tasks.outcome.verification import CommitOutcome, VerifyOutcome
from pacs_tasks.request import AnyRequest, FindRequest, RetrieveRequest

#: Files or instances that a table lists by name; ``--json`` has all of them.
LISTED = 20

_THING = "File or instance"


@dataclass(frozen=True)
class Words:
    """How a task is called among people: the command, what it does with a thing, and what such a thing is."""

    command: str
    done: str = "done"
    thing: str = _THING


_WORDS = {
    "pacs_tasks.echo": Words("echo"),
    "pacs_tasks.store_file": Words("send-file", "sent"),
    "pacs_tasks.store_directory": Words("send-dir", "sent"),
    "pacs_tasks.preflight": Words("send-dir --dry-run"),
    "pacs_tasks.find": Words("query"),
    "pacs_tasks.find_batch": Words("query --batch", "answered", "Row"),
    "pacs_tasks.move": Words("move"),
    "pacs_tasks.get": Words("get", "received"),
    "pacs_tasks.retrieve": Words("retrieve", "received"),
    "pacs_tasks.verify": Words("verify"),
    "pacs_tasks.commit": Words("verify --commit"),
}


def words_of(task: str) -> Words:
    """The words for a public task; a task of a newer version is called by its own name."""
    return _WORDS.get(task, Words(task.removeprefix("pacs_tasks.")))


def show_outcome(terminal: Terminal, request: AnyRequest, outcome: Outcome) -> None:
    """Put an outcome on stdout as tables."""
    if isinstance(outcome, FindOutcome) and isinstance(request, FindRequest):
        if terminal.csv:
            # The data dictionary, which matches are shown with, takes a tenth of the time of a short command to read.
            terminal.write(
                later("output.matches", "csv_of")(outcome.matches, request.level, request.keys, request.model)
            )
        elif terminal.jsonl:
            for match in outcome.matches:
                terminal.line(json.dumps({"match": match}, ensure_ascii=False))
        elif outcome.matches:
            later("output.matches", "show_matches")(
                terminal, outcome.matches, request.level, request.keys, request.model
            )
        for sentence in completeness.about(outcome):
            terminal.say(sentence)
    elif isinstance(outcome, TransferOutcome):
        _show_transfer(terminal, request, outcome)
    elif isinstance(outcome, PreflightOutcome):
        _show_preflight(terminal, request, outcome)
    elif isinstance(outcome, EchoOutcome):
        style = STYLES[outcome.category]
        terminal.show(
            Text(f"{request.remote} answered in {outcome.seconds * 1000:.0f} ms: {_said(outcome.status)}", style)
        )
    elif isinstance(outcome, MoveOutcome):
        _show_move(terminal, request, outcome)
    elif isinstance(outcome, VerifyOutcome):
        _show_verification(terminal, request, outcome)
    elif isinstance(outcome, CommitOutcome):
        _show_commitment(terminal, request, outcome)


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a part of a JSON document. Status codes are hexadecimal, as the Standard writes them."""
    document = {"category": str(outcome.category), **_hexadecimal(outcome.model_dump(mode="json"))}
    if isinstance(outcome, FindOutcome):
        # The codec of DICOM JSON is the peer's data as it stands; nothing in it is ours to change.
        document["matches"] = list(outcome.matches)
    return document


def _show_transfer(terminal: Terminal, request: AnyRequest, outcome: TransferOutcome) -> None:
    counters, words = outcome.counters, words_of(request.task)
    to = request.to if isinstance(request, RetrieveRequest) else None
    if to is not None:
        words = Words(words.command, "sent")
    speed = f", {size(counters.bytes / outcome.seconds)}/s" if outcome.seconds and counters.bytes else ""
    left = counters.total - counters.recorded
    rows = [
        ("Result", str(outcome.category), STYLES[outcome.category]),
        ("Peer", str(request.remote), ""),
        ("Destination", str(to or ""), ""),
        ("Total", str(counters.total), ""),
        *counts_of(words, counters.model_dump()),
        ("Not begun", str(left) if left else "", "yellow"),
        ("Size", f"{size(counters.bytes)} {words.done}" if counters.bytes else "", ""),
        *(_about_study(outcome.studies[0]) if len(outcome.studies) == 1 else ()),
        ("Time", f"{duration(outcome.seconds)}{speed}", ""),
    ]
    terminal.show(facts(row for row in rows if row[1]))
    if len(outcome.studies) > 1:
        terminal.show(study_table(outcome.studies))
    show_problems(terminal, outcome.problems, thing=words.thing)


def _about_study(study: StudyOutcome) -> list[tuple[str, str, str]]:
    """Which way the only study came, and how far the promise goes where the peer did not list its instances."""
    weak = study.proof is not Proof.INSTANCES
    whole = study.category in {Category.SUCCESS, Category.WARNING}
    return [
        ("Promised", promised(study).replace("\n", " ") if weak and study.promised else "", "yellow"),
        ("Way", ", ".join(study.ways), ""),
        # Of what is missing the problems tell.
        ("Remark", study.reason if whole or weak else "", "yellow"),
    ]


def counts_of(words: Words, counters: dict[str, int]) -> list[tuple[str, str, str]]:
    """Rows for :func:`facts`: how many instances went how."""
    named = [
        (words.done.capitalize(), counters["success"] + counters["warning"], "green"),
        ("  with a warning", counters["warning"], "yellow"),
        ("Already there", counters["present"], "green"),
        ("Failed", counters["failed"], "red"),
        ("Missing", counters["missing"], "red"),
        ("No DICOM", counters["skipped"], "yellow"),
    ]
    return [(name, str(count), style) for name, count, style in named if count]


def show_problems(
    terminal: Terminal, problems: Iterable[InstanceOutcome], listed: int = LISTED, thing: str = _THING
) -> None:
    """List what did not simply succeed, by reason, with a share of the names for each reason."""
    groups: dict[tuple[InstanceCategory, str], list[InstanceOutcome]] = {}
    for each in problems:
        groups.setdefault((each.category, _reason(each)), []).append(each)
    if not groups:
        return
    # What failed stands before what was only remarked upon.
    order = list(_SEVERITY)
    table = new_table("What", thing, "Why, and what to do")
    share = max(1, listed // len(groups))
    shown = sorted(groups.items(), key=lambda group: order.index(group[0][0]))[:listed]
    for (category, reason), members in shown:
        names = [plain(each.subject) for each in members[:share]]
        if len(members) > share:
            names.append(f"... and {len(members) - share} more (--json lists all)")
        what = Text(f"{len(members)} {category}", style=_SEVERITY[category])
        table.add_row(what, Text("\n".join(names)), Text(plain(reason)))
    if len(groups) > len(shown):
        table.add_row("", f"... and {len(groups) - len(shown)} more reasons (--json lists all)", "")
    terminal.show(table)


_SEVERITY = {
    InstanceCategory.FAILED: "red",
    InstanceCategory.MISSING: "red",
    InstanceCategory.WARNING: "yellow",
    InstanceCategory.SKIPPED: "yellow",
    InstanceCategory.PRESENT: "green",
    InstanceCategory.SUCCESS: "green",
}


def _reason(instance: InstanceOutcome) -> str:
    return instance.reason or (_said(instance.status) if instance.status else "") or instance.error


def _show_preflight(terminal: Terminal, request: AnyRequest, outcome: PreflightOutcome) -> None:
    accepted = sum(pair.count for pair in outcome.pairs if pair.accepted)
    rows = [
        ("Result", str(outcome.category), STYLES[outcome.category]),
        ("Peer", str(request.remote), ""),
        ("Files", f"{outcome.total} ({size(outcome.bytes)})", ""),
        ("DICOM instances", str(sum(pair.count for pair in outcome.pairs)), ""),
        ("Accepted", str(accepted), "green"),
        ("No DICOM", str(len(outcome.skipped) or ""), "yellow"),
        ("Unreadable", str(len(outcome.unreadable) or ""), "red"),
        ("Contexts", f"{outcome.contexts} in {outcome.associations} association(s)", ""),
    ]
    terminal.show(facts(row for row in rows if row[1]))
    if outcome.pairs:
        table = new_table("SOP class", "Transfer syntax", "Files", "Size", "Accepted")
        for pair in outcome.pairs:
            table.add_row(
                pair.sop_class_name or pair.sop_class_uid,
                pair.transfer_syntax_name or pair.transfer_syntax_uid,
                str(pair.count),
                size(pair.bytes),
                Text("yes", "green") if pair.accepted else Text("no", "red"),
            )
        terminal.show(table)
    show_problems(terminal, (*outcome.unreadable, *outcome.skipped))
    terminal.say("Nothing was sent.")


def _show_move(terminal: Terminal, request: AnyRequest, outcome: MoveOutcome) -> None:
    counts = outcome.suboperations
    rows = [
        ("Result", str(outcome.category), STYLES[outcome.category]),
        ("Peer", str(request.remote), ""),
        ("Status", _said(outcome.status), ""),
        ("Completed", str(counts.completed), "green"),
        ("  with a warning", str(counts.warning or ""), "yellow"),
        ("Failed", str(counts.failed or ""), "red"),
        ("Remaining", str(counts.remaining or ""), "yellow"),
        ("Time", duration(outcome.seconds), ""),
    ]
    terminal.show(facts(row for row in rows if row[1]))


def _show_verification(terminal: Terminal, request: AnyRequest, outcome: VerifyOutcome) -> None:
    rows = [
        ("Result", str(outcome.category), STYLES[outcome.category]),
        ("Peer", str(request.remote), ""),
        ("Sent", str(outcome.total), ""),
        ("Held", str(outcome.held), "green"),
        ("Missing", str(outcome.missing or ""), "red"),
        ("Unknown", str(outcome.unknown or ""), "yellow"),
        ("Time", f"{duration(outcome.seconds)}, {_queries(outcome.queries)}", ""),
    ]
    terminal.show(facts(row for row in rows if row[1]))
    show_problems(terminal, outcome.problems)


def _queries(count: int) -> str:
    return "1 query" if count == 1 else f"{count} queries"


def _show_commitment(terminal: Terminal, request: AnyRequest, outcome: CommitOutcome) -> None:
    rows = [
        ("Result", str(outcome.category), STYLES[outcome.category]),
        ("Peer", str(request.remote), ""),
        ("Sent", str(outcome.total), ""),
        ("Committed", str(outcome.committed), "green"),
        ("Failed", str(outcome.failed or ""), "red"),
        ("Not yet", str(outcome.pending or ""), "yellow"),
        ("Receiver", outcome.receiver or "none is running", "" if outcome.receiver else "yellow"),
        ("Time", duration(outcome.seconds), ""),
    ]
    terminal.show(facts(row for row in rows if row[1]))
    show_problems(terminal, outcome.problems)


def _said(status: Status) -> str:
    return plain(str(status))


def _hexadecimal(value: Any) -> Any:
    if isinstance(value, dict):
        if {"code", "category", "meaning"} <= value.keys():
            return {**value, "code": f"{value['code']:04X}"}
        return {name: _hexadecimal(each) for name, each in value.items()}
    return [_hexadecimal(each) for each in value] if isinstance(value, list) else value
