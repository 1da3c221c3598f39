"""Values of options: accepted as intended, or refused in one sentence."""

from __future__ import annotations

import datetime
import io
import json
import os
import sys
from pathlib import Path

import click
import pytest

from pacs_tasks.cli.input.dates import as_dicom
from pacs_tasks.cli.input.keys import typed_key
from pacs_tasks.cli.input.values import (
    CRITERION,
    HOST,
    PATIENT_ID,
    Age,
    Key,
    Modality,
    StudyDate,
    absolute,
    local_directory,
    local_file,
    local_output,
)
from pacs_tasks.cli.program import main
from pacs_tasks.errors import InvalidRequestError, UnreadableInputError


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings file and no variable of the developer is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


#: A leap year begins on a Monday.
TODAY = datetime.date(2024, 1, 1)


@pytest.mark.parametrize(
    "text", ["20230101-20231231", "20230131", "20230101-", "-20231231", "20240229", "20230101-20230101", "00010101"]
)
def test_dates_are_a_day_a_range_or_open(text: str) -> None:
    """They go to the PACS as they are (range matching, PS3.4 section C.2.2.2.5)."""
    assert StudyDate().convert(text, None, None) == text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2023-01-31", "20230131"),
        (" 2023-1-3 ", "20230103"),
        ("2023/01/31", "20230131"),
        ("2023.01.31", "20230131"),
        ("2023-01-01..2023-12-31", "20230101-20231231"),
        ("2023-01-01-2023-12-31", "20230101-20231231"),
        ("2023-01-01/2023-12-31", "20230101-20231231"),
        ("2023/01/01 - 2023/12/31", "20230101-20231231"),
        ("2023-01-01\u20132023-12-31", "20230101-20231231"),
        ("20230101-2023-12-31", "20230101-20231231"),
        ("2023-01-01..", "20230101-"),
        ("2023-01-01-", "20230101-"),
        ("..2023-01-01", "-20230101"),
        ("-2023-01-01", "-20230101"),
        ("today", "20240101"),
        ("Yesterday", "20231231"),
        ("tomorrow", "20240102"),
        ("yesterday..today", "20231231-20240101"),
        ("yesterday-", "20231231-"),
        ("-today", "-20240101"),
        ("-7d", "20231225-20240101"),
        ("-2w", "20231218-20240101"),
        ("+1D", "20240101-20240102"),
        ("-7d..yesterday", "20231225-20231231"),
        ("-7d-", "20231225-"),
        ("-14d--7d", "20231218-20231225"),
        ("2023-06-01..today", "20230601-20240101"),
    ],
)
def test_dates_are_understood_as_people_write_them(typed: str, meant: str) -> None:
    """The PACS gets the form of the Standard."""
    assert as_dicom(typed, TODAY) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "..",
        "2023",
        "2023-01",
        "20231301",
        "2023-02-29",
        "01/02/2023",
        "2023-01/02",
        "20231231-20230101",
        "today..yesterday",
        "20230101-2023",
        "20230101-20230201-20230301",
        "now",
        "7d",
        "-7m",
        "２０２３０１０１",
    ],
)
def test_what_is_no_date_is_refused(text: str) -> None:
    """Before anything is sent to the PACS, naming what was typed and what is right."""
    with pytest.raises(click.BadParameter) as raised:
        StudyDate().convert(text, None, None)
    assert raised.value.message.startswith("'")
    assert "write a day (2023-01-31" in raised.value.message or "swap the dates" in raised.value.message


@pytest.mark.parametrize(
    ("keyword", "typed", "meant"),
    [
        ("StudyDate", "2023-01-31", "20230131"),
        ("00100030", "1970-1-2", "19700102"),
        ("ScheduledProcedureStepSequence.ScheduledProcedureStepStartDate", "2023-01-31..", "20230131-"),
        ("StudyDate", "2023*", "2023*"),
        ("StudyDate", "2023010?", "2023010?"),
        ("StudyDate", "20230101\\20230201", "20230101\\20230201"),
        ("StudyDate", '""', '""'),
        ("StudyDate", "", ""),
        ("Modality", "ct", "CT"),
        ("00080060", "m?", "M?"),
        ("ScheduledProcedureStepSequence.Modality", "mr", "MR"),
        ("PatientSex", "f", "F"),
        ("BodyPartExamined", "Chest", "Chest"),
        ("00091001", "2023-01-31", "2023-01-31"),
    ],
)
def test_a_key_is_sent_as_it_is_meant(keyword: str, typed: str, meant: str) -> None:
    assert typed_key(keyword, typed) == meant


