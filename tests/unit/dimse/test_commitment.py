"""The data sets of storage commitment, checked with pydicom."""

from __future__ import annotations

import random
from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs_tasks.dimse import commitment
from pacs_tasks.dimse.scp.storage_scp import accept
from pacs_tasks.dimse.status import commitment_failure
from pacs_tasks.dimse.upper_layer import negotiation as acse
from pacs_tasks.outcome import StatusCategory

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
CT = "1.2.840.10008.5.1.4.1.1.2"


def _item(uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _report() -> Dataset:
    report = Dataset()
    report.RetrieveAETitle = "ARCHIVE"
    report.TransactionUID = "2.25.77"
    report.ReferencedSOPSequence = Sequence([_item("1.2.1"), _item("1.2.22")])
    report.FailedSOPSequence = Sequence([_item("1.2.3", 0x0112), _item("1.2.22", 0x0213), _item("1.2.4")])
    return report


def _encoded(report: Dataset, syntax: str, *, undefined: bool = False) -> bytes:
    for name in ("ReferencedSOPSequence", "FailedSOPSequence"):
        if name in report:
            report[name].is_undefined_length = undefined
            for item in report[name].value:
                item.is_undefined_length_sequence_item = undefined
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == IMPLICIT, syntax != BIG
    write_dataset(buffer, report)
    return buffer.getvalue()


def test_pydicom_reads_what_we_ask_for() -> None:
    """A request holds a transaction UID, and the class and UID of each instance."""
    references = [(CT, f"1.2.{number}") for number in range(1, 501)]
    found = read_dataset(BytesIO(commitment.encode_request("2.25.123", references)), True, True)
    assert found.TransactionUID == "2.25.123"
    assert [(str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in found.ReferencedSOPSequence] == (
        references
    )
    assert len(found) == 2


def test_transactions_are_valid_uids_that_differ() -> None:
    """They have at most 64 characters (PS3.5 sections 9.1 and B.2)."""
    made = {commitment.new_transaction_uid() for _ in range(100)}
    assert len(made) == 100
    assert all(len(each) <= 64 and each.startswith("2.25.") and each[5:].isdigit() for each in made)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
def test_we_read_what_pydicom_reports(syntax: str, undefined: bool) -> None:
    """Both lists are read in each encoding. An instance in both lists has failed, as has one without a reason."""
    found = commitment.decode_report(_encoded(_report(), syntax, undefined=undefined), syntax)
    assert found.transaction_uid == "2.25.77"
    assert found.committed == {"1.2.1"}
    assert found.failed == {"1.2.3": 0x0112, "1.2.22": 0x0213, "1.2.4": 0x0110}


def test_a_report_without_a_transaction_is_none() -> None:
    """Nobody knows what it is about."""
    report = _report()
    del report.TransactionUID
    with pytest.raises(ValueError, match="does not name a transaction"):
        commitment.decode_report(_encoded(report, IMPLICIT), IMPLICIT)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_malformed_report_ends_in_one_error_and_claims_nothing(syntax: str) -> None:
    """A truncated or changed report is decoded or raises ValueError; a part of it never commits more."""
    rng = random.Random(4)
    for undefined in (False, True):
        whole = _encoded(_report(), syntax, undefined=undefined)
        for place in range(len(whole)):
            assert _committed(whole[:place], syntax) <= {"1.2.1"}
            _committed(whole[:place] + bytes([rng.randrange(256)]) + whole[place + 1 :], syntax)


def _committed(content: bytes, syntax: str) -> frozenset[str]:
    try:
        return commitment.decode_report(content, syntax).committed
    except ValueError:
        return frozenset()


@pytest.mark.parametrize(
    ("code", "category", "words"),
    [
        (0x0110, StatusCategory.PERMANENT, "Processing Failure"),
        (0x0112, StatusCategory.PERMANENT, "does not hold it"),
        (0x0119, StatusCategory.PERMANENT, "Class-Instance Conflict"),
        (0x0122, StatusCategory.PERMANENT, "SOP Class Not Supported"),
        (0x0131, StatusCategory.PERMANENT, "Duplicate transaction"),
        (0x0213, StatusCategory.TRANSIENT, "Resource Limitation"),
        (0x4321, StatusCategory.PERMANENT, "not defined by the Standard"),
    ],
)
def test_failure_reasons_are_told_in_words(code: int, category: StatusCategory, words: str) -> None:
    """The reasons of PS3.3 section C.14.1.1; unknown ones are failures too."""
    found = commitment_failure(code)
    assert (found.code, found.category) == (code, category)
    assert words in found.meaning


@pytest.mark.parametrize(
    ("roles", "reports", "accepted", "answered"),
    [
        ({StorageCommitmentPushModel: (False, True)}, True, True, {StorageCommitmentPushModel: (False, True)}),
        ({StorageCommitmentPushModel: (True, True)}, True, True, {StorageCommitmentPushModel: (False, True)}),
        ({}, True, True, {}),
        ({StorageCommitmentPushModel: (True, False)}, True, False, {}),
        ({StorageCommitmentPushModel: (False, True)}, False, False, {}),
    ],
    ids=["scp", "both", "unsaid", "scu", "not served"],
)
def test_a_peer_may_be_the_scp_of_storage_commitment(
    roles: dict[str, tuple[bool, bool]], reports: bool, accepted: bool, answered: dict[str, tuple[bool, bool]]
) -> None:
    """A reporting remote reverses the roles (PS3.7 section D.3.3.4); one that wants us as SCP is refused."""
    cx = acse.ProposedContext(1, StorageCommitmentPushModel, (JPEG, IMPLICIT, EXPLICIT))
    answer = accept(acse.AssociateRequest("US", "PEER", (cx,), roles=roles), reports=reports)
    assert answer.results[1] == ((acse.ACCEPTED, EXPLICIT) if accepted else (acse.ABSTRACT_SYNTAX_NOT_SUPPORTED, JPEG))
    assert answer.roles == answered


def test_a_report_in_a_syntax_that_nobody_reads_is_refused() -> None:
    """Reports are accepted only in uncompressed little endian."""
    cx = acse.ProposedContext(1, StorageCommitmentPushModel, (JPEG,))
    answer = accept(acse.AssociateRequest("US", "PEER", (cx,)), reports=True)
    assert answer.results[1][0] == acse.TRANSFER_SYNTAXES_NOT_SUPPORTED
