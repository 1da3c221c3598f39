"""The output of outcomes and progress."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

import pytest
from rich.cells import cell_len
from rich.console import Console

from pacs_tasks.ae import RemoteAE
from pacs_tasks.cli.output import jobs
from pacs_tasks.cli.output.exit_codes import advice_on
from pacs_tasks.cli.output.jobs import Clock, LiveView, PlainView, Speed, job_facts, job_table, remarks
from pacs_tasks.cli.output.matches import match_rows, text_of
from pacs_tasks.cli.output.outcomes import view_of
from pacs_tasks.cli.output.terminal import Terminal, size
from pacs_tasks.cli.output.view import LISTED, problem_table
from pacs_tasks.client import Job
from pacs_tasks.errors import JobFailedError, PeerUnavailableError
from pacs_tasks.outcome import (
    Counters,
    EchoOutcome,
    FindOutcome,
    InstanceCategory,
    InstanceOutcome,
    JobState,
    Outcome,
    PreflightOutcome,
    Progress,
    Status,
    StatusCategory,
    TransferOutcome,
)
from pacs_tasks.outcome.verification import CommitOutcome, VerifyOutcome
from pacs_tasks.privacy import plain
from pacs_tasks.request import (
    AnyRequest,
    CommitRequest,
    EchoRequest,
    FindRequest,
    Level,
    PreflightRequest,
    RetrieveRequest,
    StoreDirectoryRequest,
    VerifyRequest,
)

DONE = Status(code=0, category=StatusCategory.SUCCESS, meaning="success")
MATCHES = (
    {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Zhang^San", "Ideographic": "张^三"}]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "00080061": {"vr": "CS", "Value": ["CT", "MR"]},
        "00081030": {"vr": "LO", "Value": ['quo"te, comma\x1b[31m']},
    },
    {"00100010": {"vr": "PN"}, "00100020": {"vr": "LO", "Value": ["P2", None]}},
)


def show_outcome(terminal: Terminal, request: AnyRequest, outcome: Outcome) -> None:
    view_of(request.task, outcome, request).show(terminal)


def show_problems(problems: Iterable[InstanceOutcome]) -> None:
    table = problem_table(problems, "File or instance")
    assert table is not None
    Terminal().table(table)


def advised(request: AnyRequest, outcome: Outcome) -> str:
    """The advice about an outcome of the job j7."""
    return view_of(request.task, outcome, request, cast("Job", SimpleNamespace(id="j7"))).advice


def _problem(number: int, category: InstanceCategory, reason: str) -> InstanceOutcome:
    return InstanceOutcome(subject=f"/data/{number:03}.dcm", category=category, reason=reason)


def test_a_name_keeps_its_ideographs_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """And the column is as wide as they are on a terminal: two cells for each."""
    terminal = Terminal(quiet=True)
    show_outcome(terminal, FindRequest(), FindOutcome(status=DONE, matches=MATCHES))
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if "Zhang^San=张^三" in line)
    heading = next(line for line in lines if "Patient's Name" in line)
    before = first[: first.index("CT\\MR")]
    assert cell_len(before) == cell_len(heading[: heading.index("Modalities")])


def test_a_peer_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Its control characters become escapes."""
    show_outcome(Terminal(), FindRequest(), FindOutcome(status=DONE, matches=MATCHES))
    assert "\x1b" not in capsys.readouterr().out
    assert plain("a\x1b]0;b\x07c\n") == r"a\u001b]0;b\u0007c\n"


