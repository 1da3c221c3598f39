"""The contract with other programs: every schema stands by itself, and says of a document what the models say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from pacs_tasks import schema
from pacs_tasks.cli.program import main
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import InstanceOutcome, JobState, Progress
from pacs_tasks.request import build
from pacs_tasks.schema import JobEvent
from tests.support.processes import ROOT

EVENT = {
    "id": "evt_1",
    "subject": "1",
    "time": "2026-11-26T13:00:00.000+00:00",
    "dataschema": f"{schema.ID}:JobEnded",
    "data": {"job_id": "1", "task": "pacs_tasks.echo", "state": "done", "category": "success", "attempt": 1,
             "remote": "PACS", "created": 1.0, "finished": 2.0},
}  # fmt: skip
#: Documents that the model of this name accepts.
ACCEPTED: dict[str, dict[str, Any]] = {
    "EchoRequest": {"remote": {"ae_title": "PACS", "host": "pacs.example", "port": 104}, "priority": "stat"},
    "StoreRequest": {"path": "/data/1.dcm", "timeout": 5},
    "FindRequest": {"keys": {"PatientID": "P1"}, "level": "STUDY"},
    "RetrieveRequest": {"selections": [{"study_uid": "1.2.3"}], "output_dir": "/data"},
    "JobEvent": EVENT,
    "Progress": {"job_id": "1", "task": "pacs_tasks.echo", "state": "queued", "created": 1.0},
}


def validator(name: str) -> Any:
    found = schema.schema_of(name)
    assert found is not None
    return jsonschema_rs.Draft202012Validator(found)


def test_every_request_outcome_and_event_has_one() -> None:
    """Each stands by itself; a task stands for its request; other names have none."""
    wanted = {each.__name__ for row in OPERATIONS.values() for each in (row.request, row.outcome)}
    wanted |= {each.__name__ for each in (InstanceOutcome, JobEvent, Progress, JobState)}
    assert wanted <= set(schema.names())
    for name in schema.names():
        validator(name)
    assert all(schema.schema_of(task) == schema.schema_of(row.request.__name__) for task, row in OPERATIONS.items())
    assert schema.schema_of("nonsense") is None


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_schema_agrees_with_its_model(name: str) -> None:
    """What the model accepts and writes is valid, and an unknown field is not."""
    models = {row.request.__name__: row.request for row in OPERATIONS.values()}
    if name in models:
        written = build(models[name], ACCEPTED[name]).model_dump(mode="json")
    else:
        known: dict[str, type[JobEvent | Progress]] = {"JobEvent": JobEvent, "Progress": Progress}
        written = known[name].model_validate(ACCEPTED[name]).model_dump(mode="json")
    for document in (ACCEPTED[name], written):
        assert validator(name).is_valid(document), list(validator(name).iter_errors(document))
    assert not validator(name).is_valid({**written, "unknown": 1})


def test_the_command_prints_what_the_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads either gets the same."""
    assert main(["schema"]) == 0
    file = Path(ROOT / "docs" / "reference" / "schema.json")
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text("utf-8"))
    assert main(["schema", "pacs_tasks.store_directory"]) == 0
    assert json.loads(capsys.readouterr().out)["$ref"] == "#/$defs/StoreDirectoryRequest"
    assert main(["schema", "nonsense"]) == 2
