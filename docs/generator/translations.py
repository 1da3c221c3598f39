"""The catalogue of translations: every text that people read on the command line and in the console.

A text with values is a template such as ``{remote} rejected the association``. Each template of the source is an entry
of ``pacs_tasks/locale/zh/LC_MESSAGES/pacs_tasks.po``; the ``.mo`` beside it is compiled from that and ships.
"""

from __future__ import annotations

import ast
import datetime
import inspect
import io
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import click
from jinja2 import Environment
from jinja2.ext import extract_from_ast

import pacs_tasks
from docs.generator import errors
from pacs_tasks.cli.output.exit_codes import Advice
from pacs_tasks.cli.program import commands
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import Category, InstanceCategory, JobState
from pacs_tasks.serve.console import fleet
from pacs_tasks.serve.console.forms import FORMS
from pacs_tasks.serve.console.views import Label

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog

CATALOGUE = Path(pacs_tasks.__file__).parent / "locale/zh/LC_MESSAGES/pacs_tasks.po"

#: Folders and files of the command line whose texts people read.
_SHOWN = ("output", "input", "commands", "stack", "running.py", "program.py", "invocation.py", "declarations.py")
#: Functions whose texts are written to files or read by programs: logs, protocols, keys.
_UNSEEN = frozenset(
    {"debug", "info", "warning", "error", "exception", "log", "get", "open", "startswith", "endswith", "removeprefix",
     "removesuffix", "replace", "compile", "strftime", "command", "option", "argument", "getLogger", "RuntimeError",
     "encode", "decode", "setattr", "getattr", "which", "TypeVar", "TextColumn", "group", "version_option",
     "SharedOption", "Choice", "join_lines"}
)  # fmt: skip
#: Functions each of whose texts is shown, however short it is.
_SEEN = frozenset({"Fact", "Table", "Cell", "counted", "say", "complain", "translated"})
#: What click itself prints.
_CLICK = (
    "Usage:", "Commands", "Options", "Error:", "Show this message and exit.", "Show the version and exit.",
    "env var: {var}",
    "default: {default}", "required", "Missing argument", "Missing option", "Missing argument {name}.",
    "Missing option {name}.", "No such option: {name}", "No such option {name}.", "No such command {name}.",
    "Did you mean {name}?", "(Possible options: {names})", "Option {name} requires an argument.",
    "Got unexpected extra argument ({names})", "Got unexpected extra arguments ({names})",
    "No such option {name}. (Did you mean one of: {names}?)", "No such command {name}. (Did you mean one of: {names}?)",
    "Invalid value for {name}: {message}", "Invalid value: {message}",
    "Invalid value for {name} (env var: {var}): {message}", "{value} is not a valid whole number.",
    "{value} is not a valid number of seconds.", "{value} is not one of {values}.",
    "{value} is not in the range {range}.", "{value} is not a valid integer.", "Option {name} does not take a value.",
)  # fmt: skip


def messages(root: Path) -> list[str]:
    """Every text that people read, sorted."""
    found = {*_CLICK, *_help(commands), *(str(each) for each in Advice)}
    found |= {str(each) for kind in (Category, InstanceCategory, JobState) for each in _members(kind)}
    found |= {text for each in OPERATIONS.values() for text in (each.done, each.done.capitalize(), each.item)}
    sizes = ("{size}", "{size} ({bytes} in all)")
    found |= {f"{each} {done}" for each in sizes for done in ("sent", "received")}
    known = errors.found(root)
    found |= {_numbered(each) for texts in known.messages.values() for each in texts}
    for path in sorted((root / "pacs_tasks/cli").rglob("*.py")):
        # The headings of matches are DICOM's.
        if path.name != "matches.py" and not set(path.relative_to(root / "pacs_tasks/cli").parts).isdisjoint(_SHOWN):
            found |= {_numbered(each) for each in _texts(ast.parse(path.read_text("utf-8")), known)}
    for path in sorted((root / "pacs_tasks").rglob("*.py")):
        # What a worker explains, it writes in sentences.
        if {"dimse", "tasks", "outcome", "ledger", "fleet"} & set(path.relative_to(root / "pacs_tasks").parts):
            texts = _texts(ast.parse(path.read_text("utf-8")), known)
            found |= {_numbered(each) for each in texts if re.fullmatch(r"[A-Z].*[a-z] .*\.", each)}
    found |= set(_console(root, known))
    return sorted({_tidy(each) for each in found if _is_text(_tidy(each))})