def test_csv_has_keywords_one_line_per_match_and_utf_8(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Several values are separated by backslashes."""
    terminal = Terminal(quiet=True)
    terminal.csv = True
    request = FindRequest(keys={"BodyPartExamined": ""})
    show_outcome(terminal, request, FindOutcome(status=DONE, matches=MATCHES))
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode("utf-8"))))
    assert [row["PatientID"] for row in rows] == ["P1", "P2\\"]
    assert rows[0]["PatientName"] == "Zhang^San=张^三"
    assert rows[0]["ModalitiesInStudy"] == "CT\\MR"
    assert rows[0]["BodyPartExamined"] == ""


def test_csv_without_a_match_has_its_heading() -> None:
    """So a program that reads it needs no special case."""
    assert [row[:2] for row in match_rows((), FindRequest(level=Level.PATIENT))] == [("PatientID", "PatientName")]


def test_an_attribute_may_be_asked_for_by_its_tag() -> None:
    """As eight hexadecimal digits. An unknown attribute is empty."""
    assert text_of(MATCHES[0], "00100020") == "P1"
    assert text_of(MATCHES[0], "no tag") == ""


def test_no_match_says_what_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, since there is no result."""
    outcome = FindOutcome(status=DONE)
    show_outcome(Terminal(), FindRequest(), outcome)
    said = capsys.readouterr()
    assert said.out == ""
    assert "No match" in said.err
    assert "wider criteria" in advised(FindRequest(), outcome)


def test_problems_are_listed_by_reason_and_not_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Each reason has its count and a share of the names. Failures stand before remarks."""
    problems = [_problem(number, InstanceCategory.SKIPPED, "no DICOM") for number in range(300)]
    problems += [_problem(number, InstanceCategory.FAILED, "A900: no") for number in range(300, 400)]
    show_problems(problems)
    said = capsys.readouterr().out
    assert said.index("100 failed") < said.index("300 skipped")
    assert said.count(".dcm") == LISTED
    assert "... and 290 more (--json lists all)" in said


def test_many_reasons_are_not_listed_without_end_either(capsys: pytest.CaptureFixture[str]) -> None:
    """A PACS may give a different reason for each instance."""
    show_problems([_problem(number, InstanceCategory.FAILED, f"reason {number}") for number in range(50)])
    said = capsys.readouterr().out
    assert said.count("reason ") == LISTED
    assert "... and 30 more reasons" in said


def test_a_transfer_shows_every_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Also what was never begun."""
    outcome = TransferOutcome(
        counters=Counters(total=10, success=4, warning=1, failed=2, skipped=1, bytes=5_000_000), seconds=2.0
    )
    request = StoreDirectoryRequest(directory="/data", remote=RemoteAE(ae_title="ARCHIVE"))
    show_outcome(Terminal(), request, outcome)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "Result partial Remote ARCHIVE at 127.0.0.1:11112 Total 10 Sent 5 with a warning 1 Failed 2 Not DICOM 1 "
        "Not begun 2 Size 5.0 MB sent Time 2.0 s, 2.5 MB/s"
    ) in said


def test_a_transfer_shows_what_was_there_already(capsys: pytest.CaptureFixture[str]) -> None:
    """Apart from what was received, and not as a problem."""
    outcome = TransferOutcome(counters=Counters(total=10, success=4, present=6, bytes=4_000_000), seconds=2.0)
    show_outcome(Terminal(), RetrieveRequest(study_uid="1.2", output_dir="/out"), outcome)
    said = " ".join(capsys.readouterr().out.split())
    assert "Result success" in said
    assert "Total 10 Received 4 Already there 6 Size 4.0 MB received" in said
    assert remarks(outcome.counters) == "6 already there"


