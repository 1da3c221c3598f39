"""C-FIND with TestPACS, Orthanc, dcmqrscp and misbehaving remotes."""

from __future__ import annotations

import socket
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer import command, contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.errors import ContextRejectedError, InvalidRequestError, JobCancelledError, PeerUnavailableError
from pacs_tasks.outcome import Category, InstanceCategory
from pacs_tasks.request import FindRequest, Level, QueryModel
from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, peers, scripted
from tests.support.queries import find
from tests.support.sending import store

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)
REAL = [
    pytest.param("orthanc", marks=pytest.mark.orthanc), pytest.param("dcmqrscp", marks=pytest.mark.dcmtk),
]  # fmt: skip
MATCH = b"\x08\0\x20\0DA\x08\x0020240115" + b"\x10\0\x20\0LO\x02\0P1"


def _values(match: dict[str, Any], tag: str) -> list[Any]:
    return list(match.get(tag, {}).get("Value", []))


def _fill(remote: RemoteAE, directory: Path) -> None:
    """Three studies of one instance each: two in GB18030, one in UTF-8."""
    files = []
    for study, charset in ((1, "GB18030"), (2, "GB18030"), (3, "ISO_IR 192")):
        ds = dicom_files.instance(study, study=study, patient_id=f"P{study}", charset=charset)
        files.append(dicom_files.write(ds, directory / f"{study}.dcm"))
    instances = [part10.read_instance(str(path)) for path in files]
    [(proposed, batch)] = contexts.contexts_for(instances)
    with Association.open(LOCAL, remote, proposed, PATIENT) as assoc:
        assert all(store(assoc, instance).category is InstanceCategory.SUCCESS for instance in batch)


def test_matches_are_dicom_json_with_the_names_as_they_are(pacs: TestPACS, tmp_path: Path) -> None:
    """Chinese names are decoded from both character sets, and the default return keys are there."""
    _fill(pacs.remote, tmp_path)
    outcome = find(FindRequest(remote=pacs.remote), LOCAL, PATIENT)
    assert outcome.category is Category.SUCCESS
    assert not outcome.limit_hit
    assert {match["00100010"]["Value"][0]["Alphabetic"] for match in outcome.matches} == {dicom_files.CHINESE_NAME}
    assert sorted(_values(match, "0020000D")[0] for match in outcome.matches) == [
        dicom_files.study_uid(number) for number in (1, 2, 3)
    ]
    assert all(_values(match, "00081030") == ["胸部"] for match in outcome.matches)
    [identifier] = pacs.identifiers
    assert identifier.QueryRetrieveLevel == "STUDY"
    assert "SpecificCharacterSet" in identifier
    assert not identifier.SpecificCharacterSet


@pytest.mark.parametrize("charset", ["GB18030", "ISO_IR 192"])
def test_a_key_that_is_not_ascii_goes_in_the_remotes_charset(pacs: TestPACS, tmp_path: Path, charset: str) -> None:
    """The key is encoded in the character set of the remote, which (0008,0005) names, and the remote matches it."""
    _fill(pacs.remote, tmp_path)
    remote = pacs.remote.model_copy(update={"charset": charset})
    outcome = find(FindRequest(remote=remote, keys={"PatientName": "张*"}), LOCAL, PATIENT)
    assert len(outcome.matches) == 3
    assert pacs.identifiers[-1].SpecificCharacterSet == charset
    none = find(FindRequest(remote=remote, keys={"PatientName": "李*"}), LOCAL, PATIENT)
    assert (none.matches, none.category) == ((), Category.SUCCESS)


def test_a_match_without_charset_is_read_in_the_remotes(pacs: TestPACS, tmp_path: Path) -> None:
    """If a match does not name its character set, the configured one decodes the names."""
    dicom_files.write(dicom_files.instance(charset="GB18030"), tmp_path / "a.dcm")
    with TestPACS(instances=[tmp_path / "a.dcm"], faults=Faults(omit_charset=True)) as careless:
        remote = careless.remote.model_copy(update={"charset": "GB18030"})
        [match] = find(FindRequest(remote=remote), LOCAL, PATIENT).matches
    assert match["00100010"]["Value"][0]["Alphabetic"] == dicom_files.CHINESE_NAME


