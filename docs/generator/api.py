"""The public names of the package: classes, methods and fields."""

from __future__ import annotations

import ast
import inspect
from enum import Enum
from pathlib import Path
from typing import Any, ForwardRef

from pydantic import BaseModel

import pacs_tasks
from docs.generator.markdown import code, docstring, escaped, prose, summary, table
from docs.generator.settings import comments_of, fields_of
from pacs_tasks.request import Request

_INTRODUCTION = """\
# Python API

Import every name on this page from `pacs_tasks`. [From Python](../howto/from-python.md) has examples. For tests,
`pacs_tasks.testing` provides `TestPACS` and `Faults`. The class `DicomPacsTransfer` lives in `dicom_pacs_transfer`.

"""


def page(_root: Path) -> str:
    """The classes that act in full; requests, outcomes, values and errors as lists."""
    public = {name: getattr(pacs_tasks, name) for name in sorted(pacs_tasks.__all__)}
    errors = {name: each for name, each in public.items() if _is(each, Exception)}
    requests = {name: each for name, each in public.items() if _is(each, Request)}
    enums = {name: each for name, each in public.items() if _is(each, Enum)}
    models = {name: each for name, each in public.items() if _is(each, BaseModel) and name not in requests}
    rest = [each for name, each in public.items() if name not in {*errors, *requests, *enums, *models}]
    doers = [each for each in rest if inspect.isclass(each)]
    return "".join(
        [
            _INTRODUCTION,
            "## Classes\n",
            *(_doer(each) for each in doers),
            "\n## Requests\n\n[Tasks and schemas](tasks.md) lists their fields.\n\n",
            table(["Request", "Purpose"], [(code(name), summary(each)) for name, each in requests.items()]),
            "\n## Values and outcomes\n",
            *(_model(each) for each in models.values()),
            "\n## Enumerations\n\n",
            table(["Name", "Values", "Meaning"], [_enum(name, each) for name, each in enums.items()]),
            "\n## Exceptions\n\nThe [error catalogue](errors.md) lists their messages.\n\n",
            table(["Exception", "Base", "Meaning"], [_error(name, each) for name, each in errors.items()]),
        ]
    )


def _is(value: Any, kind: type) -> bool:
    return inspect.isclass(value) and issubclass(value, kind)


def _doer(kind: type) -> str:
    parts = [f"\n### {kind.__name__}\n\n`{kind.__name__}{_signature(kind)}`\n\n{docstring(kind)}\n"]
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if inspect.isfunction(member):
            parts.append(f"\n#### {kind.__name__}.{name}\n\n`{name}{_signature(member)}`\n\n{docstring(member)}\n")
        elif isinstance(member, property):
            parts.append(f"\n#### {kind.__name__}.{name}\n\nProperty. {docstring(member.fget)}\n")
    return "".join(parts)


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    kept = [each for each in signature.parameters.values() if each.name != "self"]
    plain = [each.replace(annotation=_annotation(each.annotation)) for each in kept]
    returned = _annotation(signature.return_annotation)
    text = ", ".join(_parameter(each) for each in plain)
    ended = "" if returned in ("", "None", inspect.Signature.empty) else f" -> {returned}"
    return f"({text}){ended}"


def _parameter(each: inspect.Parameter) -> str:
    annotation = "" if each.annotation in ("", inspect.Parameter.empty) else f": {each.annotation}"
    default = "" if each.default is inspect.Parameter.empty else f" = {each.default!r}"
    return f"{each.name}{annotation}{default}"


def _annotation(annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _model(model: type[BaseModel]) -> str:
    comments: dict[str, str] = {}
    types: dict[str, str] = {}
    for each in reversed(model.__mro__):
        file = inspect.getsourcefile(each) if issubclass(each, BaseModel) and each is not BaseModel else None
        if file is not None:
            comments |= comments_of(Path(file), each.__name__)
            types |= {name: ast.unparse(node.annotation) for name, node in fields_of(Path(file), each.__name__).items()}
    rows = [(code(name), code(types[name]), prose(comments[name])) for name in model.model_fields]
    properties = [
        (code(name), "property", escaped(summary(member)))
        for name, member in inspect.getmembers(model, lambda each: isinstance(each, property))
        if not name.startswith(("model_", "__"))
    ]
    return f"\n### {model.__name__}\n\n{docstring(model)}\n\n" + table(["Field", "Type", "Meaning"], rows + properties)


def _enum(name: str, kind: Any) -> tuple[str, str, str]:
    return code(name), ", ".join(code(str(each.value)) for each in kind), summary(kind)


def _error(name: str, kind: Any) -> tuple[str, str, str]:
    return code(name), code(kind.__base__.__name__), summary(kind)
