"""Markdown from docstrings and values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_ROLE = re.compile(r":(?:\w+:)?(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")
_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(_cell(each) for each in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def code(text: str) -> str:
    """Text in backquotes; empty text stays empty."""
    return f"`{text}`" if text else ""


def escaped(text: str) -> str:
    """Plain text whose characters have no meaning in Markdown, except between backquotes."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(each if each.startswith("`") else re.sub(r"([\\*_<>\[\]{}#])", r"\\\1", each) for each in pieces)


def prose(text: str) -> str:
    """Markdown for reStructuredText as docstrings use it."""
    text = _ROLE.sub(lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def summary(documented: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return prose(" ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split()))


def docstring(documented: object) -> str:
    """A whole numpydoc docstring: its sections become lists."""
    text = prose(inspect.getdoc(documented) or "")
    first, *rest = _SECTION.split(text)
    parts = [_literals(first.strip())]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        parts.append(f"**{title}**\n\n{_entries(body)}")
    return "\n\n".join(parts)


def _literals(text: str) -> str:
    """A literal block (``::``) becomes a block of code."""
    return re.sub(
        r"::\n\n((?:    .*\n?|\n)+)", lambda found: f":\n\n```text\n{inspect.cleandoc(found[1])}\n```\n", text
    )


def _entries(body: str) -> str:
    """The entries of a section: a name at the margin, its text indented below."""
    entries: list[tuple[str, list[str]]] = []
    for line in body.strip("\n").splitlines():
        if line and not line.startswith(" "):
            entries.append((line.strip(), []))
        elif line.strip() and entries:
            entries[-1][1].append(line.strip())
    lines = []
    for names, told in entries:
        shown = ", ".join(f"`{name.strip()}`" for name in names.split(","))
        lines.append(f"- {shown}: {' '.join(told)}" if told else f"- {shown}")
    return "\n".join(lines)
