"""Lines of a manifest keep their form in Redis, whichever version wrote them."""

from __future__ import annotations

import pytest

from pacs_tasks.ledger.manifest import CountedLine, FileLine, InstanceLine, Line, RowLine, SelectionLine, decode, encode


@pytest.mark.parametrize(
    ("line", "text", "subject"),
    [
        (FileLine("/data/3 of 12", 10), '["/data/3 of 12",10]', "/data/3 of 12"),
        (FileLine("/data/\udcff", 0), '["/data/\\udcff",0]', "/data/\udcff"),
        (RowLine(7, {"PatientID": "P1"}), '["row 7",7,{"PatientID":"P1"}]', "row 7"),
        (InstanceLine("1.2.3", "1.2", "", "1"), '["1.2.3","1.2","","1"]', "1.2.3"),
        (InstanceLine("1.2.3", "1.2", "1.4", "1", "1.5\\1.6"), '["1.2.3","1.2","1.4","1","1.5\\\\1.6"]', "1.2.3"),
        (CountedLine(3, 12, "1.2", "1"), '["3 of 12","1.2","","1"]', "3 of 12"),
        (SelectionLine("row 4", ""), '["row 4","","",""]', "row 4"),
        (SelectionLine("selection 2", "1"), '["selection 2","","","1"]', "selection 2"),
    ],
)
def test_a_line_is_read_as_it_was_written(line: Line, text: str, subject: str) -> None:
    assert (encode(line), decode(text), line.subject) == (text, line, subject)


def test_what_is_no_line_is_not_read_as_one() -> None:
    """A manifest of a later version fails its job rather than sending something else."""
    with pytest.raises(ValueError, match="not a line"):
        decode("[1]")