def test_a_document_is_valid_json_with_hexadecimal_statuses(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Even if a path has bytes that are not UTF-8."""
    status = Status(code=0xA900, category=StatusCategory.PERMANENT, meaning="no")
    problem = InstanceOutcome(subject="/data/\udcff.dcm", category=InstanceCategory.FAILED, status=status)
    outcome = TransferOutcome(counters=Counters(total=1, failed=1), problems=(problem,))
    Terminal(json=True).document(view_of("pacs_tasks.store_file", outcome).document())
    document = json.loads(capsysbinary.readouterr().out.decode("utf-8"))
    assert document["problems"][0]["status"]["code"] == "A900"
    assert document["problems"][0]["subject"] == "/data/?.dcm"


def test_an_echo_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With the time it took."""
    show_outcome(Terminal(), EchoRequest(), EchoOutcome(status=DONE, seconds=0.0123))
    assert capsys.readouterr().out == "PACS at 127.0.0.1:11112 answered in 12 ms: 0000: success\n"


def test_jobs_are_a_table_and_one_job_is_a_list_of_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """The state shows that it is about to change."""
    counters = Counters(total=10, success=3, failed=1)
    job = Progress(
        job_id="abc",
        task="pacs_tasks.store_directory",
        state=JobState.RUNNING,
        counters=counters,
        created=0,
        cancel_requested=True,
        attempt=2,
    )
    terminal = Terminal()
    terminal.table(job_table([job]))
    terminal.facts(job_facts(job))
    said = " ".join(capsys.readouterr().out.split())
    assert "abc send-dir running (cancelling) 3 of 10 1" in said
    assert "Attempt 2 Progress 4 of 10 Sent 3 Failed 1" in said


def test_the_progress_says_what_the_last_files_wait_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are tried again after an abort: nobody knows how much time is left."""
    monkeypatch.setattr(jobs, "PACE", 0)
    job, screen = _running(total=129, success=128, bytes=1, retrying=1), io.StringIO()
    with LiveView("send-dir", Console(file=screen, force_terminal=True, width=120), delay=0) as live:
        live.update(job)
    PlainView(Terminal(), "send-dir").update(job)
    for said in (screen.getvalue(), capsys.readouterr().err):
        assert "retrying after an abort" in said
        assert "left" not in said


def test_quiet_leaves_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Results still go to stdout."""
    terminal = Terminal(quiet=True)
    terminal.say("talk")
    terminal.complain("it broke")
    terminal.line("data")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("data\n", "Error: it broke\n")


def test_a_quiet_query_that_failed_shows_why(capsys: pytest.CaptureFixture[str]) -> None:
    """It has no other output."""
    refused = Status(code=0xA900, category=StatusCategory.PERMANENT, meaning="Refused.")
    show_outcome(Terminal(quiet=True), FindRequest(), FindOutcome(status=refused))
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Error: The PACS answered A900: Refused.\n")


def test_sizes_read_well() -> None:
    """In powers of 1000."""
    assert [size(count) for count in (0, 999, 1000, 263_000_000, 2.5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "263.0 MB",
        "2.5 TB",
    ]


def test_speed_is_that_of_the_last_seconds() -> None:
    """Earlier bytes no longer count."""
    speed = Speed()
    assert speed.update(0.0, 0) == 0.0
    assert speed.update(2.0, 200) == 100.0
    assert speed.update(20.0, 200) == 0.0
    assert speed.update(21.0, 1200) > 50


def test_plain_progress_keeps_its_pace(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file does not get a line for each of a thousand updates."""
    view = PlainView(Terminal(), "send-dir")
    running = Progress(job_id="j", task="pacs_tasks.store_directory", state=JobState.RUNNING, created=0)
    with view:
        for number in range(1000):
            view.update(running.model_copy(update={"counters": Counters(total=1000, success=number)}))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (advice_on(PeerUnavailableError("x"), "pacs_tasks.echo"), ("--ip, --port", "running", "firewall")),
        (
            advised(
                StoreDirectoryRequest(directory="/data"),
                TransferOutcome(counters=Counters(total=2, success=1, failed=1)),
            ),
            ("valid DICOM", "space", "retry j7"),
        ),
        (
            advised(
                StoreDirectoryRequest(directory="/data"),
                TransferOutcome(
                    counters=Counters(total=2, success=1, failed=1),
                    problems=(
                        InstanceOutcome(
                            subject="/data/1.dcm", category=InstanceCategory.FAILED, error="DamagedFileError"
                        ),
                    ),
                ),
            ),
            ("Follow the reasons above. Then run", "retry j7"),
        ),
        (
            advised(
                RetrieveRequest(study_uid="1.2", to=RemoteAE(ae_title="OTHER")),
                TransferOutcome(counters=Counters(total=1, missing=1)),
            ),
            ("destination's AE title", "Configure", "retry j7"),
        ),
        (advised(PreflightRequest(directory="/data"), PreflightOutcome(total=0, bytes=0)), ("path", "content")),
        (
            advised(
                PreflightRequest(directory="/data"),
                PreflightOutcome(total=1, bytes=0, unreadable=(_problem(1, InstanceCategory.FAILED, "damaged"),)),
            ),
            ("Follow the reasons above.",),
        ),
        (advised(FindRequest(), FindOutcome(status=DONE)), ("query", "wider")),
        (advised(VerifyRequest(job_id="j"), VerifyOutcome(held=1, missing=1)), ("missing instances again", "stored")),
        (advised(VerifyRequest(job_id="j"), VerifyOutcome(held=1, unknown=1)), ("reasons", "verify j --commit")),
        (advised(CommitRequest(job_id="j"), CommitOutcome(failed=1)), ("reasons", "Keep the failed instances")),
        (
            advised(CommitRequest(job_id="j"), CommitOutcome(pending=1, receiver="US at here:104")),
            ("US at here:104", "pacs-tasks report j"),
        ),
        (advised(CommitRequest(job_id="j"), CommitOutcome(pending=1)), ("pacs-tasks receiver", "AE title")),
        (advice_on(JobFailedError("x"), "pacs_tasks.retrieve"), ("Study Instance UID", "writable", "space")),
    ],
)
def test_each_problem_case_of_the_guide_says_what_to_check(text: str, words: tuple[str, ...]) -> None:
    """Connection, sending, no match, retrieving."""
    assert all(word in text for word in words)


def test_what_the_pacs_lacks_is_listed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts of zero are left out."""
    missing = _problem(1, InstanceCategory.MISSING, "it does not list it")
    outcome = VerifyOutcome(held=2, missing=1, problems=(missing,), queries=1)
    show_outcome(Terminal(), VerifyRequest(job_id="j"), outcome)
    said = capsys.readouterr().out
    assert ", 1 query\n" in said
    assert "Held     2" in said
    assert "Missing  1" in said
    assert "Unknown" not in said
    assert "/data/001.dcm" in said


def test_a_commitment_says_who_could_have_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """And how many instances are pending."""
    show_outcome(Terminal(), CommitRequest(job_id="j"), CommitOutcome(committed=1, pending=2))
    said = capsys.readouterr().out
    assert "Pending    2" in said
    assert "Receiver   none is running" in said


def test_a_retried_transfer_shows_this_attempt_and_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    """The speed is that of the bytes which this attempt has sent."""
    earlier = Counters(total=200, success=196, failed=1, bytes=80_000_000)
    counters = Counters(total=200, success=199, failed=1, bytes=81_000_000)
    outcome = TransferOutcome(counters=counters, earlier=earlier, seconds=0.5)
    show_outcome(Terminal(), StoreDirectoryRequest(directory="/data"), outcome)
    said = " ".join(capsys.readouterr().out.split())
    assert "Total 3 (200 in all) Sent 3 (199 in all) Failed 0 (1 in all)" in said
    assert "Size 1.0 MB (81.0 MB in all) sent Time 0.50 s, 2.0 MB/s" in said


def _running(*, retrying: int = 0, **counters: int) -> Progress:
    task = "pacs_tasks.store_directory"
    return Progress(
        job_id="j", task=task, state=JobState.RUNNING, counters=Counters(**counters), created=0, retrying=retrying
    )


def test_the_progress_tells_the_time_that_passed_and_the_time_left() -> None:
    """By what was done since a worker began."""
    clock = Clock()
    assert clock.text(90.0, _running(total=0)) == "0 s"
    assert clock.text(100.0, _running(total=200, success=150)) == "10 s"
    assert clock.text(102.0, _running(total=200, success=170)) == "12 s, about 3 s left"
    assert clock.text(700.0, _running(total=200, success=160)) == "10 min, about 40 min left"
    assert clock.text(105.0, _running(total=200, success=200)) == "15 s"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("张三丰", "Try '张^三丰' or '张*', or '*=张^三丰*'"),
        ("欧阳娜娜", "Try '欧阳^娜娜'"),
        ("홍길동", "Try '홍^길동'"),
        ("John Q Smith", "Try 'Smith^John Q', 'John^Q Smith' or '*Smith*'"),
        ("张^三丰", ""),
        ("张*", ""),
        ("SMITH", ""),
        ("Müller", ""),
        ("", ""),
    ],
)
def test_a_name_that_finds_nothing_gets_a_hint(name: str, hint: str) -> None:
    """People type names as they write them; a PACS compares components."""
    outcome = FindOutcome(status=DONE, matches=(), seconds=0.1)
    said = advised(FindRequest(keys={"PatientName": name}), outcome)
    assert hint in said if hint else said.startswith("Check the query for typing errors")
