"""The faults of TestPACS in C-FIND, C-MOVE and C-GET, as pynetdicom and DCMTK see them."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.presentation import build_role

from pacs_tasks.testing import Faults, TestPACS
from tests.support.callers import (
    CT,
    CT_CONTEXT,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    associated,
    find,
    get,
    retrieve_keys,
    series,
)
from tests.support.dicom_files import UID_ROOT, instance, study_uid
from tests.support.peers import dcmtk_environment
from tests.support.ports import free_port
from tests.support.waiting import wait_until

#: The SOP Instance UIDs of the archive, in order.
HELD = [f"{UID_ROOT}.1.1.{number}" for number in range(1, 8)]
ROLES = [build_role(CT, scp_role=True)]
PENDING, SUCCESS, CANCELLED, NOTHING_DONE = 0xFF00, 0x0000, 0xFE00, 0xA702


@pytest.fixture
def archive(pacs: TestPACS) -> Iterator[TestPACS]:
    """A PACS that holds seven instances and may deliver them to the other one."""
    destinations = {pacs.ae_title: (pacs.host, pacs.port)}
    with TestPACS("ARCHIVE", instances=series(len(HELD)), destinations=destinations) as running:
        yield running


def moved(archive: TestPACS, pacs: TestPACS, *uids: str) -> tuple[Dataset, list[str]]:
    """The final response to a C-MOVE of the study or of these instances, and the UIDs that the other PACS received."""
    before = len(pacs.stores)
    with associated(archive, (STUDY_MOVE, None)) as assoc:
        *_, (status, _) = assoc.send_c_move(instance_keys(*uids), pacs.ae_title, STUDY_MOVE)
    return status, pacs.stores[before:]


def instance_keys(*uids: str) -> Dataset:
    """The study, or instances of it."""
    keys = retrieve_keys()
    if uids:
        keys.QueryRetrieveLevel, keys.SeriesInstanceUID = "IMAGE", f"{study_uid()}.1"
        keys.SOPInstanceUID = list(uids)
    return keys


def counts(status: Dataset) -> tuple[int, int, int]:
    """Status, completed and failed sub-operations."""
    return status.Status, status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations


def test_that_it_drops_every_nth_instance_once(archive: TestPACS, pacs: TestPACS) -> None:
    """Each third instance counts as completed but does not arrive; when requested again by either method, it does."""
    archive.faults = Faults(drop_every=3)
    status, came = moved(archive, pacs)
    assert (counts(status), came) == ((SUCCESS, 7, 0), [uid for uid in HELD if uid not in {HELD[2], HELD[5]}])
    status, came = moved(archive, pacs, HELD[2], HELD[5])
    assert (counts(status), came) == ((SUCCESS, 2, 0), [HELD[2], HELD[5]])
    status, _, data_sets = get(archive, ROLES)
    assert (counts(status), len(data_sets)) == ((SUCCESS, 7, 0), 7)


@pytest.mark.dcmtk
def test_that_getscu_does_not_notice_what_is_dropped(archive: TestPACS, tmp_path: Path) -> None:
    """It succeeds with a file missing, and retrieves all of them the second time."""
    archive.faults = Faults(drop_every=5)
    command = ["getscu", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_uid()}"]
    command += ["-aec", archive.ae_title, archive.host, str(archive.port), "-od"]
    for name, expected in (("first", 6), ("second", 7)):
        (tmp_path / name).mkdir()
        done = subprocess.run([*command, tmp_path / name], env=dcmtk_environment(), timeout=60, check=False)
        assert (done.returncode, len(list((tmp_path / name).iterdir()))) == (0, expected)


def test_that_the_first_retrievals_are_successes_without_suboperations(archive: TestPACS, pacs: TestPACS) -> None:
    """The first C-MOVE and the first C-GET end with 0 of 0; the third request delivers everything."""
    archive.faults = Faults(zero_suboperations=2)
    assert moved(archive, pacs)[0].NumberOfCompletedSuboperations == 0
    status, _, data_sets = get(archive, ROLES)
    assert (counts(status), data_sets) == ((SUCCESS, 0, 0), [])
    status, came = moved(archive, pacs)
    assert (counts(status), came) == ((SUCCESS, 7, 0), HELD)


def test_that_it_takes_a_list_of_uids_for_its_first(archive: TestPACS, pacs: TestPACS) -> None:
    """Of three requested instances it delivers and counts one; a study is delivered completely."""
    archive.faults = Faults(first_uid_only=True)
    status, came = moved(archive, pacs, HELD[4], HELD[1], HELD[2])
    assert (counts(status), came) == ((SUCCESS, 1, 0), [HELD[4]])
    assert archive.identifiers[-1].SOPInstanceUID == [HELD[4], HELD[1], HELD[2]]
    assert moved(archive, pacs)[1] == HELD


def test_that_instances_cannot_be_listed(archive: TestPACS) -> None:
    """A query fails at IMAGE level only."""
    archive.faults = Faults(no_image_level=0xC000)
    keys = retrieve_keys()
    keys.QueryRetrieveLevel, keys.SOPInstanceUID = "IMAGE", ""
    with associated(archive, (STUDY_FIND, None)) as assoc:
        assert [status.Status for status, _ in assoc.send_c_find(keys, STUDY_FIND)] == [0xC000]
    (match,) = find(archive, {"StudyInstanceUID": study_uid(), "NumberOfStudyRelatedInstances": ""})
    assert match.NumberOfStudyRelatedInstances == len(HELD)


def test_that_counts_are_left_out(archive: TestPACS) -> None:
    """A match has the other return keys, but no counts."""
    archive.faults = Faults(no_counts=True)
    wanted = {"StudyInstanceUID": study_uid(), "AccessionNumber": "", "NumberOfStudyRelatedInstances": ""}
    (match,) = find(archive, {**wanted, "NumberOfStudyRelatedSeries": ""})
    assert match.AccessionNumber == "A1"
    assert not [keyword for keyword in match.dir() if keyword.startswith("NumberOf")]


@pytest.mark.parametrize("heeds_cancel", [True, False])
def test_that_the_final_response_never_comes(archive: TestPACS, pacs: TestPACS, heeds_cancel: bool) -> None:
    """It delivers everything and then stays silent, until C-CANCEL or even after it."""
    archive.faults = Faults(never_finish=True, ignore_cancel=not heeds_cancel)
    with associated(archive, (STUDY_MOVE, None)) as assoc:
        responses = assoc.send_c_move(retrieve_keys(), pacs.ae_title, STUDY_MOVE, msg_id=7)
        pending = [next(responses)[0].Status for _ in HELD[1:]]
        wait_until(lambda: pacs.stores == HELD, 5, "the last instance")
        if not heeds_cancel:
            assoc.dimse_timeout = 0.5
        began = time.monotonic()
        assoc.send_c_cancel(7, query_model=STUDY_MOVE)
        last, _ = next(responses)
        waited = time.monotonic() - began
    assert pending == [PENDING] * 6
    assert last.get("Status") == (CANCELLED if heeds_cancel else None)
    assert heeds_cancel or waited >= 0.5
    wait_until(lambda: archive.open_associations == 0, 5, "it notices that nobody waits any more")


@pytest.mark.parametrize("heeds_cancel", [True, False])
def test_that_pending_comes_for_ever(archive: TestPACS, pacs: TestPACS, heeds_cancel: bool) -> None:
    """It sends only pending responses, until C-CANCEL or even after it."""
    archive.faults = Faults(pending_for_ever=True, ignore_cancel=not heeds_cancel)
    with associated(archive, (STUDY_MOVE, None)) as assoc:
        responses = assoc.send_c_move(retrieve_keys(), pacs.ae_title, STUDY_MOVE, msg_id=7)
        statuses = [next(responses)[0] for _ in range(5)]
        assoc.send_c_cancel(7, query_model=STUDY_MOVE)
        # If it heeds C-CANCEL, it ends after the responses that were on their way.
        after = [status.Status for status, _ in islice(responses, 100 if heeds_cancel else 10)]
        assoc.abort()
    assert [each.Status for each in statuses] == [PENDING] * 5
    assert {each.NumberOfRemainingSuboperations for each in statuses} == {len(HELD)}
    assert (after[-1], set(after[:-1]) <= {PENDING}) == (CANCELLED if heeds_cancel else PENDING, True)
    assert pacs.stores == []
    wait_until(lambda: archive.open_associations == 0, 5, "it notices that nobody waits any more")


@pytest.mark.parametrize("cancelled", [True, False])
def test_that_instances_are_held_back(archive: TestPACS, pacs: TestPACS, cancelled: bool) -> None:
    """The first instances arrive; the others wait until the faults are replaced or C-CANCEL arrives."""
    archive.faults = Faults(hold_instances_after=3)
    with associated(archive, (STUDY_MOVE, None)) as assoc:
        answers = assoc.send_c_move(retrieve_keys(), pacs.ae_title, STUDY_MOVE, msg_id=7)
        assert [status.Status for status, _ in islice(answers, 3)] == [PENDING] * 3
        assert pacs.stores == HELD[:3]
        if cancelled:
            assoc.send_c_cancel(7, query_model=STUDY_MOVE)
        else:
            archive.faults = Faults()
        *_, (last, _) = answers
    assert (last.Status, pacs.stores) == ((CANCELLED, HELD[:3]) if cancelled else (SUCCESS, HELD))


def test_that_the_instances_are_selected_when_the_first_one_may_go(archive: TestPACS, pacs: TestPACS) -> None:
    """Instances that reach the archive in the meantime are delivered as well."""
    archive.faults = Faults(hold_instances_after=0)
    with associated(archive, (STUDY_MOVE, None)) as assoc:
        answers = assoc.send_c_move(retrieve_keys(), pacs.ae_title, STUDY_MOVE)
        wait_until(lambda: archive.identifiers, 10, "the request")
        archive.hold(instance(99))
        archive.faults = Faults()
        *_, (last, _) = answers
    assert (counts(last), len(pacs.stores)) == ((SUCCESS, len(HELD) + 1, 0), len(HELD) + 1)


def test_that_a_destination_that_is_not_there_leaves_nothing_open(archive: TestPACS, pacs: TestPACS) -> None:
    """Every instance fails; an open socket would raise a ResourceWarning, which is an error here."""
    archive.destinations = {pacs.ae_title: ("127.0.0.1", free_port())}
    status, came = moved(archive, pacs)
    assert (counts(status), came) == ((NOTHING_DONE, 0, 7), [])


def test_that_it_stops_although_a_caller_owes_a_response(archive: TestPACS) -> None:
    """The caller of a C-GET has an instance and does not respond: the end of the PACS does not wait for it."""
    received, released = threading.Event(), threading.Event()

    def on_store(_: Event) -> int:
        received.set()
        released.wait(30)
        return SUCCESS

    handlers = [(evt.EVT_C_STORE, on_store)]
    with (
        associated(archive, (STUDY_GET, None), CT_CONTEXT, ext_neg=ROLES, evt_handlers=handlers) as assoc,
        ThreadPoolExecutor(1) as pool,
    ):
        answers = pool.submit(lambda: list(assoc.send_c_get(retrieve_keys(), STUDY_GET)))
        try:
            assert received.wait(10)
            archive.stop(5)
        finally:
            released.set()
        assert not answers.result(10)[-1][0]
