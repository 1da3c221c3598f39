"""CSV files as people export them from a spreadsheet."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.datadict import keyword_dict

from pacs_tasks.cli.commands.transfer import COLUMNS
from pacs_tasks.cli.input import batch_file
from pacs_tasks.cli.input.batch_file import Row, read, selections
from pacs_tasks.cli.output.sheet import csv_lines
from pacs_tasks.errors import InvalidRequestError, PacsTasksError, UnreadableInputError
from pacs_tasks.request import Selection

FEW = ("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "PatientID")
NAME = "王^小明"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "Secret Patients.csv"


def test_each_row_has_its_line_and_the_cells_that_are_not_empty(path: Path) -> None:
    """Columns have the names of the data dictionary, and empty lines are left out."""
    path.write_text("patientid, StudyDate ,MODALITY\nP1,20230101,\n\n,,\n P2 ,,CT,,\n")
    assert read(str(path), keyword_dict).rows == [
        Row(2, {"PatientID": "P1", "StudyDate": "20230101"}),
        Row(5, {"PatientID": "P2", "Modality": "CT"}),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_what_spreadsheets_write_is_read(path: Path, encoding: str, separator: str, ending: str) -> None:
    """In every encoding, with every separator and line ending that they use."""
    lines = ["PatientID", "P1"], ["PatientName", NAME]
    text = ending.join(separator.join(cells) for cells in zip(*lines, strict=True)) + ending
    path.write_bytes(text.encode(encoding))
    assert read(str(path), keyword_dict).rows == [Row(2, {"PatientID": "P1", "PatientName": NAME})]


def test_a_cell_in_quotation_marks_may_hold_the_separator(path: Path) -> None:
    """And quotation marks, doubled."""
    path.write_text('PatientID,StudyDescription\nP1,"Head, ""axial"""\n')
    assert read(str(path), keyword_dict).rows[0].values["StudyDescription"] == 'Head, "axial"'


def test_a_single_column_needs_no_separator(path: Path) -> None:
    path.write_text("\n\nAccessionNumber\nA1\nA2")
    assert read(str(path), FEW).rows == [Row(4, {"AccessionNumber": "A1"}), Row(5, {"AccessionNumber": "A2"})]


def test_a_file_that_can_be_read_once_is_read(path: Path, tmp_path: Path) -> None:
    """Such as the shell's `<(...)`, whose size is not known in advance."""
    path.write_text("PatientID\nP1\n")
    with path.open("rb") as file:
        assert read(f"/dev/fd/{file.fileno()}", FEW).rows == [Row(2, {"PatientID": "P1"})]


def test_what_is_known_without_being_listed_is_taken_as_it_stands(path: Path) -> None:
    """Such as tags."""
    path.write_text("00100010,patientid\nX,P1\n")
    assert read(str(path), FEW, lambda name: name if name.isdecimal() else None).rows == [
        Row(2, {"00100010": "X", "PatientID": "P1"})
    ]


def broken_files() -> Iterator[tuple[str, bytes, str]]:
    yield "empty", b"", r"file is empty\. Name the columns in its first line"
    yield "mark alone", codecs.BOM_UTF8, r"file is empty"
    yield "blank lines", b"\n ,\r\n", r"file is empty"
    yield "no rows", b"PatientID\n\n", r"no row below the names"
    yield "near miss", b"PatientID,PatientNam\nP1,X\n", r"column 2 is not known. Did you mean PatientName or "
    yield "nothing near", b"Geburtstag\nX\n", r"column 1 is not known. Name columns in the first line, such as "
    yield "no header", b"P1,20230101\nP2,20230102\n", r"column 1 is not known. Name columns in the first line"
    yield "twice", b"PatientID,StudyDate,patientid\nP1,,\n", r"Column 3 has the name of column 1"
    yield "nameless", b"PatientID,,StudyDate\nP1,,\n", r"Column 2 has no name"
    yield "too many cells", b"PatientID\n\nP1\nP2,20230101\n", r"Line 4 has 2 cells, but the first line names 1 column"
    yield "open quotation", b'PatientID\nP1\n"P2\nP3\n', r"Line 3 is not a row of a CSV file .* quotation mark"
    yield "odd quotation", b'PatientID,StudyDate\n"P1"x,\n', r"Line 2 is not a row of a CSV file"
    yield "line break", b'PatientID,StudyDate\n,"2023\n0101"\n', r"Line 2 has a line break .* in cell 2"
    yield "spreadsheet", b"PK\3\4\0\0\0\0\x08\0", r"not text. Save it as CSV"
    yield "neither", b"PatientID\n\xff\xff\xff\n", r"not text. Save it as CSV"


@pytest.mark.parametrize(("content", "told"), [each[1:] for each in broken_files()], ids=[e[0] for e in broken_files()])
def test_a_broken_file_is_refused_in_one_sentence(path: Path, content: bytes, told: str) -> None:
    """The message names the line. It goes to logs, so it holds neither the path nor the content of a cell."""
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=told) as raised:
        read(str(path), keyword_dict)
    error = raised.value
    assert str(path) in error.subject
    assert not any(private in error.message for private in ("Secret", "P1", "P2", "2023", "Geburtstag", "PatientNam "))
    assert "\n" not in str(error)


