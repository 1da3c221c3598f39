"""Categories and meanings of statuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pacs_tasks.dimse import status
from pacs_tasks.outcome import Status, StatusCategory

SUCCESS, PENDING, CANCEL = StatusCategory.SUCCESS, StatusCategory.PENDING, StatusCategory.CANCEL
WARNING, TRANSIENT, PERMANENT = StatusCategory.WARNING, StatusCategory.TRANSIENT, StatusCategory.PERMANENT


@pytest.mark.parametrize(
    ("code", "category"),
    [
        *((0x0000, SUCCESS), (0xB000, WARNING), (0xB006, WARNING), (0xB007, WARNING), (0xB123, WARNING)),
        *((0x0001, WARNING), (0x0107, WARNING), (0x0116, WARNING), (0x0111, PERMANENT)),
        *((0xA700, TRANSIENT), (0xA7FF, TRANSIENT), (0x0213, TRANSIENT), (0xA900, PERMANENT), (0xA9FF, PERMANENT)),
        *((0xC000, PERMANENT), (0xCFFF, PERMANENT), (0x0122, PERMANENT), (0x0110, PERMANENT), (0x0124, PERMANENT)),
        *((0x1234, PERMANENT), (0xFFFF, PERMANENT), (0xFF00, PERMANENT), (0xFE00, PERMANENT)),
    ],
)
def test_classes_of_a_store_status(code: int, category: StatusCategory) -> None:
    """C-STORE statuses have the categories of PS3.4 table B.2-1; undefined ones are failures."""
    assert status.store_status(code).category is category


@pytest.mark.parametrize("service", [status.find_status, status.move_status, status.get_status])
@pytest.mark.parametrize(
    ("code", "category"),
    [(0, SUCCESS), (0xFF00, PENDING), (0xFE00, CANCEL), (0xA700, TRANSIENT), (0xA900, PERMANENT), (0xC123, PERMANENT)],
)
def test_classes_that_query_and_retrieve_share(
    service: Callable[[int], Status], code: int, category: StatusCategory
) -> None:
    """C-FIND, C-MOVE and C-GET statuses have the categories of PS3.4 section C.4."""
    assert service(code).category is category


def test_an_unknown_destination_says_what_to_do() -> None:
    """A801 names the remedy and the alternative."""
    said = status.move_status(0xA801, "who?")
    assert said.category is PERMANENT
    assert "add this AE title" in said.meaning
    assert "--method get" in said.meaning
    assert "who?" in str(said)


def test_every_code_has_a_class_and_a_sentence() -> None:
    """Each of the 65,536 codes gives a status with a meaning, for every service."""
    for service in (status.store_status, status.find_status, status.move_status, status.get_status, status.echo_status):
        for code in range(0x10000):
            said = service(code)
            assert said.meaning
            assert (said.category is SUCCESS) == (code == 0)