def _console(root: Path, known: errors.Catalogue) -> Iterator[str]:
    """The texts of the console: of its templates, its forms, the states of jobs, and what it refuses."""
    yield from map(str, Label)
    yield from fleet.QUEUES.values()
    for form in FORMS.values():
        yield form.title
        for field in form.fields:
            yield from (field.label, field.hint)
    console = root / "pacs_tasks/serve/console"
    for path in sorted((console / "templates").rglob("*.html")):
        parsed = Environment(autoescape=True).parse(path.read_text("utf-8"))
        for _, _, message in extract_from_ast(parsed, ["_"]):
            # A text with values comes with a place for each of them.
            if text := message[0] if isinstance(message, tuple) else message:
                yield text
    for path in (root / "pacs_tasks/serve/access.py", *sorted(console.glob("*.py"))):
        texts = _texts(ast.parse(path.read_text("utf-8")), known)
        yield from (_numbered(each) for each in texts if re.fullmatch(r"[A-Z].*[a-z] .*\.", each))


def _is_text(text: str) -> bool:
    """Whether there is something to translate: no style, name of a module, command or figure."""
    names = r"bold|red|green|yellow|stdout|query --worklist|Basic .*"
    return not re.fullmatch(rf"[\w.]*\.[a-z_.]+|\d*|\w+:\{{\w+\}}|{names}", text)


def _members(kind: type[StrEnum]) -> Iterable[StrEnum]:
    return kind


def _tidy(text: str) -> str:
    """One line, except where a help text has paragraphs."""
    return inspect.cleandoc(text) if "\n\n" in text or "\b" in text else " ".join(text.removeprefix(", ").split())


def _help(command: click.Command) -> Iterator[str]:
    """The help of a command, of its options and of its own commands."""
    yield from filter(None, (command.help, command.epilog))
    for param in command.params:
        if isinstance(param, click.Option):
            yield param.help or ""
            yield param.show_default if isinstance(param.show_default, str) else ""
    for each in getattr(command, "commands", {}).values():
        yield from _help(each)


def _texts(tree: ast.AST, known: errors.Catalogue, *, all_shown: bool = False) -> Iterator[str]:
    """The texts of a file, without docstrings and without what only programs read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            text = errors.template(node, known)
            if text:
                letters = re.sub(r"‹[^›]*›", "", text)
                sentence = re.search(r"[a-z]{2,} |[a-z]{3,}[.:]| [a-z]{2,}", letters)
                if sentence or (all_shown and re.search(r"[A-Za-z]{2,}", letters)):
                    yield text
                continue
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in _UNSEEN:
                continue
            yield from _texts(node, known, all_shown=name in _SEEN)
            if name == "counted" and len(node.args) == 2:
                # The usual plural, which the source does not spell out.
                yield errors.template(node.args[1], known) + "s"
            continue
        yield from _texts(node, known, all_shown=all_shown and not isinstance(node, ast.FunctionDef | ast.ClassDef))


def _numbered(text: str) -> str:
    """Placeholders in braces, the second of a name with the number 2."""
    count: dict[str, int] = {}

    def name(found: re.Match[str]) -> str:
        plain = re.sub(r"\W+", "_", found[1]).strip("_") or "value"
        count[plain] = count.get(plain, 0) + 1
        return "{" + plain + (str(count[plain]) if count[plain] > 1 else "") + "}"

    return re.sub(r"‹([^›]*)›", name, re.sub(r"\{(\w+)![rs]\}", r"{\1}", text))


def renew(root: Path) -> list[str]:
    """Add new texts, drop those that the source has no more, and compile; return those without a translation."""
    # Only those who change texts need Babel.
    from babel.messages import mofile
    from babel.messages.catalog import Catalog

    old = load()
    # Without dates, which would differ each time.
    epoch = datetime.datetime.fromtimestamp(0, datetime.UTC)
    new, whole = (Catalog(locale="zh", creation_date=epoch, revision_date=epoch) for _ in range(2))
    for each in messages(root):
        known = old.get(each)
        said = str(known.string) if known is not None else ""
        new.add(each, said)
        if said:
            whole.add(each, said)
    file = io.BytesIO()
    mofile.write_mo(file, whole)
    CATALOGUE.write_bytes(_written(new))
    CATALOGUE.with_suffix(".mo").write_bytes(file.getvalue())
    return [str(each.id) for each in new if each.id and not each.string]


def load() -> Catalog:
    """The catalogue as it is committed."""
    from babel.messages import pofile

    with CATALOGUE.open("rb") as file:
        return pofile.read_po(file, locale="zh")


def _written(catalogue: Catalog) -> bytes:
    from babel.messages import pofile

    file = io.BytesIO()
    pofile.write_po(file, catalogue, width=110, omit_header=True, sort_output=True)
    header = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n"Language: zh\\n"\n\n'
    return header.encode() + file.getvalue()
