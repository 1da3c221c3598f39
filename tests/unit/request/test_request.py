"""What a job asks is checked where it enters."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.request import (
    EchoRequest,
    FindBatchRequest,
    FindRequest,
    GetRequest,
    MoveRequest,
    PreflightRequest,
    QueryModel,
    Request,
    RetrieveRequest,
    Selection,
    StoreDirectoryRequest,
    StorePathsRequest,
    StoreRequest,
    build,
)

EXAMPLES: list[Request] = [
    EchoRequest(remote=RemoteAE(host="pacs.example", port=104), local=LocalAE(ae_title="ME"), timeout=3),
    StoreRequest(path="/data/张三.dcm"),
    StoreDirectoryRequest(directory="/data", files_per_task=7),
    StorePathsRequest(paths=("/data", "/a.dcm"), files_per_task=7),
    FindRequest(keys={"PatientName": "张*", "00080060": "CT"}, limit=3),
    FindRequest(query_model=QueryModel.WORKLIST, charset="GB18030", split_dates=True),
    MoveRequest(move_aet="OTHER", study_uid="1.2.3"),
    GetRequest(output_dir="/out", study_uid="1.2.3", series_uid="1.2.3.4", sop_instance_uids=("1.2.3.4.5",)),
    RetrieveRequest(study_uid="1.2.3", output_dir="/out"),
    RetrieveRequest(accession_number="A 1", series_uid="1.2", to=RemoteAE(ae_title="OTHER"), overwrite=True),
    RetrieveRequest(
        selections=(Selection(study_uid="1.2", sop_instance_uids=("1.3",), row=2), Selection(accession_number="7")),
        output_dir="/out",
        layout="{PatientID}/{SOPInstanceUID}",
    ),
]


@pytest.mark.parametrize("request_", EXAMPLES, ids=lambda each: type(each).__name__)
def test_a_request_survives_its_way_through_redis(request_: Request) -> None:
    """What the worker reads is what the client asked."""
    assert (
        OPERATIONS[request_.task].request.model_validate_json(request_.model_dump_json(exclude_none=True)) == request_
    )


@pytest.mark.parametrize(
    ("request_type", "fields", "named"),
    [
        (EchoRequest, {"remote": {"port": 0}}, "remote.port"),
        (EchoRequest, {"remote": {"ae_title": "SEVENTEEN LETTERS"}}, "at most 16"),
        (EchoRequest, {"remote": {"ae_title": "BACK\\SLASH"}}, "backslash"),
        (EchoRequest, {"remote": {"ae_title": "  "}}, "other than a space"),
        (EchoRequest, {"timeout": 0}, "timeout"),
        (EchoRequest, {"colour": "red"}, "colour"),
        (StoreRequest, {}, "path"),
        (StoreRequest, {"path": "image1.dcm"}, "path: a path must be absolute"),
        (StoreRequest, {"path": "~/image1.dcm"}, "begin it at the root"),
        (StoreDirectoryRequest, {"directory": "."}, "directory: a path must be absolute"),
        (StorePathsRequest, {"paths": ["/a", "b"]}, "paths.1: a path must be absolute"),
        (StorePathsRequest, {}, "name what to send"),
        (PreflightRequest, {"directory": "../a"}, "must be absolute"),
        (PreflightRequest, {"directory": "/a", "paths": ["/a"]}, "directory or paths"),
        (PreflightRequest, {}, "directory or paths"),
        (RetrieveRequest, {"study_uid": "1.2", "output_dir": "out"}, "output_dir: a path must be absolute"),
        (GetRequest, {"study_uid": "1.2", "output_dir": ""}, "output_dir"),
        (StoreDirectoryRequest, {"directory": "/d", "files_per_task": 0}, "files_per_task"),
        (FindRequest, {"level": "FRAME"}, "level"),
        (FindRequest, {"limit": 0}, "limit"),
        (FindRequest, {"level": "PATIENT", "query_model": "study"}, "Study Root model has no PATIENT level"),
        (FindRequest, {"level": "IMAGE", "query_model": "worklist"}, "a worklist has no levels"),
        (FindRequest, {"level": "PATIENT", "split_dates": True}, "no study date to split by"),
        (FindRequest, {"charset": "LATIN"}, "not a specific character set"),
        (RetrieveRequest, {"study_uid": "../../etc", "output_dir": "/o"}, "study_uid"),
        (RetrieveRequest, {"study_uid": "1." * 40 + "1", "output_dir": "/o"}, "at most 64"),
        (RetrieveRequest, {"output_dir": "/o"}, "study_uid, accession_number, patient_id or selections"),
        (RetrieveRequest, {"output_dir": "/o", "series_uid": "1.2"}, "they belong to"),
        (RetrieveRequest, {"output_dir": "/o", "accession_number": "A*"}, "accession_number"),
        (RetrieveRequest, {"output_dir": "/o", "patient_id": "P*"}, "patient_id: a Patient ID has 1 to 64"),
        (RetrieveRequest, {"output_dir": "/o", "patient_id": "P", "series_uid": "1.2"}, "they belong to"),
        (RetrieveRequest, {"output_dir": "/o", "accession_number": "SEVENTEEN LETTERS"}, "1 to 16 characters"),
        (RetrieveRequest, {"output_dir": "/o", "selections": [{"row": 3}]}, "selections.0: a selection needs"),
        (RetrieveRequest, {"output_dir": "/o", "study_uid": "1.2", "selections": [{"study_uid": "1.2"}]}, "leave out"),
        (RetrieveRequest, {"study_uid": "1.2"}, "output_dir or to"),
        (RetrieveRequest, {"study_uid": "1.2", "output_dir": "/o", "to": {"ae_title": "OTHER"}}, "another AE"),
        (RetrieveRequest, {"study_uid": "1.2", "to": {"ae_title": "OTHER"}, "layout": "{Modality}"}, "no layout"),
        (GetRequest, {"study_uid": "1.2", "output_dir": "/o", "sop_instance_uids": ["1.3"]}, "series_uid"),
    ],
)
def test_a_wrong_request_is_one_sentence_that_names_the_field(
    request_type: type[Request], fields: dict[str, object], named: str
) -> None:
    """Nothing is opened for it, and the sentence says what to correct."""
    with pytest.raises(InvalidRequestError, match="Correct it and try again") as raised:
        build(request_type, fields)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_request_never_repeats_a_value() -> None:
    """The sentence goes to logs and to Flower; a value may be a patient's name."""
    with pytest.raises(InvalidRequestError) as raised:
        build(FindRequest, {"keys": {"PatientName": ["Secret^Name"]}, "limit": "Secret^Name"})
    assert "Secret" not in str(raised.value)


