"""TestPACS, called by the service users of pynetdicom."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.presentation import build_role

from pacs_tasks.testing import Faults, Report, TestPACS
from tests.support import dicom_files
from tests.support.callers import (
    CT,
    EXPLICIT,
    PATIENT_FIND,
    STUDY_FIND,
    STUDY_MOVE,
    associated,
    encoded_bytes,
    find,
    get,
    retrieve_keys,
    series,
)
from tests.support.waiting import wait_until

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"


def test_that_it_answers_echo_and_leaves_no_thread() -> None:
    """It responds to C-ECHO, and no thread is left after it has stopped."""
    before = set(threading.enumerate())
    with TestPACS() as pacs, associated(pacs) as assoc:
        assert assoc.send_c_echo().Status == 0x0000
        assert pacs.open_associations == 1
    wait_until(lambda: set(threading.enumerate()) <= before, 5, "the threads to end")
    assert (pacs.associations, pacs.calling_aets) == (1, ["CALLER"])


@pytest.mark.parametrize("in_directory", [False, True])
def test_that_stored_bytes_stay_as_they_came(tmp_path: Path, in_directory: bool) -> None:
    """It keeps every example instance of pydicom unchanged, in memory or as a DICOM file."""
    paths = dicom_files.sendable()
    with TestPACS(directory=tmp_path if in_directory else None) as pacs, TestPACS(instances=paths) as source:
        source.destinations["TESTPACS"] = (pacs.host, pacs.port)
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.SOPInstanceUID = "IMAGE", list(source.instances)
        with associated(source, (STUDY_MOVE, None)) as assoc:
            *_, (last, _) = assoc.send_c_move(keys, "TESTPACS", STUDY_MOVE)
        assert last.NumberOfCompletedSuboperations == len(pacs.instances)
        kept = pacs.instances
    assert len(kept) >= 50
    for uid, instance in kept.items():
        assert instance.data_set == source.instances[uid].data_set
        assert instance.transfer_syntax_uid == source.instances[uid].transfer_syntax_uid
        if in_directory:
            assert instance.path is not None
            assert dcmread(instance.path, stop_before_pixels=True).file_meta.MediaStorageSOPInstanceUID == uid


def test_that_private_sop_classes_are_accepted(pacs: TestPACS) -> None:
    """It accepts and stores an instance of an unknown SOP class."""
    ds = dicom_files.instance(sop_class_uid=dicom_files.PRIVATE_SOP_CLASS)
    with associated(pacs, (dicom_files.PRIVATE_SOP_CLASS, [EXPLICIT])) as assoc:
        assert assoc.send_c_store(ds).Status == 0x0000
    assert pacs.instances[ds.SOPInstanceUID].sop_class_uid == dicom_files.PRIVATE_SOP_CLASS


@pytest.mark.parametrize("charset", dicom_files.CHARSETS)
@pytest.mark.parametrize(
    "keys",
    [
        {"PatientName": "张*"},
        {"PatientName": "?^三丰"},
        {"PatientID": "p12345", "PatientName": ""},
        {"StudyDate": "20240101-20240131"},
        {"StudyDate": "-20240115"},
        {"StudyDate": "20240115-"},
        {"StudyInstanceUID": f"1.2.3\\{dicom_files.study_uid()}"},
        {"ModalitiesInStudy": "CT"},
    ],
    ids=str,
)
def test_that_queries_match_in_any_charset(charset: str, keys: dict[str, str]) -> None:
    """Wild cards, ranges and lists match in every character set, which the match names."""
    with TestPACS(instances=series(3, charset=charset)) as pacs:
        found = find(pacs, {"PatientName": "", "NumberOfStudyRelatedInstances": "", **keys})
    assert len(found) == 1
    assert str(found[0].PatientName) == dicom_files.CHINESE_NAME
    assert found[0].SpecificCharacterSet == charset
    assert found[0].NumberOfStudyRelatedInstances == 3
    assert found[0].StudyInstanceUID == dicom_files.study_uid()


@pytest.mark.parametrize(
    "keys", [{"PatientName": "李*"}, {"StudyDate": "20240116-"}, {"StudyDate": "-20240114"}, {"PatientID": "P1234"}]
)
def test_that_other_keys_do_not_match(keys: dict[str, str]) -> None:
    """A key with another value matches nothing."""
    with TestPACS(instances=series(1)) as pacs:
        assert find(pacs, keys) == []


@pytest.mark.parametrize(
    ("level", "model", "count"),
    [
        ("PATIENT", PATIENT_FIND, 1),
        ("STUDY", STUDY_FIND, 2),
        ("SERIES", STUDY_FIND, 3),
        ("IMAGE", PATIENT_FIND, 6),
    ],
)
def test_that_every_level_is_answered(level: str, model: str, count: int) -> None:
    """Each level returns one match for each of its entities."""
    instances = [*series(2), *series(2, series=2), *series(2, study=2)]
    with TestPACS(instances=instances) as pacs:
        assert len(find(pacs, {}, level, model)) == count


def test_that_a_wrong_level_is_refused(pacs: TestPACS) -> None:
    """PATIENT is not a level of Study Root: A900."""
    keys = Dataset()
    keys.QueryRetrieveLevel = "PATIENT"
    with associated(pacs, (STUDY_FIND, None)) as assoc:
        assert [status.Status for status, _ in assoc.send_c_find(keys, STUDY_FIND)] == [0xA900]


def test_that_cancel_ends_a_query() -> None:
    """C-CANCEL ends a query with FE00 before all matches have been sent."""
    instances = [dicom_files.instance(study=number, rows=2) for number in range(1, 401)]
    with (
        TestPACS(instances=instances, faults=Faults(delay=0.05)) as pacs,
        associated(pacs, (STUDY_FIND, None)) as assoc,
    ):
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", ""
        statuses = []
        for status, _ in assoc.send_c_find(keys, STUDY_FIND, msg_id=7):
            statuses.append(status.Status)
            if len(statuses) == 2:
                assoc.send_c_cancel(7, query_model=STUDY_FIND)
    assert statuses[-1] == 0xFE00
    assert len(statuses) < len(instances)


def test_that_move_delivers_to_known_destinations_only(pacs: TestPACS) -> None:
    """C-MOVE counts its sub-operations and delivers; to an unknown destination it responds A801 and sends nothing."""
    with TestPACS("SOURCE", instances=series(5)) as source, associated(source, (STUDY_MOVE, None)) as assoc:
        assert [s.Status for s, _ in assoc.send_c_move(retrieve_keys(), "TESTPACS", STUDY_MOVE)] == [0xA801]
        assert pacs.stores == []
        source.destinations["TESTPACS"] = (pacs.host, pacs.port)
        answers = [status for status, _ in assoc.send_c_move(retrieve_keys(), "TESTPACS", STUDY_MOVE)]
    assert [each.get("NumberOfRemainingSuboperations") for each in answers] == [4, 3, 2, 1, None]
    assert (answers[-1].Status, answers[-1].NumberOfCompletedSuboperations) == (0x0000, 5)
    assert len(pacs.stores) == 5


def test_that_get_delivers_to_the_byte() -> None:
    """C-GET sends each data set unchanged."""
    instances = series(3)
    with TestPACS(instances=instances) as pacs:
        status, _, came = get(pacs, [build_role(CT, scp_role=True)])
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0x0000, 3)
    assert sorted(came) == sorted(encoded_bytes(each) for each in instances)


def test_that_get_without_the_role_fails() -> None:
    """Without SCP role selection nothing may be sent: A702, with the UIDs of all instances."""
    with TestPACS(instances=series(2)) as pacs:
        status, identifier, came = get(pacs, [])
    assert (status.Status, status.NumberOfFailedSuboperations, came) == (0xA702, 2, [])
    assert identifier is not None
    assert len(identifier.FailedSOPInstanceUIDList) == 2


def _commitment_of(pacs: TestPACS, uids: list[str], **handlers: Any) -> int:
    """Request commitment with pynetdicom, and return the status of the response."""
    information = Dataset()
    information.TransactionUID = "2.25.7"
    information.ReferencedSOPSequence = [Dataset() for _ in uids]
    for item, uid in zip(information.ReferencedSOPSequence, uids, strict=True):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
    with associated(pacs, (PUSH_MODEL, None), **handlers) as assoc:
        status, _ = assoc.send_n_action(information, 1, UID(PUSH_MODEL), UID(PUSH_MODEL_INSTANCE))
        if handlers:
            wait_until(lambda: pacs.report_statuses, 5, "the answer to its report")
    return int(status.Status)


def _noted(reports: list[Dataset]) -> Callable[[Event], tuple[int, None]]:
    def on_report(event: Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0x0000, None

    return on_report


def test_commitment_is_reported_to_a_known_destination() -> None:
    """pynetdicom receives the report on an association that the PACS opens."""
    held = series(2)
    uids = [*(str(each.SOPInstanceUID) for each in held), "1.2.3"]
    reports: list[Dataset] = []
    ae = AE("CALLER")
    ae.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, _noted(reports))])
    assert server is not None
    try:
        destinations = {"CALLER": ("127.0.0.1", int(server.server_address[1]))}
        with TestPACS(instances=held, destinations=destinations) as pacs:
            assert _commitment_of(pacs, uids) == 0x0000
            wait_until(lambda: pacs.report_statuses, 10, "the answer to its report")
            assert pacs.report_statuses == [0x0000]
            assert pacs.transactions == [tuple(uids)]
    finally:
        server.shutdown()
    (report,) = reports
    assert report.TransactionUID == "2.25.7"
    assert [str(each.ReferencedSOPInstanceUID) for each in report.ReferencedSOPSequence] == uids[:2]
    assert [(str(each.ReferencedSOPInstanceUID), each.FailureReason) for each in report.FailedSOPSequence] == [
        ("1.2.3", 0x0112)
    ]


def test_commitment_is_reported_where_the_faults_say() -> None:
    """On the same association, never, or not after a refused request."""
    held = series(1)
    uids = [str(held[0].SOPInstanceUID)]
    reports: list[Dataset] = []
    with TestPACS(instances=held, faults=Faults(report=Report.SAME_ASSOCIATION)) as pacs:
        handlers = [(evt.EVT_N_EVENT_REPORT, _noted(reports))]
        assert _commitment_of(pacs, uids, evt_handlers=handlers) == 0x0000
        assert len(reports) == 1
        pacs.faults = Faults(report=Report.NEVER)
        assert _commitment_of(pacs, uids) == 0x0000
        pacs.faults = Faults(action_status=0x0213, report=Report.SAME_ASSOCIATION)
        assert _commitment_of(pacs, uids) == 0x0213
        pacs.faults = Faults()
        assert _commitment_of(pacs, uids) == 0x0000
        assert pacs.report_statuses == [0x0000]


def test_that_lost_instances_are_not_listed() -> None:
    """The faults can also truncate answers and refuse lists of UIDs."""
    with TestPACS(instances=series(5)) as pacs:
        uids = sorted(pacs.instances)
        keys = {"StudyInstanceUID": dicom_files.study_uid(), "SOPInstanceUID": ""}
        pacs.lose(uids[0])
        assert sorted(str(each.SOPInstanceUID) for each in find(pacs, keys, "IMAGE")) == uids[1:]
        pacs.faults = Faults(most_matches=2)
        assert len(find(pacs, keys, "IMAGE")) == 2
        keys["SOPInstanceUID"] = "\\".join(uids[:3])
        assert len(find(pacs, keys, "IMAGE")) == 2
        pacs.faults = Faults(refused_uid_lists=True)
        assert find(pacs, keys, "IMAGE") == []
        assert len(find(pacs, {**keys, "SOPInstanceUID": uids[1]}, "IMAGE")) == 1