@pytest.mark.parametrize(
    ("level", "keys", "tag", "value"),
    [
        (Level.PATIENT, {"PatientID": "P2"}, "00100020", "P2"),
        (Level.STUDY, {"AccessionNumber": "A3"}, "00100020", "P3"),
        (Level.STUDY, {"00080050": "A3"}, "00100020", "P3"),
        (Level.SERIES, {"StudyInstanceUID": dicom_files.study_uid(2)}, "00080060", "CT"),
        (
            Level.IMAGE,
            {"StudyInstanceUID": dicom_files.study_uid(2), "SeriesInstanceUID": f"{dicom_files.study_uid(2)}.1"},
            "00080018",
            f"{dicom_files.study_uid(2)}.1.2",
        ),
    ],
)
def test_every_level_answers(
    pacs: TestPACS, tmp_path: Path, level: Level, keys: dict[str, str], tag: str, value: str
) -> None:
    """Keys by keyword or tag narrow the matches at each level."""
    _fill(pacs.remote, tmp_path)
    [match] = find(FindRequest(remote=pacs.remote, level=level, keys=keys), LOCAL, PATIENT).matches
    assert _values(match, tag) == [value]


@pytest.mark.parametrize("kind", ["testpacs", *REAL])
def test_every_level_of_both_roots_answers_with_counts(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Matches have the unique key, and the number of instances if the remote counts them."""
    peer = request.getfixturevalue("pacs" if kind == "testpacs" else kind)
    _fill(peer.remote, tmp_path / "files")
    study = dicom_files.study_uid(2)
    for level, keys, unique, count_of in (
        (Level.PATIENT, {}, "00100020", "00201204"),
        (Level.STUDY, {"StudyInstanceUID": study}, "0020000D", "00201208"),
        (Level.SERIES, {"StudyInstanceUID": study}, "0020000E", "00201209"),
        (Level.IMAGE, {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1"}, "00080018", None),
    ):
        for model in (QueryModel.PATIENT_ROOT, *((QueryModel.STUDY_ROOT,) if keys else ())):
            asked = {"PatientID": "P2", **keys}
            outcome = find(FindRequest(remote=peer.remote, level=level, query_model=model, keys=asked), LOCAL, PATIENT)
            assert (outcome.category, outcome.keys_left_out) == (Category.SUCCESS, ())
            [match] = outcome.matches
            assert _values(match, unique)
            # dcmqrscp keeps no counts and returns none.
            assert count_of is None or _values(match, count_of) == ([] if kind == "dcmqrscp" else [1])


@pytest.mark.dcmtk
def test_a_pacs_that_refuses_keys_of_other_levels_is_asked_without_them(tmp_path: Path) -> None:
    """dcmqrscp --check-find refuses a Patient ID at SERIES level; the query succeeds without it and reports this."""
    with peers.dcmqrscp(tmp_path, "STRICT", peers.NOWHERE, "--check-find") as peer:
        _fill(peer.remote, tmp_path / "files")
        keys = {"StudyInstanceUID": dicom_files.study_uid(2)}
        outcome = find(FindRequest(remote=peer.remote, level=Level.SERIES, keys=keys), LOCAL, PATIENT)
    [match] = outcome.matches
    assert _values(match, "0020000E") == [f"{dicom_files.study_uid(2)}.1"]
    assert (outcome.category, outcome.queries) == (Category.SUCCESS, 2)
    assert "PatientID" in outcome.keys_left_out
    assert "Modality" not in outcome.keys_left_out


def test_optional_keys_are_left_out_where_they_are_unknown(pacs: TestPACS, tmp_path: Path) -> None:
    """Keys with a value are never left out: if the remote refuses those too, the first refusal stands."""
    _fill(pacs.remote, tmp_path)
    pacs.faults = Faults(unknown_keys=["NumberOfStudyRelatedInstances", "StudyDescription"])
    outcome = find(FindRequest(remote=pacs.remote, keys={"PatientID": "P2"}), LOCAL, PATIENT)
    assert [_values(match, "00100020") for match in outcome.matches] == [["P2"]]
    assert {"NumberOfStudyRelatedInstances", "StudyDescription"} <= set(outcome.keys_left_out)
    refused = find(FindRequest(remote=pacs.remote, keys={"StudyDescription": "CHEST"}), LOCAL, PATIENT)
    assert (refused.status.code, refused.category, refused.keys_left_out) == (0xA900, Category.FAILED, ())


@pytest.mark.parametrize("kind", ["testpacs", *REAL])
def test_lists_of_uids_wildcards_and_ranges_match(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The kinds of matching of PS3.4 section C.2.2.2, alone and combined."""
    peer = request.getfixturevalue("pacs" if kind == "testpacs" else kind)
    _fill(peer.remote, tmp_path / "files")
    for keys, found in (
        ({"StudyInstanceUID": f"{dicom_files.study_uid(1)}\\{dicom_files.study_uid(3)}"}, ["P1", "P3"]),
        ({"PatientID": "P?", "AccessionNumber": "A2"}, ["P2"]),
        ({"StudyDate": "20240101-20240131", "StudyTime": "110000-130000"}, ["P1", "P2", "P3"]),
        ({"StudyDate": "20240116-"}, []),
        ({"00080020": "-20240115", "AccessionNumber": "*1"}, ["P1"]),
    ):
        outcome = find(FindRequest(remote=peer.remote, keys=keys), LOCAL, PATIENT)
        assert sorted(_values(match, "00100020")[0] for match in outcome.matches) == found


def test_the_limit_stops_the_peer_and_says_so(pacs: TestPACS, tmp_path: Path) -> None:
    """Exactly as many matches as the limit do not hit it; one more does."""
    _fill(pacs.remote, tmp_path)
    for limit, matches, hit in ((2, 2, True), (3, 3, False), (4, 3, False)):
        outcome = find(FindRequest(remote=pacs.remote, limit=limit), LOCAL, PATIENT)
        assert (len(outcome.matches), outcome.limit_hit) == (matches, hit)
        assert outcome.category is Category.SUCCESS


@pytest.mark.parametrize(
    "kind", [pytest.param("orthanc", marks=pytest.mark.orthanc), pytest.param("dcmqrscp", marks=pytest.mark.dcmtk)]
)
def test_real_archives_answer(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Orthanc and DCMTK's archive match by id and by Chinese name, and stop at the limit."""
    peer: peers.Peer = request.getfixturevalue(kind)
    remote = peer.remote.model_copy(update={"charset": "GB18030"})
    _fill(remote, tmp_path / "files")
    [match] = find(FindRequest(remote=remote, keys={"PatientID": "P1"}), LOCAL, PATIENT).matches
    assert match["00100010"]["Value"][0]["Alphabetic"] == dicom_files.CHINESE_NAME
    limited = find(FindRequest(remote=remote, limit=1), LOCAL, PATIENT)
    assert (len(limited.matches), limited.limit_hit, limited.category) == (1, True, Category.SUCCESS)
    patients = find(FindRequest(remote=remote, level=Level.PATIENT), LOCAL, PATIENT)
    assert sorted(_values(each, "00100020")[0] for each in patients.matches) == ["P1", "P2", "P3"]


def test_wrong_keys_cost_no_association(pacs: TestPACS) -> None:
    """Unknown keywords, wrong values and characters that the character set lacks are refused at once."""
    latin = pacs.remote.model_copy(update={"charset": "ISO_IR 100"})
    wrong = [
        (pacs.remote, {"PatientNmae": "x"}),
        (pacs.remote, {"Rows": "many"}),
        (pacs.remote, {"ReferencedStudySequence": "x"}),
        (pacs.remote, {"QueryRetrieveLevel": "IMAGE"}),
        (latin, {"PatientName": "张"}),
    ]
    for remote, keys in wrong:
        with pytest.raises(InvalidRequestError) as caught:
            find(FindRequest(remote=remote, keys=keys), LOCAL, PATIENT)
        assert "张" not in caught.value.message
    assert pacs.associations == 0


def test_a_model_that_is_not_offered_gives_way_to_the_other_one(pacs: TestPACS) -> None:
    """Patient Root is used where Study Root is refused, unless the request names a model."""
    pacs.faults = Faults(refused_sop_classes=["1.2.840.10008.5.1.4.1.2.2.1"])
    assert find(FindRequest(remote=pacs.remote), LOCAL, PATIENT).category is Category.SUCCESS
    asked = FindRequest(remote=pacs.remote, query_model=QueryModel.STUDY_ROOT)
    with pytest.raises(ContextRejectedError, match=r"Study Root model. Leave out --root"):
        find(asked, LOCAL, PATIENT)


@pytest.mark.parametrize("code", [0xA700, 0xA900, 0xC001, 0x0122])
def test_a_failure_is_an_answer(pacs: TestPACS, code: int) -> None:
    """A failed query has an outcome with its status, never an empty success."""
    pacs.faults = Faults(find_status=code)
    outcome = find(FindRequest(remote=pacs.remote), LOCAL, PATIENT)
    assert (outcome.status.code, outcome.category, outcome.matches) == (code, Category.FAILED, ())


def _pending(context_id: int, match: bytes) -> bytes:
    elements: dict[int, int | str] = {
        command.COMMAND_FIELD: command.C_FIND_RQ | command.RESPONSE,
        command.MESSAGE_ID_RESPONDED_TO: 1,
        command.STATUS: 0xFF00,
    }
    encoded = command.encode(elements, data_set=True)
    return scripted.p_data(context_id, 3, encoded) + scripted.p_data(context_id, 2, match)


def test_a_peer_that_ignores_cancel_still_gives_the_answer() -> None:
    """The remote sends matches without end and ignores C-CANCEL: we abort and keep the wanted matches."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        while True:
            sock.sendall(_pending(context_id, MATCH))

    with scripted.peer(script) as remote:
        outcome = find(FindRequest(remote=remote, limit=2), LOCAL, PATIENT)
    assert (len(outcome.matches), outcome.limit_hit, outcome.category) == (2, True, Category.SUCCESS)
    assert outcome.seconds < 10


def test_stop_cancels_then_aborts() -> None:
    """A cancelled query sends C-CANCEL, waits briefly for the final status, and aborts."""
    came: list[bytes] = []

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        scripted.read_message(sock)
        came.append(scripted.wait_for_end(sock))

    asked = count()
    with scripted.peer(script) as remote, pytest.raises(JobCancelledError):
        find(FindRequest(remote=remote), LOCAL, PATIENT, lambda: next(asked) > 1)
    assert (0x0FFF).to_bytes(2, "little") in came[0], "no C-CANCEL came"
    assert came[0][-10] == 7, "no A-ABORT came"


def test_matches_that_break_the_rules_are_kept_as_far_as_they_can_be() -> None:
    """A malformed number stays as text; a truncated match does not end the query."""
    bad = b"\x08\0\x20\0DA\x04\x00oops" + b"\x20\0\x08\x12IS\x06\0many! " + b"\x10\0\x20\0LO\x02\0P1"

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        for match in (bad, MATCH[:11], MATCH):
            sock.sendall(_pending(context_id, match))
        elements: dict[int, int | str] = {
            command.COMMAND_FIELD: command.C_FIND_RQ | command.RESPONSE,
            command.MESSAGE_ID_RESPONDED_TO: 1,
            command.STATUS: 0,
        }
        sock.sendall(scripted.p_data(context_id, 3, command.encode(elements, data_set=False)))
        scripted.receive_pdu(sock)

    with scripted.peer(script) as remote:
        outcome = find(FindRequest(remote=remote), LOCAL, PATIENT)
    broken, _, good = outcome.matches
    assert _values(broken, "00100020") == ["P1"]
    assert _values(broken, "00201208") == ["many!"]
    assert _values(good, "00080020") == ["20240115"]


def test_a_query_that_breaks_off_is_no_answer() -> None:
    """Matches without a final status are an error: there may be more."""

    def script(sock: socket.socket) -> None:
        scripted.accept_all(sock)
        context_id, _ = scripted.read_message(sock)
        sock.sendall(_pending(context_id, MATCH))

    with scripted.peer(script) as remote, pytest.raises(PeerUnavailableError, match="C-FIND"):
        find(FindRequest(remote=remote), LOCAL, PATIENT)
