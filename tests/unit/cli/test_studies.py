"""The table of studies."""

from __future__ import annotations

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.cli.output.terminal import Terminal
from pacs_tasks.cli.output.view import LISTED
from pacs_tasks.outcome import Category, Counters, Proof, StudyOutcome, TransferOutcome
from pacs_tasks.request import RetrieveRequest, Selection

REQUEST = RetrieveRequest(remote=RemoteAE(), selections=(Selection(study_uid="1.2"),), output_dir="/out")


def shown(capsys: pytest.CaptureFixture[str], *studies: StudyOutcome) -> str:
    """The output of a retrieve with these studies, with single spaces."""
    outcome = TransferOutcome(counters=Counters(total=1, success=1), studies=studies)
    view_of(REQUEST.task, outcome, REQUEST).show(Terminal())
    return " ".join(capsys.readouterr().out.split())


def whole(number: int) -> StudyOutcome:
    return StudyOutcome(
        study_uid=f"1.2.{number}", category=Category.SUCCESS, promised=5, received=5, proof=Proof.INSTANCES
    )


def test_studies_with_problems_stand_first(capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason, the rows that requested them, and how the promise is known."""
    counted = StudyOutcome(
        study_uid="1.3", category=Category.PARTIAL, promised=4, received=3, missing=1, proof=Proof.COUNTS,
        ways=("C-GET", "C-MOVE"), rows=tuple(range(2, 10)),
    )  # fmt: skip
    nowhere = StudyOutcome(category=Category.FAILED, failed=1, reason="no such study", rows=(11,))
    text = shown(capsys, whole(1), counted, nowhere)
    assert text.index("row 11") < text.index("no such study") < text.index("1.3 (row 2, 3, 4, 5, 6, ...)")
    assert text.index("1.3 (row") < text.index("(counted)") < text.index("1.2.1")
    assert "Already there" not in text


def test_a_long_table_names_twenty(capsys: pytest.CaptureFixture[str]) -> None:
    """It shows how many more there are; JSON lists all."""
    studies = [whole(number) for number in range(LISTED + 5)]
    text = shown(capsys, *studies)
    assert "... and 5 more, 5 of them complete (--json lists all)" in text
    assert f"1.2.{LISTED - 1} " in text
    assert f"1.2.{LISTED} " not in text
    document = view_of(REQUEST.task, TransferOutcome(counters=Counters(), studies=tuple(studies))).document()
    assert len(document["studies"]) == LISTED + 5


def test_what_is_true_of_several_studies_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a batch without a receiver would report it a thousand times."""
    remark = {"reason": "C-MOVE is not possible: no receiver is running"}
    text = shown(capsys, *(whole(number).model_copy(update=remark) for number in (1, 2, 3)))
    assert text.count("no receiver is running") == 1
    assert text.count("(as above)") == 2


def test_one_study_is_told_among_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """With the method, and the worth of the promise if it is less than a list of instances."""
    plain = whole(1).model_copy(update={"ways": ("C-MOVE",)})
    text = shown(capsys, plain)
    assert "Method C-MOVE" in text
    assert "Promised" not in text
    counted = plain.model_copy(update={"proof": Proof.COUNTS, "reason": "the remote cannot list"})
    assert "Promised 5 (counted) Method C-MOVE Remark the remote cannot list" in shown(capsys, counted)