def test_an_ae_title_loses_its_padding() -> None:
    """Leading and trailing spaces are not significant (PS3.5 section 6.2)."""
    assert RemoteAE(ae_title=" ORTHANC  ").ae_title == "ORTHANC"


def test_a_request_cannot_be_changed() -> None:
    """Nor can its keys, which are a mapping."""
    request = FindRequest(keys={"PatientID": "1"})
    with pytest.raises(ValidationError):
        request.limit = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        request.keys["PatientID"] = "2"  # type: ignore[index]
    assert json.loads(request.model_dump_json())["keys"] == {"PatientID": "1"}


def test_the_keys_of_a_row_stand_behind_those_of_all() -> None:
    """The last word stands where one names an attribute by its tag and the other by its keyword."""
    batch = FindBatchRequest(keys={"00100020": "", "PatientID": "all", "Modality": "CT"}, limit=3)
    query = batch.of_row({"00100020": "P1"})
    assert list(query.keys.items()) == [("PatientID", "all"), ("Modality", "CT"), ("00100020", "P1")]
    assert (query.limit, query.remote) == (3, batch.remote)


NAME = "Secret^Patient"


@pytest.mark.parametrize(
    "fields",
    [
        {"charset": NAME},
        {NAME: 1},
        {"keys": {NAME: 1}},
        {"keys": {"PatientName": f"{NAME}\ud800"}},
        {"keys": {f"{NAME}\ud800": ""}},
        {"remote": {NAME: NAME}},
        {"remote": {"charset": NAME, "host": NAME * 100}},
        {"level": NAME, "query_model": NAME, "limit": NAME, "timeout": NAME, "strict": NAME, "local": NAME},
        {f"{NAME} {number}": NAME for number in range(10_000)},
        {NAME * 1_000_000: 1},
    ],
    ids=range(10),
)
def test_what_is_public_of_a_wrong_request_is_short_and_says_nothing_of_the_caller(fields: dict[str, object]) -> None:
    """Results and logs get the public half. The caller sees a part of the own words in the other one."""
    with pytest.raises(InvalidRequestError) as raised:
        build(FindRequest, fields)
    public = str(raised.value.public())
    assert "secret" not in public.lower()
    assert len(public) < 2_000
    assert len(raised.value.subject) <= 200
    assert str(raised.value).isprintable()


def test_a_layout_is_not_repeated_either() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        build(RetrieveRequest, {"study_uid": "1.2", "output_dir": "/o", "layout": f"{{{NAME}}}"})
    assert NAME not in str(raised.value.public())
    assert NAME in raised.value.subject
