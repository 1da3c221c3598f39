"""Matches that contradict the keys of a query."""

from __future__ import annotations

from typing import Any

import pytest

from pacs_tasks.dimse.find import identifier
from pacs_tasks.dimse.find.answer import KeyCheck
from pacs_tasks.request import FindRequest, QueryModel

FF00, FF01 = 0xFF00, 0xFF01
TAGS = {
    "PatientName": ("00100010", "PN"),
    "PatientID": ("00100020", "LO"),
    "StudyDate": ("00080020", "DA"),
    "StudyTime": ("00080030", "TM"),
    "ModalitiesInStudy": ("00080061", "CS"),
    "StudyInstanceUID": ("0020000D", "UI"),
    "PatientSex": ("00100040", "CS"),
    "NumberOfFrames": ("00280008", "IS"),
    "Rows": ("00280010", "US"),
    "AcquisitionDateTime": ("0008002A", "DT"),
}
#: A key, a value of VR DT, and whether the value can be meant by any reading.
MOMENTS = [
    ("20240115", "20240115093000.5", True),
    ("20240115093000", "20240115", True),
    ("2024", "20240115093000+0100", True),
    ("20240115-20240116", "20240116235959.999999", True),
    ("20240115-", "20240115", True),
    ("-20240115093000", "20240115093000", True),
    ("20240115093000+0100", "20240115083000+0000", True),
    ("20240115093000-0500", "20240115143000+0000", True),
    ("20240115093000-0500-20240115100000-0500", "20240115144500+0000", True),
    ("20240115100000", "20240115210000+0100", True),
    ("2024*", "20240115", True),
    ("20240115", "15 January", True),
    ("20240116", "20240115235959", False),
    ("20240115-20240116", "20240117", False),
    ("20240115-20240116", "20240114235959.999999", False),
    ("20240116-", "2024011523", False),
    ("-20240114", "20240115", False),
    ("2023", "20240115", False),
    ("20240115093000+0100", "20240115093000+0000", False),
    ("20240115093000-0500-20240115100000-0500", "20240115094500+0000", False),
    ("20240115093000", "20240117093000+0100", False),
]


def _check(**keys: str) -> KeyCheck:
    request = FindRequest(keys=keys)
    return KeyCheck(identifier.keys_of(request), identifier.required_keys(request))


def _match(**values: Any) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        tag, vr = TAGS[name]
        found[tag] = {"vr": vr, "Value": value if isinstance(value, list) else [value]} if value else {"vr": vr}
    return found


NAME = {"Alphabetic": "Zhang^Sanfeng", "Ideographic": "张^三丰"}


@pytest.mark.parametrize(
    ("keyword", "key", "value"),
    [
        *(
            ("PatientName", key, NAME)
            for key in ("zhang^SANFENG", "ZHANG*", "Zhang", "张*", "Zh?ng^", "*=张^三丰", "zhang s*")
        ),
        ("PatientName", "张三", {"Alphabetic": "Zhang^San", "Ideographic": "张^三"}),
        ("PatientName", "王^小明*", {"Alphabetic": "Wang^Xiaoming", "Ideographic": "王小明"}),
        ("PatientName", "MULLER*", {"Alphabetic": "Müller^Jörg"}),
        ("PatientName", "张*", {"Alphabetic": "\N{REPLACEMENT CHARACTER}^A"}),
        *(("PatientID", key, "P1") for key in ("P1", "p1", "P*", "?1", "P1 ", "P2\\P1", "", "*", '""')),
        *(("StudyDate", key, "20240115") for key in ("20240115", "2024.01.15", "20240101-", "-20240115", "2024*")),
        *(("StudyTime", key, "093000.5") for key in ("0930", "09", "0900-1000", "-0930", "093000-")),
        *(("ModalitiesInStudy", key, ["CT", "MR"]) for key in ("MR", "mr", "MR\\PT", "C*")),
        ("StudyInstanceUID", "1.2\\1.3", "1.3"),
        *(("NumberOfFrames", key, "010") for key in ("10", "10.0")),
        ("Rows", "512", 512),
    ],
)
def test_what_matches_by_any_reading_is_no_contradiction(keyword: str, key: str, value: Any) -> None:
    """Remotes differ in case, accents, padding and precision."""
    check = _check(**{keyword: key})
    assert check.holds(_match(**{keyword: value}), FF00)
    assert (check.unmatched, list(check.remarks())) == ((), [])


@pytest.mark.parametrize(
    ("keyword", "key", "value"),
    [
        ("PatientName", "LI*", NAME),
        ("PatientName", "Zhang^Wuji", NAME),
        ("PatientName", "张三", NAME),
        ("PatientID", "P1", "P10"),
        ("StudyDate", "20240101-20240114", "20240115"),
        ("StudyDate", "20240116", "20240115"),
        ("StudyTime", "1000-1100", "093000"),
        ("ModalitiesInStudy", "MR", ["CT", "PT"]),
        ("StudyInstanceUID", "1.2\\1.3", "1.33"),
        ("Rows", "512", 256),
    ],
)
def test_another_value_is_named(keyword: str, key: str, value: Any) -> None:
    """The remark has the key and the number of matches, not the values."""
    check = _check(**{keyword: key})
    assert not check.holds(_match(**{keyword: value}), FF00)
    assert check.unmatched == (keyword,)
    [remark] = check.remarks()
    assert remark == f"the PACS ignored {keyword}: 1 of 1 matches have another value"


@pytest.mark.parametrize(("key", "value", "can_be"), MOMENTS)
def test_moments_are_compared_by_any_reading(key: str, value: str, can_be: bool) -> None:
    """Precision, ranges and offsets from UTC, whose hyphens look alike; who names no offset may be anywhere."""
    check = _check(AcquisitionDateTime=key)
    assert check.holds(_match(AcquisitionDateTime=value), FF00) is can_be
    assert check.unmatched == (() if can_be else ("AcquisitionDateTime",))


def test_no_value_may_be_an_ignored_key() -> None:
    """Absent and empty are the same."""
    check = _check(ModalitiesInStudy="MR")
    held = [
        check.holds(match, FF01) for match in (_match(), _match(ModalitiesInStudy=""), _match(ModalitiesInStudy="MR"))
    ]
    assert held == [False, False, True]
    assert list(check.remarks()) == ["the PACS may have ignored ModalitiesInStudy: 2 of 3 matches have no value"]


def test_ff01_names_the_optional_keys() -> None:
    """Every remote matches the required ones, and keys without a value do not matter."""
    check = _check(PatientID="P1", PatientSex="M")
    assert check.holds(_match(PatientID="P1", PatientSex="M"), FF01)
    assert check.unmatched == ("PatientSex",)
    [remark] = check.remarks()
    assert "FF01" in remark
    plain = _check(PatientID="P1")
    assert plain.holds(_match(PatientID="P1"), FF01)
    assert not plain.unmatched


def test_a_key_within_a_sequence_is_sought_in_each_item() -> None:
    """One matching item is enough."""
    request = FindRequest(query_model=QueryModel.WORKLIST, keys={"ScheduledStationName": "ROOM1"})
    check = KeyCheck(identifier.keys_of(request), identifier.required_keys(request))
    items = [{"00400010": {"vr": "SH", "Value": [name]}} for name in ("ROOM2", "ROOM1")]
    assert check.holds({"00400100": {"vr": "SQ", "Value": items}}, FF00)
    assert not check.holds({"00400100": {"vr": "SQ", "Value": items[:1]}}, FF00)
    assert check.unmatched == ("ScheduledProcedureStepSequence.ScheduledStationName",)
