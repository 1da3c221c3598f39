"""The outcomes that nearly every instance has are written short."""

from __future__ import annotations

import pytest

from pacs_tasks.dimse.status import get_status, store_status
from pacs_tasks.ledger.keys import decode_short, encode_short
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status
from pacs_tasks.sealing import Sealing


@pytest.mark.parametrize("status", [store_status(0), get_status(0)], ids=["C-STORE", "C-GET"])
def test_a_plain_success_is_written_short(status: Status) -> None:
    """A job of 100,000 files would take ten times the memory otherwise."""
    outcome = InstanceOutcome(subject="", category=InstanceCategory.SUCCESS, status=status, size=7)
    text = encode_short(3, outcome)
    assert text is not None
    assert decode_short(text, {}, Sealing([]).of_nobody()) == (3, outcome)


def test_a_success_of_another_version_is_written_short() -> None:
    """However it words the meaning. A comment of the PACS is kept."""
    outcome = InstanceOutcome(subject="", category=InstanceCategory.SUCCESS, status=store_status(0))
    other = outcome.model_copy(update={"status": store_status(0).model_copy(update={"meaning": "done"})})
    commented = outcome.model_copy(update={"status": store_status(0, "thanks")})
    assert encode_short(3, other) == encode_short(3, outcome)
    assert encode_short(3, commented) is None
