"""Identifiers of queries and retrievals, and the decoding of matches."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.files.elements import MalformedError
from pacs_tasks.dimse.find.identifier import RETURN_KEYS, encode_find, keys_of
from pacs_tasks.dimse.find.match import decode_match
from pacs_tasks.dimse.retrieve.delivery import encode_identifier, failed_uids
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import FindRequest, Level, MoveRequest, QueryModel
from tests.support import dicom_files

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def _encoded(request: FindRequest, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    return decode(BytesIO(encode_find(request, syntax, keys_of(request))), syntax == ImplicitVRLittleEndian, True)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("level", list(Level))
def test_every_level_asks_for_the_columns_of_its_table(level: Level, syntax: str) -> None:
    """pynetdicom reads each identifier: the level, the character set, and every return key, empty."""
    found = _encoded(FindRequest(level=level), syntax)
    assert found.QueryRetrieveLevel == level
    assert {element.keyword for element in found} == {"QueryRetrieveLevel", "SpecificCharacterSet", *RETURN_KEYS[level]}
    assert all(not element.value for element in found if element.keyword != "QueryRetrieveLevel")


def test_keys_of_every_kind_are_written() -> None:
    """Ranges, wild cards, lists of UIDs, numbers, private attributes and sequences are encoded unchanged."""
    keys = {
        "StudyDate": "20240101-20241231",
        "PatientName": "DOE^J*",
        "StudyInstanceUID": "1.2.3\\1.2.4",
        "Rows": "512",
        "00091001": "private",
        "(0040,0275)": "",
        "ModalitiesInStudy": "CT\\MR",
        "SpecificCharacterSet": "IGNORED",
        "QueryRetrieveLevel": "STUDY",
    }
    found = _encoded(FindRequest(keys=keys))
    assert found.StudyDate == "20240101-20241231"
    assert str(found.PatientName) == "DOE^J*"
    assert list(found.StudyInstanceUID) == ["1.2.3", "1.2.4"]
    assert found.Rows == 512
    assert found[0x00091001].value == "private"
    assert len(found.RequestAttributesSequence) == 0
    assert list(found.ModalitiesInStudy) == ["CT", "MR"]
    assert not found.SpecificCharacterSet


@pytest.mark.parametrize("charset", ["GB18030", "GBK", "ISO_IR 192"])
def test_a_name_that_is_not_ascii_is_written_in_the_remotes_charset(charset: str) -> None:
    """The identifier names the character set, and pydicom reads the name back."""
    request = FindRequest(remote=RemoteAE(charset=charset), keys={"PatientName": dicom_files.CHINESE_NAME})
    found = _encoded(request)
    named = found.SpecificCharacterSet
    assert (named if isinstance(named, str) else "\\".join(named)) == charset
    assert str(found.PatientName) == dicom_files.CHINESE_NAME


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 6", "\\ISO 2022 IR 58"])
def test_a_name_that_would_not_be_read_back_is_refused(charset: str) -> None:
    """A character set that lacks the characters, or cannot be encoded, is refused without repeating the name."""
    request = FindRequest(remote=RemoteAE(charset=charset), keys={"PatientName": dicom_files.CHINESE_NAME})
    with pytest.raises(InvalidRequestError, match="Set the charset") as caught:
        _encoded(request)
    assert dicom_files.CHINESE_NAME not in str(caught.value)


@pytest.mark.parametrize("charset", ["\\ISO 2022 IR 87", "\\ISO 2022 IR 149"])
def test_names_with_escape_sequences_are_written(charset: str) -> None:
    """Japanese and Korean names are encoded with their escape sequences and read back."""
    name = "山田^太郎" if "87" in charset else "김^희중"
    found = _encoded(FindRequest(remote=RemoteAE(charset=charset), keys={"PatientName": name}))
    assert str(found.PatientName) == name


@pytest.mark.parametrize(
    "keys", [{"Nonsense": ""}, {"0010": ""}, {"00000100": "1"}, {"Rows": "x"}, {"PixelData": "x"}, {"Rows": "99999999"}]
)
def test_keys_that_make_no_sense_are_refused(keys: dict[str, str]) -> None:
    """Unknown keywords, tags of group 0000 and values that their VR cannot hold raise InvalidRequestError."""
    with pytest.raises(InvalidRequestError):
        _encoded(FindRequest(keys=keys))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("named", "fallback"), [("GB18030", "ISO_IR 100"), ("", "GB18030"), (None, "GB18030")])
def test_names_are_read_in_the_charset_that_applies(named: str | None, fallback: str, syntax: str) -> None:
    """The character set of the match applies; if it is empty or missing, that of the remote."""
    match = Dataset()
    match.SpecificCharacterSet = "GB18030"
    match.PatientName = dicom_files.CHINESE_NAME
    content = encode(match, syntax == ImplicitVRLittleEndian, True)
    assert content is not None
    if named is None:
        content = content[16:]
    elif not named:
        content = content[: 6 if syntax == ExplicitVRLittleEndian else 4].ljust(8, b"\0") + content[16:]
    found = decode_match(content, syntax, fallback)
    assert found["00100010"]["Value"] == [{"Alphabetic": dicom_files.CHINESE_NAME}]


def test_no_match_however_broken_raises() -> None:
    """A truncated match, or one with a changed byte, gives the elements that can be read."""
    content = b"\x08\0\x20\0DA\x08\x0020240115" + b"\x20\0\x08\x12IS\x02\x0012" + b"\x10\0\x10\0PN\x04\0A^B "
    for place in range(len(content)):
        for broken in (content[:place], content[:place] + b"\xff" + content[place + 1 :]):
            assert isinstance(decode_match(broken, ExplicitVRLittleEndian, "ISO_IR 192"), dict)


def test_a_retrieval_names_its_level_and_all_keys_above() -> None:
    """pynetdicom reads the level and the unique keys of studies, series and instances."""
    uids = tuple(f"1.2.3.{number}" for number in range(20_000))
    for series, instances, level in ((None, (), "STUDY"), ("1.2.3", (), "SERIES"), ("1.2.3", uids, "IMAGE")):
        request = MoveRequest(move_aet="X", study_uid="1.2", series_uid=series, sop_instance_uids=instances)
        found = decode(BytesIO(encode_identifier(request)), True, True)
        assert (found.QueryRetrieveLevel, found.StudyInstanceUID) == (level, "1.2")
        assert found.get("SeriesInstanceUID") == series
        assert tuple(found.get("SOPInstanceUID", ())) == instances


def test_failed_instances_are_read_as_far_as_they_can_be() -> None:
    """The list may hold no, one or several UIDs, or be malformed."""
    answer = Dataset()
    assert failed_uids(b"") == ()
    for uids in (["1.2.3"], ["1.2.3", "1.2.4"]):
        answer.FailedSOPInstanceUIDList = uids
        content = encode(answer, True, True)
        assert content is not None
        assert failed_uids(content) == tuple(uids)
        assert failed_uids(content[:-1]) == ()
    assert issubclass(MalformedError, ValueError)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_dotted_key_is_in_the_one_item_of_its_sequence(syntax: str) -> None:
    """Keys of one sequence share its item, even if the sequence itself is a key; inner sequences nest."""
    keys = {
        "RequestAttributesSequence.ScheduledProcedureStepID": "X",
        "RequestAttributesSequence": "",
        "00400275.RequestedProcedureID": "",
        "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeValue": "C1",
        "ReferencedStudySequence": "",
    }
    found = _encoded(FindRequest(level=Level.SERIES, keys=keys), syntax)
    [item] = found.RequestAttributesSequence
    assert (item.ScheduledProcedureStepID, item.RequestedProcedureID) == ("X", "")
    assert item.ScheduledProtocolCodeSequence[0].CodeValue == "C1"
    assert len(found.ReferencedStudySequence) == 0


@pytest.mark.parametrize("key", ["PatientName.PatientID", "RequestAttributesSequence.Nonsense", "00091001.PatientID"])
def test_a_path_that_leads_nowhere_is_refused(key: str) -> None:
    """Only sequences have items, and every part must be a keyword or a tag."""
    with pytest.raises(InvalidRequestError):
        _encoded(FindRequest(keys={key: "1"}))


def test_a_worklist_has_no_level_and_one_step() -> None:
    """The attributes of the step are in its item, by keyword or tag; there is no (0008,0052) (PS3.4 section K.6.1)."""
    keys = {"Modality": "CT", "00400001": "CT1", "PatientID": "P1"}
    found = _encoded(FindRequest(query_model=QueryModel.WORKLIST, keys=keys))
    [step] = found.ScheduledProcedureStepSequence
    assert (step.Modality, step.ScheduledStationAETitle, found.PatientID) == ("CT", "CT1", "P1")
    assert step.ScheduledProcedureStepStartDate == ""
    assert {"QueryRetrieveLevel", "Modality", "ScheduledStationAETitle"}.isdisjoint(each.keyword for each in found)
    with pytest.raises(InvalidRequestError, match="no levels"):
        _encoded(FindRequest(query_model=QueryModel.WORKLIST, keys={"QueryRetrieveLevel": "STUDY"}))


def test_a_private_attribute_has_the_vr_that_its_creator_gives_it() -> None:
    """This needs a creator among the keys that pydicom knows; otherwise the value is text."""
    keys = {"00190010": "SIEMENS MR HEADER", "0019100C": "1000", "00191008": "IMAGE NUM 4", "00291008": "x"}
    found = _encoded(FindRequest(keys=keys))
    assert [found[tag].VR for tag in (0x0019100C, 0x00191008, 0x00291008)] == ["IS", "CS", "LO"]


@pytest.mark.parametrize(
    ("keys", "charset", "named"),
    [
        ({"PatientID": "P1"}, None, ""),
        ({"PatientID": "P1"}, "GB18030", "GB18030"),
        ({"PatientName": dicom_files.CHINESE_NAME}, None, "ISO_IR 192"),
        ({"PatientName": dicom_files.CHINESE_NAME}, "GBK", "GBK"),
        ({"RequestAttributesSequence.RequestedProcedureDescription": "胸部"}, None, "ISO_IR 192"),
    ],
)
def test_the_charset_of_the_query_goes_before_that_of_the_remote(
    keys: dict[str, str], charset: str | None, named: str
) -> None:
    """(0008,0005) is always present; it has a value if the query names one or a key needs one."""
    found = _encoded(FindRequest(keys=keys, charset=charset))
    assert "SpecificCharacterSet" in found
    assert (found.SpecificCharacterSet or "") == named
