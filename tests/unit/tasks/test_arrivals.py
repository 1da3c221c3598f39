"""What a remote sends beyond its promise, and again with other content, is kept, but not without end."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.scp import c_store
from pacs_tasks.dimse.scp.admission import Sparing
from pacs_tasks.dimse.scp.c_store import Sender
from pacs_tasks.errors import AssociationError
from pacs_tasks.layout import Layout
from pacs_tasks.ledger.manifest import InstanceLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.tasks.retrieve import arrivals

PROMISED = "1.2.3.4"


def came(uid: str, reason: str = "") -> InstanceOutcome:
    return InstanceOutcome(
        subject=uid, category=InstanceCategory.SUCCESS, sop_instance_uid=uid, path=f"/{uid}", reason=reason
    )


@pytest.mark.parametrize("kind", ["other instances", "other content"])
def test_what_nobody_promised_ends(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit is ten thousand; here it is five. The log gets one line at most."""
    monkeypatch.setattr(arrivals, "MOST_UNREQUESTED", 5)
    part = SimpleNamespace(left={0: InstanceLine(PROMISED, "1.2.3", "", "1.2", "")}, job_id="J")
    found = arrivals.Arrivals(cast("Any", part), tmp_path, Layout(), RemoteAE(ae_title="PACS"))
    found.whole = True
    found.add(came(PROMISED))
    each = [came(f"1.2.3.9.{number}") for number in range(6)]
    if kind == "other content":
        each = [came(PROMISED, "It was kept although an older file with other content had its name.")] * 6
    for outcome in each[:5]:
        found.add(outcome)
    assert found.so_far().complete
    found.add(each[5])
    with pytest.raises(AssociationError, match="more than 5 instances beyond those that it had listed"):
        found.so_far()
    assert found.complete
    assert len(caplog.records) <= 1


def test_a_sender_does_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever sends thousands of malformed instances gets a few lines, and another sender lines of its own."""
    monkeypatch.setattr(c_store, "_sparing", Sparing(logging.getLogger("pacs_tasks.test")))
    origins = [c_store.Origin(tmp_path, f"X{n}", f"X{n}", sender=Sender("192.0.2.1", f"X{n}")) for n in range(1_000)]
    for origin in [*origins, c_store.Origin(tmp_path, "Y", "Y", sender=Sender("192.0.2.2", "Y"))]:
        origin.warning("An instance from %s was refused.")
    assert len(caplog.records) < 20
    assert caplog.messages[-1] == "An instance from Y was refused."
