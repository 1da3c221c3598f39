"""The error catalogue: every message in the source, with what to do about it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pacs_tasks.errors
from docs.generator.markdown import escaped, summary, table
from pacs_tasks.cli.output import exit_codes
from pacs_tasks.errors import PacsTasksError

_INTRODUCTION = """\
# Error catalogue

Every message reports what happened and then what to do. The command line puts `Error:` before it. Words in *italics*
stand for values such as a remote or a reason. An exception carries the message in `error.message`, and private values
such as a path or a UID in `error.subject`.

[Troubleshooting](../howto/troubleshooting.md) explains the most common ones at length.

"""

_OTHERS = {
    "usage": (
        "Wrong usage",
        "Exit code 2. The command line rejects an option, an argument or a file before it enqueues a job.",
    ),
    "values": (
        "Invalid values",
        "`InvalidRequestError` or `ConfigurationError`, exit code 2. A request or a setting contains a value that is "
        "not allowed. The message names the field before this text.",
    ),
    "damages": (
        "Damages",
        "What a message of the errors above says of a data set, with the element and the byte.",
    ),
    "reasons": (
        "Reasons in outcomes",
        "The table of files and instances, `report` and `outcome.problems` show these reasons. The job itself has an "
        "outcome: its exit code is 1 or 3.",
    ),
}
_USAGE = frozenset({"UsageError", "BadParameter", "BadOptionUsage", "BadArgumentUsage", "ClickException"})
#: Placeholders whose names in the code say little to a reader.
_READABLE = {
    "strerror": "reason",
    "error": "reason",
    "wrong": "fields",
    "exc": "reason",
    "why": "reason",
    "message": "message",
    "self": "value",
    "place": "address",
    "tail": "last lines",
    "step": "next step",
    "advice": "next step",
    "_tls_advice": "next step",
    "tls_advice": "next step",
    "what_next": "next step",
    "_what_next": "next step",
    "hint": "next step",
    "here": "worker",
    "shown": "name",
    "deaths": "number of",
    "getfilesystemencoding": "encoding",
}


@dataclass
class Catalogue:
    """What the walk over the source has found."""

    #: Exception class, by the name that the source gives it, and its base.
    classes: dict[str, str] = field(default_factory=dict)
    functions: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    constants: dict[str, ast.expr] = field(default_factory=dict)
    messages: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def page(root: Path) -> str:
    """One table for each class of error, then those for usage, values and reasons."""
    return _INTRODUCTION + "".join(_sections(found(root)))


def found(root: Path) -> Catalogue:
    """Every message of the source, by class of error or kind."""
    trees = [
        (path, ast.parse(path.read_text("utf-8")))
        for folder in ("pacs_tasks", "workers")
        for path in sorted((root / folder).rglob("*.py"))
        if "testing" not in path.parts
    ] + [(root / "dicom_pacs_transfer.py", ast.parse((root / "dicom_pacs_transfer.py").read_text("utf-8")))]
    catalogue = Catalogue()
    for _, tree in trees:
        _note_definitions(tree, catalogue)
    for path, tree in trees:
        _note_messages(path.relative_to(root), tree, catalogue)
    return catalogue


def _note_definitions(tree: ast.Module, found: Catalogue) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id.endswith("Error"):
                    found.classes[node.name] = base.id
        elif isinstance(node, ast.FunctionDef):
            found.functions[node.name] += _texts_returned(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id.isupper():
                    found.constants[target.id] = node.value


def _texts_returned(function: ast.FunctionDef) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and isinstance(
            node.value, ast.JoinedStr | ast.Constant | ast.BinOp | ast.IfExp
        ):
            yield node.value


def _note_messages(path: Path, tree: ast.Module, found: Catalogue) -> None:
    values = "request" in path.parts or path.name in {"ae.py", "source.py", "model.py", "values.py"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        section = _public(name, found)
        if name in _USAGE or (name == "fail" and "cli" in path.parts):
            section = "usage"
        elif name in {"ValueError", "WrongValueError"} and values:
            section = "values"
        elif name in {"MalformedError", "_SurplusError"}:
            section = "damages"
        if section and node.args:
            found.messages[section].update(_texts(node.args[0], found))
        for keyword in node.keywords:
            if keyword.arg == "reason":
                found.messages["reasons"].update(_texts(keyword.value, found))


def _public(name: str, found: Catalogue) -> str:
    """The class of ``pacs_tasks.errors`` that ``name`` is or derives from; empty if there is none."""
    while name in found.classes and not hasattr(pacs_tasks.errors, name):
        name = found.classes[name]
    kind = getattr(pacs_tasks.errors, name, None)
    return name if isinstance(kind, type) and issubclass(kind, PacsTasksError) else ""


def _texts(node: ast.expr, found: Catalogue, depth: int = 0) -> Iterator[str]:
    """The templates that an expression may give; nothing where it gives a value that is made elsewhere."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body, found, depth)
        yield from _texts(node.orelse, found, depth)
    elif isinstance(node, ast.Name) and node.id in found.constants and depth < 3:
        yield from _texts(found.constants[node.id], found, depth + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and depth < 3:
        for returned in found.functions.get(node.func.id, []):
            yield from _texts(returned, found, depth + 1)
    else:
        text = template(node, found)
        # A template of placeholders only has nothing to read.
        if re.search(r"[a-z]{3,}", re.sub(r"‹[^›]*›", "", text)):
            yield text


def template(node: ast.expr, found: Catalogue) -> str:
    """The text of a literal, its placeholders between ‹ and ›."""
    text = ""
    match node:
        case ast.Constant(value=str() | int() | float() as value):
            text = value if isinstance(value, str) else f"{value:g}"
        case ast.Name(id=name) if isinstance(found.constants.get(name), ast.Constant):
            text = template(found.constants[name], found)
        case ast.JoinedStr(values=values):
            text = "".join(template(each, found) for each in values)
        case ast.FormattedValue(value=value):
            known = template(value, found) if isinstance(value, ast.Name | ast.BinOp) else ""
            text = known or f"‹{_placeholder(value)}›"
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
            text = _quotient(template(left, found), template(right, found))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            text = _sum(template(left, found), template(right, found))
    return text


def _sum(left: str, right: str) -> str:
    """Two texts joined, or two constants added; empty where a number is added to a value that is not known."""
    numbers = [float(each) for each in (left, right) if re.fullmatch(r"\d+(?:\.\d+)?", each)]
    if len(numbers) == 2:
        return f"{sum(numbers):g}"
    return "" if numbers else left + right


def _quotient(dividend: str, divisor: str) -> str:
    """A constant in the unit of a message; empty where it is not one."""
    try:
        return f"{float(dividend) / float(divisor):g}"
    except ValueError:
        return ""


def _placeholder(node: ast.expr) -> str:
    """A name for a value that a reader understands."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return "class" if name == "__name__" else _READABLE.get(name, name).strip("_").lower().replace("_", " ")
        case ast.Call(args=[first, *_]) | ast.BoolOp(values=[first, *_]) | ast.BinOp(left=first):
            return _placeholder(first)
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _placeholder(inner)
    return "value"


def _sections(found: Catalogue) -> Iterator[str]:
    for kind in _in_order(PacsTasksError):
        messages = found.messages.get(kind.__name__)
        if messages:
            code_of = int(exit_codes.of_error(kind("")))
            yield f"## {kind.__name__}\n\n{summary(kind)} Exit code {code_of}.\n\n{_rows(messages)}\n"
    for name, (title, text) in _OTHERS.items():
        if found.messages.get(name):
            yield f"## {title}\n\n{text}\n\n{_rows(found.messages[name])}\n"


def _in_order(kind: type[PacsTasksError]) -> Iterator[type[PacsTasksError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == PacsTasksError.__module__:
            yield from _in_order(child)


def _rows(messages: set[str]) -> str:
    rows = [tuple(_shown(part) for part in _parts(each)) for each in messages]
    return table(["What happened", "What to do"], sorted(set(rows), key=lambda row: [each.lower() for each in row]))


def _parts(text: str) -> tuple[str, str]:
    """The first sentence, and the others; in a message of one sentence, what follows the first semicolon."""
    text = " ".join(text.split())
    sentences = re.match(r"(.+?[.!?])\s+(?=[A-Z`‹])(.+)", text)
    if sentences:
        return sentences[1], sentences[2]
    happened, _, remedy = text.partition("; ")
    return happened, remedy


def _shown(text: str) -> str:
    """Placeholders in italics; within backquotes in capitals."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        re.sub(r"‹([^›]*)›", lambda found: found[1].upper(), each)
        if each.startswith("`")
        else re.sub(r"‹([^›]*)›", r"*\1*", escaped(each))
        for each in pieces
    )