def test_the_columns_of_a_short_list_are_all_offered(path: Path) -> None:
    path.write_text("Kohl\nX\n")
    with pytest.raises(InvalidRequestError, match="such as AccessionNumber, PatientID, SeriesInstanceUID, StudyI"):
        read(str(path), FEW)


def unreadable(path: str) -> PacsTasksError:
    with pytest.raises(UnreadableInputError) as raised:
        read(path, FEW)
    return raised.value


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert unreadable(str(tmp_path / "none.csv")).message.startswith("This file cannot be read (No such file")
    assert unreadable(str(tmp_path)).message.startswith("This file cannot be read (Is a directory")
    assert unreadable("a\0b").message.startswith("This file cannot be read (not a possible name")


def test_a_file_without_an_end_is_too_large() -> None:
    """It is not read to its end."""
    assert "MB. Split it" in unreadable("/dev/zero").message


def test_a_job_has_a_limit_of_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "MOST_ROWS", 3)
    path.write_text("PatientID\n1\n2\n\n3\n")
    assert len(read(str(path), FEW).rows) == 3
    path.write_text("PatientID\n1\n2\n\n3\n4\n")
    with pytest.raises(InvalidRequestError, match=r"more than 3 rows\. Split it"):
        read(str(path), FEW)


#: A file as `query --format csv` writes it.
ANSWER = """row,PatientID,PatientName,StudyDate,ModalitiesInStudy,AccessionNumber,NumberOfStudyRelatedInstances,\
ScheduledProcedureStepSequence.Modality,StudyInstanceUID
2,P1,Zhang^San,20230101,CT\\SR,LONGER THAN SIXTEEN CHARACTERS,7,CT,1.2.3
3,P2,,,,A2,,,1.2.4
"""


def test_the_answer_of_a_query_selects_its_studies(path: Path) -> None:
    """By their UIDs alone; what is needed for nothing is named once."""
    path.write_text(ANSWER)
    found, spare = selections(str(path), COLUMNS, ("AccessionNumber", "PatientID"))
    assert found == (Selection(study_uid="1.2.3", row=2), Selection(study_uid="1.2.4", row=3))
    assert spare[:3] == ["row", "PatientName", "StudyDate"]
    assert not {"PatientID", "AccessionNumber"} & set(spare)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"{ANSWER}4,P3,,,,,,,\n", "Line 4 has no StudyInstanceUID"),
        (
            "SeriesNumber,StudyInstanceUID,SeriesInstanceUID\n1,1.2.3,1.2.3.1\n2,1.2.3,\n",
            "Line 3 has no SeriesInstance",
        ),
        ("Rows,StudyInstanceUID,SOPInstanceUID\n1,1.2.3,\n", "Line 2 has no SOPInstanceUID"),
    ],
)
def test_a_row_of_an_answer_without_its_uid_is_refused(path: Path, content: str, told: str) -> None:
    """It would select every study of the patient, or the whole study of a series."""
    path.write_text(content)
    with pytest.raises(InvalidRequestError, match=told):
        selections(str(path), COLUMNS, ("AccessionNumber", "PatientID"))


def test_the_answer_about_patients_selects_all_of_their_studies(path: Path) -> None:
    """It has no column of studies."""
    path.write_text("PatientID,PatientName\nP1,Zhang^San\n")
    found, _ = selections(str(path), COLUMNS, ("AccessionNumber", "PatientID"))
    assert found == (Selection(patient_id="P1", row=2),)


@pytest.mark.parametrize("value", ["-123", "=A1", "+1", "@x", "'x", "\uff0d1", "'=1", "A;=1;'+2", "\u200b=1"])
def test_what_was_written_for_a_spreadsheet_is_read_as_it_was(path: Path, value: str) -> None:
    """Without the apostrophe before a formula, and with any other."""
    path.write_text(csv_lines([["PatientID"], [value]], excel=True), encoding="utf-8-sig")
    assert read(str(path), FEW).rows == [Row(2, {"PatientID": value})]


def test_a_column_beside_a_study_counts_in_a_file_of_selections(path: Path) -> None:
    path.write_text("StudyInstanceUID,AccessionNumber\n1.2.3,A1\n")
    found, spare = selections(str(path), COLUMNS, ("AccessionNumber", "PatientID"))
    assert (found, spare) == ((Selection(study_uid="1.2.3", accession_number="A1", row=2),), [])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("StudyInstanceUIDs,PatientName\n1.2,X\n", "Did you mean StudyInstanceUID"),
        ("AcessionNumber,StudyInstanceUID\nA1,1.2\n", "Did you mean AccessionNumber"),
        ("PatientName,StudyDate\nX,20230101\n", "No column names what to retrieve"),
        ("1.2.3\n1.2.4\n", "No column names what to retrieve"),
    ],
)
def test_a_misspelt_column_is_not_ignored(path: Path, content: str, told: str) -> None:
    path.write_text(content)
    with pytest.raises(InvalidRequestError, match=told):
        selections(str(path), COLUMNS)


def test_a_wrong_cell_is_named_as_it_was_typed_and_not_in_the_log(path: Path) -> None:
    path.write_text("StudyInstanceUID\n1.2.x\n")
    with pytest.raises(InvalidRequestError, match="Line 2 is not valid") as raised:
        selections(str(path), COLUMNS)
    assert "StudyInstanceUID '1.2.x'" in raised.value.subject
    assert "1.2.x" not in raised.value.message
