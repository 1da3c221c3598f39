"""Every request, with any field wrong in any way: refused in one bounded sentence, or the same behind Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.ledger.keys import dump_request, load_request
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.request import AnyRequest, build
from tests.fuzz.values import JSON

#: Characters of the longest message.
_LONGEST: Final = 20_000
#: A valid request of each operation.
VALID: Final[Mapping[str, Mapping[str, Any]]] = {
    "EchoRequest": {"remote": {"host": "pacs.example", "port": 104}, "local": {"ae_title": "ME"}, "timeout": 3},
    "StoreRequest": {"path": "/data/张三.dcm"},
    "StoreDirectoryRequest": {"directory": "/data", "files_per_task": 7},
    "StorePathsRequest": {"paths": ["/data", "/a.dcm"]},
    "PreflightRequest": {"directory": "/data"},
    "FindRequest": {"keys": {"PatientName": "张*", "00080060": "CT"}, "limit": 3, "charset": "GB18030"},
    "FindBatchRequest": {"rows": [{"number": 2, "keys": {"PatientID": "1"}}]},
    "MoveRequest": {"move_aet": "OTHER", "study_uid": "1.2.3"},
    "GetRequest": {"output_dir": "/out", "study_uid": "1.2", "series_uid": "1.3", "sop_instance_uids": ["1.4"]},
    "RetrieveRequest": {"selections": [{"study_uid": "1.2", "row": 2}], "output_dir": "/out", "layout": "{PatientID}"},
    "VerifyRequest": {"job_id": "0123456789abcdef0123456789abcdef"},
    "CommitRequest": {"job_id": "0123456789abcdef0123456789abcdef"},
}


# Strategies that are made once: to make one takes longer than to draw from it.
_KINDS: Final = st.sampled_from([row.request for row in OPERATIONS.values()])
_NAMES: Final = {row.request: st.sampled_from([*row.request.model_fields, "unknown"]) for row in OPERATIONS.values()}
_INNER: Final = st.sampled_from(["host", "port", "ae_title", "tls", "PatientName", "unknown"])
_CHANGES: Final = st.integers(1, 3)
_WITHIN: Final = st.booleans()


@st.composite
def _requests(draw: st.DrawFn) -> tuple[type[AnyRequest], dict[str, Any]]:
    kind = draw(_KINDS)
    fields = json.loads(json.dumps(VALID[kind.__name__]))
    for _ in range(draw(_CHANGES)):
        name, value = draw(_NAMES[kind]), draw(JSON)
        inner = fields.get(name)
        if isinstance(inner, dict) and draw(_WITHIN):
            inner[draw(_INNER)] = value
        elif isinstance(inner, list) and draw(_WITHIN):
            inner.append(value)
        else:
            fields[name] = value
    return kind, fields


def check(case: object) -> None:
    """A request that is accepted is the same when a worker reads it."""
    assert isinstance(case, tuple)
    kind, fields = case
    try:
        request = build(kind, fields)
    except InvalidRequestError as error:
        length = len(str(error))
    else:
        _check_way_through_redis(request)
        length = 0
    assert length < _LONGEST, "the message grows with the request"


def _check_way_through_redis(request: AnyRequest) -> None:
    text, bulk = dump_request(request)
    # Redis holds UTF-8.
    text, bulk = text.encode().decode(), bulk.encode().decode()
    assert load_request("job", request.task, text, bulk or None) == request
    hash(repr(request))


REQUESTS: Final = _requests()