@pytest.mark.parametrize("typed", ["2023-02-30", "2023-13", "2023"])
def test_a_key_that_is_no_date_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a batch. The date may be that of a birth, so it is not in the message."""
    with pytest.raises(InvalidRequestError, match="-k PatientBirthDate is not a day") as raised:
        typed_key("PatientBirthDate", typed)
    assert typed in raised.value.subject
    assert main(["query", "-k", f"StudyDate={typed}"]) == 2
    assert "-k StudyDate is not a day or a range of days" in capsys.readouterr().err


@pytest.mark.parametrize("tag", ["0008,0060", "(0008,0060)", "00080060"])
def test_a_tag_may_be_written_as_dcmtk_does(tag: str) -> None:
    """Also within a sequence."""
    assert Key().convert(f"{tag}=CT", None, None) == ("00080060", "CT")
    assert Key().convert(f"(0040,0100).{tag}=(1,2)", None, None) == ("00400100.00080060", "(1,2)")


def test_several_modalities_have_backslashes_between_them(capsys: pytest.CaptureFixture[str]) -> None:
    """A comma is no character of a modality."""
    assert main(["query", "--modality", "ct, mr"]) == 2
    assert r"Write 'ct\mr' for several." in capsys.readouterr().err
    assert Modality().convert(r"ct\mr", None, None) == r"ct\mr"


def test_a_key_asks_or_matches() -> None:
    """The value may hold an equals sign, as a name with ideographs does."""
    assert Key().convert("StudyDescription", None, None) == ("StudyDescription", "")
    assert Key().convert("PatientName=Zhang^San=张^三", None, None) == ("PatientName", "Zhang^San=张^三")
    with pytest.raises(click.BadParameter, match="not a keyword"):
        Key().convert("Study Description=x", None, None)


@pytest.mark.parametrize(
    "argv",
    [
        ["nothing-like-it"],
        ["echo", "--port", "0"],
        ["echo", "--port", "abc"],
        ["echo", "--timeout", "0"],
        ["echo", "--ae-title", "LONGER_THAN_SIXTEEN"],
        ["echo", "--remote", "unknown"],
        ["send-file"],
        ["send-dir", "--dir", "somewhere", "--files-per-task", "0"],
        ["send-dir", "--dir", "no-such-directory"],
        ["query", "--study-date", "20231301"],
        ["query", "--level", "EXAM"],
        ["query", "-k", "NoSuchKeyword"],
        ["query", "--limit", "0"],
        ["retrieve", "--study-uid", "1.2.3"],
        ["retrieve", "--study-uid", "one.two", "--output-dir", "out"],
        ["retrieve", "--study-uid", "1.2", "--output-dir", "out", "--to-remote", "archive"],
        ["retrieve", "--study-uid", "1.2", "--to-remote", "unknown"],
        ["retrieve", "--study-uid", "1.2", "--output-dir", "out", "--layout", "{PatientId}"],
        ["retrieve", "--study-uid", "1.2", "--output-dir", "out", "--layout", ""],
        ["retrieve", "--study-uid", "1.2", "--output-dir", "out", "--layout", "../{PatientID}"],
        ["wait"],
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr; with --json there is a document on stdout too, and nothing else."""
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("Error: ") == 1
    assert main([*argv, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == 2
    assert document["error"]["message"]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("http://1.2.3.4", "not a host"),
        ("pacs.example.org/x", "not a host"),
        ("1.2.3.4:104", "--ip 1.2.3.4 --port 104"),
        ("pacs.example.org:104", "--ip 1.2.3.4 --port 104"),
    ],
)
def test_a_host_is_a_name_or_an_address_alone(host: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else would be looked up as a name, in vain."""
    assert main(["echo", "--ip", host]) == 2
    said = capsys.readouterr().err
    assert repr(host) in said
    assert told in said
    assert HOST.convert("fe80::1", None, None) == "fe80::1"


def test_a_keyword_with_a_typing_error_gets_an_offer(capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest keywords of the data dictionary."""
    assert main(["query", "-k", "PatientNmae"]) == 2
    assert "Did you mean PatientName" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--level", "PATIENT", "--root", "study"], "Study Root model has no PATIENT level"),
        (["--worklist", "--root", "study"], "A worklist belongs to neither root"),
        (["--worklist", "--level", "SERIES"], "A worklist has no levels"),
        (["--level", "PATIENT", "--split-dates"], "no study date to split by"),
        (["--charset", "LATIN"], "not a specific character set of DICOM"),
        (["--study-uid", "1.2\\x"], "a UID has at most 64 characters"),
        (["-k", "RequestAttributesSequence.Nonsense=1"], "Nonsense is not a keyword"),
        (["-k", "PatientName.=1"], "is not a keyword of the DICOM data dictionary"),
    ],
)
def test_what_no_query_can_ask_is_told(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one sentence, before anything is sent."""
    assert main(["query", *argv]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["echo", "--port", "abc"], "'abc' is not a valid whole number"),
        (["echo", "--timeout", "soon"], "'soon' is not a valid number of seconds"),
        (["jobs", "--limit", "many"], "'many' is not a valid whole number"),
    ],
)
def test_a_number_is_called_so_as_people_do(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Users need not know the term integer range."""
    assert main(argv) == 2
    assert told in capsys.readouterr().err


def test_a_path_that_no_request_can_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory may have such a name, although nobody typed it."""
    odd = tmp_path / os.fsdecode(b"s\xe9rie")
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("names are Unicode here")
    monkeypatch.chdir(odd)
    with pytest.raises(UnreadableInputError, match="directory above"):
        absolute(".")


@pytest.mark.skipif(os.name == "nt", reason="it is a path of this machine there")
@pytest.mark.parametrize("path", [
    r"D:\downloads", "d:/downloads", "D:downloads", "c:", r"\\server\share", r"\data\out", r"downloads\ct", r".\out",
])  # fmt: skip
def test_a_path_of_windows_is_refused_elsewhere(
    nothing_configured: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Instead of creating a directory or a log file of that name, unless there is one."""
    for check in (absolute, local_output):
        with pytest.raises(UnreadableInputError, match="a path of Windows"):
            check(path)
    assert main(["query", "--log-file", path, "--remote", "unknown"]) == 2
    assert "The log file has a path of Windows" in capsys.readouterr().err
    assert not list(nothing_configured.iterdir())
    (nothing_configured / path).mkdir(parents=True)
    assert local_output(path) == str(nothing_configured / path)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_an_empty_path_is_not_the_current_directory(
    nothing_configured: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a variable of a script that is not set. ``send "$DIR"`` would send whatever is here."""
    (nothing_configured / "x").touch()
    for argv in (
        ["send", path],
        ["send", "x", path],
        ["send-file", "--file", path],
        ["send-dir", "--dir", path],
        ["send-dir", "--dir", path, "--dry-run"],
        ["retrieve", "--study-uid", "1.2.3", "--output-dir", path],
    ):
        assert main(argv) == 2
        assert "Name a file or directory." in capsys.readouterr().err


def test_a_name_may_begin_with_a_tilde(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the home of a user only where there is such a user."""
    (tmp_path / "~backup.dcm").touch()
    assert local_file("~backup.dcm") == str(tmp_path / "~backup.dcm")
    assert absolute("~/a") == str(Path.home() / "a")
    assert main(["query", "--batch", "~none.csv"]) == 2
    assert "This file cannot be read (No such file" in capsys.readouterr().err
    assert main(["query", "--patient-id", "@~none"]) == 2
    assert "cannot be read (No such file" in capsys.readouterr().err


def test_paths_are_absolute_and_local_ones_exist(tmp_path: Path) -> None:
    """The worker has another current directory."""
    (tmp_path / "file").touch()
    assert absolute("a/../file") == str(tmp_path / "file")
    assert local_file("file") == str(tmp_path / "file")
    assert local_directory(".") == str(tmp_path)
    assert local_output("new/below") == str(tmp_path / "new" / "below")
    for wrong, check in (("none", local_file), (".", local_file), ("none", local_directory), ("file", local_directory)):
        with pytest.raises(UnreadableInputError):
            check(wrong)
    with pytest.raises(UnreadableInputError, match="a file, not a directory"):
        local_output("file/below")


@pytest.mark.parametrize(
    ("typed", "meant"), [("-", "P4711"), ("@{file}", "张^三"), ("@@x", "@x"), ("P*", "P*"), ("", "")]
)
def test_patient_data_may_come_from_stdin_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
) -> None:
    """So no list of processes shows it. Windows writes such a line."""
    (tmp_path / "file").write_text("\n张^三\n", encoding="utf-8")
    value = typed.replace("{file}", str(tmp_path / "file"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfP4711\r\n")))
    assert CRITERION.convert(value, None, None) == meant
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"P4711")))
    assert Key().convert(f"PatientName={value}", None, None) == ("PatientName", meant)


