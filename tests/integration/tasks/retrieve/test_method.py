"""`auto` remembers the methods that a PACS refuses, and reports the method of each study."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest, TransferOutcome
from pacs_tasks.connection import connect
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.ledger.keys import Marks
from pacs_tasks.settings import load
from pacs_tasks.tasks.retrieve.fetch import REFUSED_FOR, Method, get_of, move_to, refusals_of
from pacs_tasks.testing import Faults, TestPACS
from tests.integration.conftest import Receiver
from tests.support.dicom_files import study_uid
from tests.support.waiting import wait_until

CT = "1.2.840.10008.5.1.4.1.1.2"
#: In the Patient Root and the Study Root model.
C_GET = "1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"
INSTANCES = 4
pytestmark = pytest.mark.holds((1, 1, INSTANCES))

Retrieve = Callable[..., TransferOutcome]


@pytest.fixture
def retrieve(client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path) -> Retrieve:
    """Retrieve the study into a directory of its own; return the outcome."""

    def retrieved(name: str, **options: object) -> TransferOutcome:
        fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(tmp_path / name)}
        job = client.enqueue(RetrieveRequest.model_validate({**fields, "move_aet": receiver.ae_title, **options}))
        job.wait(40)
        outcome = job.outcome()
        assert isinstance(outcome, TransferOutcome)
        return outcome

    return retrieved


@pytest.fixture
def ways(client: PacsClient, archive: TestPACS) -> Marks:
    """The remembered refusals of the archive."""
    return refusals_of(client.ledger.client, name_of(archive.remote), load().ae_title)


def asked(archive: TestPACS) -> int:
    """How many C-MOVE and C-GET requests it has had: unlike queries, they name no character set."""
    return sum("SpecificCharacterSet" not in each for each in archive.identifiers)


def test_an_unknown_receiver_is_asked_for_once(retrieve: Retrieve, archive: TestPACS, ways: Marks) -> None:
    """The next part of any job uses C-GET at once; the outcome names the method and the reason."""
    archive.destinations = {}
    first = retrieve("one")
    assert (first.category, first.studies[0].ways) == (Category.SUCCESS, ("C-GET",))
    assert "does not know the move destination RECEIVER (A801)" in first.studies[0].reason
    assert list(ways.live()) == [move_to("RECEIVER")]
    assert asked(archive) == 2
    second = retrieve("two")
    assert (second.category, second.studies[0].ways) == (Category.SUCCESS, ("C-GET",))
    assert "A801" in second.studies[0].reason
    assert asked(archive) == 3


def test_unable_to_process_before_anything_is_an_unknown_receiver(retrieve: Retrieve, archive: TestPACS) -> None:
    """C000 without a sub-operation, as Orthanc says it: C-GET follows in the same attempt, the reason is named once."""
    archive.destinations, archive.faults = {}, Faults(unknown_destination_status=0xC000)
    outcome = retrieve("one")
    assert (outcome.category, outcome.studies[0].ways) == (Category.SUCCESS, ("C-GET",))
    assert "probably does not know the move destination RECEIVER (C000)" in outcome.studies[0].reason
    assert asked(archive) == 2
    alone = retrieve("two", method="move")
    [reason] = {each.reason for each in alone.problems}
    assert "C000" in reason
    assert "probably does not know the move destination 'RECEIVER'" in reason


def test_a_way_that_works_again_is_not_refused_any_more(
    retrieve: Retrieve, archive: TestPACS, receiver: Receiver, ways: Marks
) -> None:
    """Here a job that names the method finds out."""
    archive.destinations = {}
    retrieve("one")
    archive.destinations = {receiver.ae_title: ("127.0.0.1", receiver.port)}
    assert retrieve("two").studies[0].ways == ("C-GET",)
    assert retrieve("three", method=RetrieveMethod.MOVE)
    assert not ways.live()
    assert retrieve("four").studies[0].ways == ("C-MOVE",)


@pytest.mark.parametrize("refused", [C_GET, (CT,)])
def test_what_is_missing_comes_by_c_move_where_c_get_is_refused(
    retrieve: Retrieve, archive: TestPACS, ways: Marks, refused: tuple[str, ...]
) -> None:
    """It is refused as a service, or for the SOP class of the instances."""
    archive.faults = Faults(drop_every=2, refused_sop_classes=refused)
    outcome = retrieve("out")
    assert (outcome.category, outcome.studies[0].ways) == (Category.SUCCESS, ("C-MOVE",))
    assert list(ways.live()) == [Method.GET.value if refused == C_GET else get_of(CT)]


def test_what_is_missing_comes_by_c_get_first(retrieve: Retrieve, archive: TestPACS) -> None:
    """The study has come by both methods then."""
    archive.faults = Faults(drop_every=2)
    outcome = retrieve("out")
    assert (outcome.category, outcome.studies[0].ways) == (Category.SUCCESS, ("C-GET", "C-MOVE"))


@pytest.mark.parametrize("method", [RetrieveMethod.MOVE, RetrieveMethod.GET])
def test_a_way_that_is_named_is_the_only_one(retrieve: Retrieve, archive: TestPACS, method: RetrieveMethod) -> None:
    """Missing instances come by it too."""
    archive.faults = Faults(drop_every=2)
    outcome = retrieve("out", method=method)
    assert (outcome.category, outcome.studies[0].ways) == (Category.SUCCESS, (f"C-{method.value.upper()}",))


def test_without_any_way_both_reasons_are_told(retrieve: Retrieve, archive: TestPACS) -> None:
    """With the remedy. A remembered refusal excludes no method for good."""
    archive.destinations, archive.faults = {}, Faults(refused_sop_classes=C_GET)
    for name in ("one", "two"):
        outcome = retrieve(name)
        assert outcome.category is Category.FAILED
        (reason,) = {each.reason for each in outcome.problems}
        assert "for C-MOVE, it does not know the move destination RECEIVER (A801)" in reason
        assert "for C-GET, it does not offer C-GET" in reason
        assert "Ask its administrator to add RECEIVER" in reason
    archive.faults = Faults()
    assert retrieve("three").category is Category.SUCCESS


def test_no_receiver_is_not_remembered(retrieve: Retrieve, archive: TestPACS, ways: Marks) -> None:
    """Looking for a receiver costs little."""
    outcome = retrieve("one", move_aet="NOBODY")
    assert (outcome.category, outcome.studies[0].ways) == (Category.SUCCESS, ("C-GET",))
    assert "no receiver NOBODY is running" in outcome.studies[0].reason
    assert not ways.live()
    archive.faults = Faults(refused_sop_classes=C_GET)
    lost = retrieve("two", move_aet="NOBODY")
    assert {"no receiver NOBODY is running" in each.reason for each in lost.problems} == {True}
    assert {"Start a receiver" in each.reason for each in lost.problems} == {True}


def test_a_refusal_is_forgotten_after_an_hour(redis_url: str) -> None:
    """The administrator of a PACS may allow the method meanwhile. Refusals belong to one calling AE title."""
    with ExitStack() as stack:
        client = connect(redis_url, 5)
        stack.callback(client.close)
        ways = refusals_of(client, "ARCHIVE at 10.0.0.1:104", "ME")
        ways.renew([Method.MOVE.value, get_of(CT)], REFUSED_FOR, "it does not; not at all")
        assert ways.live() == {"C-MOVE": "it does not; not at all", get_of(CT): "it does not; not at all"}
        assert not refusals_of(client, "ARCHIVE at 10.0.0.1:104", "YOU").live()
        ((name, lifetime),) = [(each, client.ttl(each)) for each in client.scan_iter("pacs_tasks:ways:*")]
        assert 0 < lifetime <= REFUSED_FOR
        noted, _, why = str(client.hget(name, "C-MOVE")).partition(" ")
        client.hset(name, "C-MOVE", f"{int(noted) - REFUSED_FOR} {why}")
        assert list(ways.live()) == [get_of(CT)]
        ways.remove([get_of(CT)])
        wait_until(lambda: not ways.live())
        assert not list(client.scan_iter("pacs_tasks:ways:*"))
