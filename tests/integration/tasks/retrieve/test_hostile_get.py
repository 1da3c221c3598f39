"""A C-GET peer that sends what nobody requested, or other content than before: nothing on disk is lost to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pacs_tasks import Category, GetOutcome, GetRequest, PacsClient, RetrieveMethod, RetrieveRequest, TransferOutcome
from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.retrieve import c_get
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.errors import AssociationError
from pacs_tasks.testing import Faults, TestPACS
from tests.integration.conftest import Receiver
from tests.support.callers import CT
from tests.support.dicom_files import UID_ROOT, data_set, instance, study_uid

pytestmark = pytest.mark.holds((1, 1, 4), (2, 1, 3))
SERIES = f"{UID_ROOT}.1.1"


def uid(study: int, number: int) -> str:
    return f"{UID_ROOT}.{study}.1.{1_000_000 + number}"


def below(directory: Path) -> dict[str, bytes]:
    return {path.name: data_set(path) for path in directory.rglob("*") if path.is_file()}


def held(archive: TestPACS, study: int) -> dict[str, bytes]:
    return {
        f"{each.sop_instance_uid}.dcm": each.data_set
        for each in archive.instances.values()
        if each.sop_instance_uid.startswith(f"{UID_ROOT}.{study}.")
    }


def retrieved(client: PacsClient, archive: TestPACS, directory: Path, **options: object) -> TransferOutcome:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory), "method": "get"}
    job = client.enqueue(RetrieveRequest.model_validate({**fields, **options}))
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def test_an_instance_of_another_study_is_refused_and_counted(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """Study 2 was retrieved before; while study 1 is retrieved the peer sends forgeries of it."""
    assert retrieved(client, archive, tmp_path, study_uid=study_uid(2)).category is Category.SUCCESS
    before = below(tmp_path)
    archive.hold(*(instance(1_000_000 + number, study=2, patient_id="FORGED") for number in (1, 2)))
    archive.faults = Faults(also_sent=[archive.instances[uid(2, number)] for number in (1, 2)])
    outcome = retrieved(client, archive, tmp_path)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 4), outcome
    assert below(tmp_path) == before | held(archive, 1)
    assert "instances that were not requested came and were refused (2)" in outcome.studies[0].reason


def test_a_plain_c_get_refuses_them_too(client: PacsClient, archive: TestPACS, tmp_path: Path) -> None:
    """Its outcome counts them, and the remote counts them as failed."""
    archive.faults = Faults(also_sent=[archive.instances[uid(2, number)] for number in (1, 2)])
    job = client.enqueue(GetRequest(remote=archive.remote, output_dir=str(tmp_path / "out"), study_uid=study_uid()))
    job.wait(30)
    outcome = job.outcome()
    assert isinstance(outcome, GetOutcome)
    assert (outcome.category, outcome.refused, len(outcome.instances)) == (Category.PARTIAL, 2, 4)
    assert outcome.suboperations.failed == 2
    assert below(tmp_path / "out") == held(archive, 1)


@pytest.mark.parametrize("also", ["another series", "another instance"])
def test_what_a_request_does_not_name_is_refused(archive: TestPACS, tmp_path: Path, also: str) -> None:
    """A request for a series or for instances is answered with these alone."""
    archive.hold(instance(7, series=2))
    other = f"{UID_ROOT}.1.2.7" if also == "another series" else uid(1, 4)
    archive.faults = Faults(also_sent=[archive.instances[other]])
    uids = () if also == "another series" else (uid(1, 1), uid(1, 2))
    request = GetRequest(
        remote=archive.remote,
        output_dir=str(tmp_path / "out"),
        study_uid=study_uid(),
        series_uid=SERIES,
        sop_instance_uids=uids,
    )
    outcome = c_get.get(request, LocalAE(ae_title="ME"), Timeouts.of(20), None, [CT])
    assert (outcome.refused, len(outcome.instances)) == (1, 2 if uids else 4)
    assert f"{other}.dcm" not in below(tmp_path / "out")


def test_a_flood_of_what_nobody_requested_ends_the_association(
    archive: TestPACS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is ten thousand; here it is five. The count is told all the same."""
    refused: list[int] = []
    monkeypatch.setattr(c_get, "MOST_UNREQUESTED", 5)
    archive.faults = Faults(also_sent=[archive.instances[uid(2, 1)]] * 9)
    request = GetRequest(remote=archive.remote, output_dir=str(tmp_path / "out"), study_uid=study_uid())
    reception = c_get.Reception(on_refused=refused.append)
    with pytest.raises(AssociationError, match="more than 5 instances by C-GET that were not requested"):
        c_get.get(request, LocalAE(ae_title="ME"), Timeouts.of(20), None, [CT], reception=reception)
    assert refused == [6]
    assert not below(tmp_path / "out")