@pytest.mark.parametrize("value", ["P1\x1b[2J", "P1\n", "P\t1", "P\x7f", "P\x9b"])
def test_patient_data_has_no_control_characters(value: str, tmp_path: Path) -> None:
    """As in a batch: no PACS matches them, and they steer terminals."""
    (tmp_path / "file").write_text(f"x{value}x".replace("\n", "\x1b"), encoding="utf-8")
    for typed in (value, f"@{tmp_path / 'file'}"):
        for option, text in ((CRITERION, typed), (Key(), f"PatientName={typed}")):
            with pytest.raises(click.BadParameter, match="another control character"):
                option.convert(text, None, None)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "0 lines"), (b"a\nb\n", "2 lines"), (b"\xff", "not UTF-8"), (None, "No such file")]
)
def test_a_file_without_one_value_is_wrong_usage(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Its contents are not in the message."""
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    for option in (CRITERION, PATIENT_ID):
        with pytest.raises(click.BadParameter, match=said):
            option.convert(f"@{tmp_path / 'file'}", None, None)


@pytest.mark.parametrize(
    ("typed", "seconds"), [("30d", 2_592_000), ("2w", 1_209_600), ("12H", 43_200), ("90m", 5400), ("0s", 0)]
)
def test_an_age_has_a_unit(typed: str, seconds: float) -> None:
    assert Age().convert(typed, None, None) == seconds


@pytest.mark.parametrize("typed", ["30", "d", "-1d", "1.5h", "1 year", ""])
def test_an_age_without_a_unit_is_wrong_usage(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="Write a number with its unit"):
        Age().convert(typed, None, None)
