"""Matches that contradict the query: remotes need not match optional keys (PS3.4 section C.2.2.1.3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.outcome import Category, FindOutcome
from pacs_tasks.request import FindRequest, QueryModel
from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, peers, worklists
from tests.support.queries import find
from tests.support.sending import store

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)
STATION = "ScheduledProcedureStepSequence.ScheduledStationName"


def _files(directory: Path) -> list[Path]:
    """A study of CT and one of MR."""
    paths = []
    for number, (modality, sop_class) in enumerate((("CT", CTImageStorage), ("MR", MRImageStorage)), 1):
        ds = dicom_files.instance(number, study=number, patient_id=f"P{number}", sop_class_uid=sop_class)
        ds.Modality = modality
        paths.append(dicom_files.write(ds, directory / f"{modality}.dcm"))
    return paths


def _find(remote: RemoteAE, *, strict: bool = False, **keys: str) -> FindOutcome:
    return find(FindRequest(remote=remote, keys=keys, strict=strict), LOCAL, PATIENT)


def _ids(outcome: FindOutcome) -> list[str]:
    return sorted(match["00100020"]["Value"][0] for match in outcome.matches)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (Faults(ignored_keys=["ModalitiesInStudy"]), "ignored ModalitiesInStudy: 1 of 2 matches have another value"),
        (
            Faults(ignored_keys=["ModalitiesInStudy"], omitted_keys=["ModalitiesInStudy"]),
            "2 of 2 matches have no value",
        ),
        (Faults(pending_status=0xFF01), "does not support some keys (FF01), and may have ignored ModalitiesInStudy"),
    ],
    ids=["different", "absent", "FF01"],
)
def test_a_key_that_the_remote_ignored_is_named(faults: Faults, said: str, tmp_path: Path) -> None:
    """The matches are kept, with a remark that names the key."""
    with TestPACS(instances=_files(tmp_path), faults=faults) as pacs:
        outcome = _find(pacs.remote, ModalitiesInStudy="MR", PatientName="*")
    assert (outcome.category, outcome.keys_unmatched) == (Category.SUCCESS, ("ModalitiesInStudy",))
    assert said in outcome.remarks[0]
    assert "P2" in _ids(outcome)


@pytest.mark.parametrize("split_dates", [False, True])
def test_strict_filters_here(split_dates: bool, tmp_path: Path) -> None:
    """Only what has the value is left, the limit counts only those, and the remark remains."""
    with TestPACS(instances=_files(tmp_path), faults=Faults(ignored_keys=["ModalitiesInStudy"])) as pacs:
        keys = {"ModalitiesInStudy": "MR"}
        request = FindRequest(remote=pacs.remote, keys=keys, strict=True, limit=1, split_dates=split_dates)
        outcome = find(request, LOCAL, PATIENT)
    assert (_ids(outcome), outcome.limit_hit, outcome.keys_unmatched) == (["P2"], False, ("ModalitiesInStudy",))


@pytest.mark.dcmtk
def test_dcmqrscp_lists_ct_for_mr(tmp_path: Path) -> None:
    """It matches no optional keys: its matches come with a remark, and ``strict`` leaves out what is not proven."""
    files = _files(tmp_path)
    with peers.dcmqrscp(tmp_path) as archive:
        [(proposed, batch)] = contexts_for([part10.read_instance(str(path)) for path in files])
        with Association.open(LOCAL, archive.remote, proposed, PATIENT) as assoc:
            for instance in batch:
                store(assoc, instance)
        outcome = _find(archive.remote, ModalitiesInStudy="MR")
        strict = _find(archive.remote, ModalitiesInStudy="MR", strict=True)
    assert outcome.keys_unmatched == ("ModalitiesInStudy",)
    assert "ignored ModalitiesInStudy" in outcome.remarks[0]
    assert (_ids(outcome), _ids(strict)) == (["P1", "P2"], [])


@pytest.mark.dcmtk
def test_a_worklist_that_ignores_the_station(tmp_path: Path) -> None:
    """wlmscpfs does not match Scheduled Station Name, which lies within a sequence."""
    with peers.wlmscpfs(tmp_path) as peer:
        worklists.fill(peer.directory, worklists.scheduled(1), worklists.scheduled(2))
        outcomes = [
            find(
                FindRequest(
                    remote=peer.remote,
                    query_model=QueryModel.WORKLIST,
                    keys={"ScheduledStationName": "ROOM2"},
                    strict=strict,
                ),
                LOCAL,
                PATIENT,
            )
            for strict in (False, True)
        ]
    assert [_ids(outcome) for outcome in outcomes] == [["P1", "P2"], ["P2"]]
    assert {outcome.keys_unmatched for outcome in outcomes} == {(STATION,)}
