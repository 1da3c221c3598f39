"""Public tasks with their queues and the fields of their requests."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from docs.generator.markdown import code, docstring, summary, table
from docs.generator.settings import comments_of
from pacs_tasks.ae import TLS, LocalAE, RemoteAE
from pacs_tasks.operations import OPERATIONS, Operation
from pacs_tasks.request import FindRow, Request, Selection

_INTRODUCTION = """\
# Tasks and schemas

A service enqueues these tasks by name from its own Celery app; see [From a service](../howto/from-a-service.md). Each
task takes one argument, `request`, a JSON object. Name the queue explicitly.

"""

_COMMON = """
## Fields of every request

`remote` is the PACS, `local` this side, `timeout` the longest silence of the PACS in seconds. Where a request omits
`local` or `timeout`, the settings of the worker apply.

"""

_RESULTS = """
## Results

`AsyncResult.get()` returns the summary of the job: its category, counts, bytes and seconds. It holds no path, no match
and no patient data. The id of the task is the id of the job. `pacs-tasks status ID` and `PacsClient().job(ID)` return
the details.
"""

#: Values within requests.
_ROWS: tuple[type[BaseModel], ...] = (Selection, FindRow)


def page(_root: Path) -> str:
    """A table of all tasks, then the fields of each request."""
    rows = [(f"[`{task}`](#{_anchor(task)})", code(row.queue), _purpose(row)) for task, row in OPERATIONS.items()]
    overview = table(["Task", "Queue", "Purpose"], rows)
    common = _fields(Request, set()) + "".join(_model(each) for each in (RemoteAE, LocalAE, TLS))
    sections = "".join(_section(task, row) for task, row in OPERATIONS.items())
    return _INTRODUCTION + overview + _COMMON + common + sections + "".join(_model(each) for each in _ROWS) + _RESULTS


def _anchor(task: str) -> str:
    return task.replace(".", "")


def _purpose(row: Operation) -> str:
    return summary(row.request)


def _section(task: str, row: Operation) -> str:
    text = docstring(row.request)
    fields = _fields(row.request, set(Request.model_fields)) or "No further fields.\n"
    return f"\n## `{task}`\n\nQueue `{row.queue}`, request `{row.request.__name__}`. {text}\n\n{fields}"


def _model(model: type[BaseModel]) -> str:
    return f"\n### {model.__name__}\n\n{docstring(model)}\n\n{_fields(model, set())}"


def _fields(model: type[BaseModel], left_out: set[str]) -> str:
    schema = model.model_json_schema(mode="validation", by_alias=False)
    comments = _comments(model)
    rows = []
    for name, field in model.model_fields.items():
        if name not in left_out:
            described = schema["properties"][name]
            default = (
                "required" if field.is_required() else code(_default(field.get_default(call_default_factory=True)))
            )
            rows.append((code(name), code(_kind(described)), default, comments.get(name, "")))
    if not rows:
        return ""
    noted = any(row[3] for row in rows)
    header = ["Field", "Type", "Default", *(["Meaning"] if noted else [])]
    return table(header, [row if noted else row[:3] for row in rows])


def _comments(model: type[BaseModel]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        file = inspect.getsourcefile(each) if issubclass(each, BaseModel) and each is not BaseModel else None
        if file is not None:
            found |= {name: text for name, text in comments_of(Path(file), each.__name__).items() if text}
    return found


def _kind(described: dict[str, Any]) -> str:
    """A JSON type in words."""
    if "$ref" in described:
        return str(described["$ref"]).rpartition("/")[2]
    if "anyOf" in described:
        kinds = [_kind(each) for each in described["anyOf"]]
        return " or ".join(each for each in kinds if each != "null")
    if described.get("type") == "array":
        return f"list of {_kind(described.get('items', {}))}"
    return str(described.get("type", "object"))


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value in (None, "", ()) else str(value)