def test_the_same_instance_again_and_again_ends_the_association(
    archive: TestPACS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as another ten thousand instances would; here five."""
    monkeypatch.setattr(c_get, "MOST_UNREQUESTED", 5)
    archive.faults = Faults(repeats_for_ever=True)
    request = GetRequest(remote=archive.remote, output_dir=str(tmp_path / "out"), study_uid=study_uid())
    with pytest.raises(AssociationError, match="the same instances again and again by C-GET"):
        c_get.get(request, LocalAE(ae_title="ME"), Timeouts.of(20), None, [CT])
    assert below(tmp_path / "out") == held(archive, 1)


@pytest.mark.parametrize("method", [RetrieveMethod.GET, RetrieveMethod.MOVE])
def test_other_content_of_the_same_instance_is_kept_with_both_digests(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path, method: RetrieveMethod
) -> None:
    """The job replaces files by request; what it replaces stays beside it, and the outcome warns."""
    options = {"method": method, "move_aet": receiver.ae_title if method is RetrieveMethod.MOVE else None}
    assert retrieved(client, archive, tmp_path / "out", **options).category is Category.SUCCESS
    before = below(tmp_path / "out")
    archive.hold(instance(1_000_002, patient_id="OTHER"))
    outcome = retrieved(client, archive, tmp_path / "out", overwrite=True, **options)
    assert (outcome.category, outcome.counters.success, outcome.counters.warning) == (Category.WARNING, 3, 1)
    name = f"{uid(1, 2)}.dcm"
    assert below(tmp_path / "out") == held(archive, 1) | {f"{name}.1": before[name]}
    digests = [hashlib.sha256(each).hexdigest() for each in (held(archive, 1)[name], before[name])]
    (problem,) = outcome.problems
    assert "new {}, older {}".format(*digests) in problem.reason
    assert "is kept with .1 added" in problem.reason


@pytest.mark.parametrize("method", [RetrieveMethod.GET, RetrieveMethod.MOVE])
def test_what_comes_twice_with_other_content_is_kept_twice(
    client: PacsClient, archive: TestPACS, receiver: Receiver, tmp_path: Path, method: RetrieveMethod
) -> None:
    """Within one job: the second has the name, the first is beside it, and the outcome says so."""
    name = f"{uid(1, 2)}.dcm"
    first = archive.instances[uid(1, 2)]
    archive.hold(instance(1_000_002, patient_id="OTHER"))
    archive.faults = Faults(also_sent=[first])
    options = {"method": method, "move_aet": receiver.ae_title if method is RetrieveMethod.MOVE else None}
    outcome = retrieved(client, archive, tmp_path / "out", **options)
    assert outcome, outcome
    assert below(tmp_path / "out") == held(archive, 1) | {f"{name}.1": first.data_set}
    (study,) = outcome.studies
    told = [study.reason, *(each.reason for each in outcome.problems)]
    assert any("other content" in each for each in told), told


def test_a_link_in_the_output_directory_is_not_written_through(
    client: PacsClient, archive: TestPACS, tmp_path: Path
) -> None:
    """The study's directory is a link to another directory."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / study_uid()).symlink_to(elsewhere)
    outcome = retrieved(client, archive, out)
    assert outcome.category is Category.FAILED
    assert not list(elsewhere.iterdir())
