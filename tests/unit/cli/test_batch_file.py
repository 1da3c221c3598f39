"""CSV files as people export them from a spreadsheet."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.datadict import keyword_dict

from pacs_tasks.cli.input import batch_file
from pacs_tasks.cli.input.batch_file import Row, read
from pacs_tasks.errors import InvalidRequestError, PacsTasksError, UnreadableInputError

FEW = ("StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "PatientID")
NAME = "王^小明"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "Secret Patients.csv"


def test_each_row_has_its_line_and_the_cells_that_are_not_empty(path: Path) -> None:
    """Columns have the names of the data dictionary, and empty lines are left out."""
    path.write_text("patientid, StudyDate ,MODALITY\nP1,20230101,\n\n,,\n P2 ,,CT,,\n")
    assert read(str(path), keyword_dict) == [
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
    assert read(str(path), keyword_dict) == [Row(2, {"PatientID": "P1", "PatientName": NAME})]


def test_a_cell_in_quotation_marks_may_hold_the_separator(path: Path) -> None:
    """And quotation marks, doubled."""
    path.write_text('PatientID,StudyDescription\nP1,"Head, ""axial"""\n')
    assert read(str(path), keyword_dict)[0].values["StudyDescription"] == 'Head, "axial"'


def test_a_single_column_needs_no_separator(path: Path) -> None:
    path.write_text("\n\nAccessionNumber\nA1\nA2")
    assert read(str(path), FEW) == [Row(4, {"AccessionNumber": "A1"}), Row(5, {"AccessionNumber": "A2"})]


def test_a_file_that_can_be_read_once_is_read(path: Path, tmp_path: Path) -> None:
    """Such as the shell's `<(...)`, whose size is not known in advance."""
    path.write_text("PatientID\nP1\n")
    with path.open("rb") as file:
        assert read(f"/dev/fd/{file.fileno()}", FEW) == [Row(2, {"PatientID": "P1"})]


class Attributes(tuple[str, ...]):
    """Keywords, and any tag."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).isdecimal()


def test_what_is_known_without_being_listed_is_taken_as_it_stands(path: Path) -> None:
    """Such as tags."""
    path.write_text("00100010,patientid\nX,P1\n")
    assert read(str(path), Attributes(FEW)) == [Row(2, {"00100010": "X", "PatientID": "P1"})]


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
    assert len(read(str(path), FEW)) == 3
    path.write_text("PatientID\n1\n2\n\n3\n4\n")
    with pytest.raises(InvalidRequestError, match=r"more than 3 rows\. Split it"):
        read(str(path), FEW)
