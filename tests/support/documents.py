"""What the documents say, for tests: fenced blocks, tables, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.support.processes import ROOT

DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"
README_ZH: Final = ROOT / "README.zh-CN.md"
CHINESE: Final = (README_ZH, *sorted((DOCS / "zh").glob("*.md")))
#: What people read who use it. Contributors find their commands on a page of their own.
ENGLISH: Final = (
    README,
    *sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "zh" and path.name != "contributing.md"),
)

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block, its language, and its first line's number in the document."""

    document: Path
    language: str
    text: str
    line: int
    #: The text block right after it: what it prints, as the document says.
    prints: str = ""

    @property
    def place(self) -> str:
        """Its document and line, as a test names it."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def key(self) -> str:
        """Its last line, by which a test finds its rule."""
        return self.text.rstrip().splitlines()[-1].strip()


def blocks(document: Path, *languages: str) -> list[Block]:
    """The fenced blocks of these languages, in order."""
    text = document.read_text("utf-8")
    found = [
        Block(document, each.group(1), each.group(2), text.count("\n", 0, each.start(2)) + 1)
        for each in _FENCE.finditer(text)
    ]
    following = [*found, Block(document, "", "", 0)][1:]
    return [
        replace(each, prints=after.text if after.language == "text" else "")
        for each, after in zip(found, following, strict=True)
        if each.language in languages
    ]


def distinct(documents: Iterable[Path], *languages: str) -> list[Block]:
    """The blocks of these documents, each text once, with everything that its pages say that it prints."""
    found: dict[tuple[str, str], Block] = {}
    for document in documents:
        for block in blocks(document, *languages):
            first = found.setdefault((block.language, block.text), block)
            if block.prints not in first.prints:
                found[block.language, block.text] = replace(first, prints=first.prints + block.prints)
    return list(found.values())


def shapes(text: str) -> set[str]:
    """The lines of a text without what differs from run to run: numbers, units, ids, passwords, frames of tables."""
    for pattern, instead in (
        (r"\b[0-9a-f]{32}\b", "ID"),
        (r"password \S+", "password P"),
        (r"@[\w.-]+", "@HOST"),
        (r"\d[\d.:-]*( [kMGT]?B\b)?", "#"),
        (r"[ \t─]+", " "),
    ):
        text = re.sub(pattern, instead, text)
    return {line.strip() for line in text.splitlines() if line.strip()}


def table_rows(document: Path, first_cell: str) -> list[tuple[str, ...]]:
    """The rows of every table whose first cell matches ``first_cell`` in full; backquotes are left out."""
    rows = []
    for line in document.read_text("utf-8").splitlines():
        if line.startswith("|"):
            cells = tuple(cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|"))
            if re.fullmatch(first_cell, cells[0]):
                rows.append(cells)
    return rows


def headings(document: Path) -> set[str]:
    """The anchors that links may name, as a forge makes them."""
    text = _FENCE.sub("", document.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def lost_links(document: Path) -> list[str]:
    """Its links to files of the checkout that are not there, or to headings that these do not have."""
    text = _FENCE.sub("", document.read_text("utf-8"))
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if "://" not in target and not (path.is_file() and (not anchor or anchor in headings(path))):
            lost.append(target)
    return lost
