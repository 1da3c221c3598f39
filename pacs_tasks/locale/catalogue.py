"""The translations of the texts that people read.

Texts are written in English, with their values inside, and perhaps by a worker on another machine. They are translated
where they are shown: a text is compared with the templates of the catalogue, such as ``{remote} rejected the
association``, and its values are filled into the translation. What programs read is not translated: JSON, CSV, logs.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

LOCALE = Path(__file__).parent
DOMAIN = "pacs_tasks"
#: A template with fewer letters than this fits figures only, since it would fit names of files and patients too.
_FEW_LETTERS = 8
_FIGURES = r"(?:No match|[\d.,]+(?: [kMGT]?B)?(?: [a-z ]+)?(?:, [\d.,]+ [a-z ]+)*)"
_DEPTH = 4
_PLACEHOLDER = r"\{(\w+)\}"
_SENTENCES = r"(?<=[.!?]) +(?=[A-Z`‘'\"/\d])"


class _Template(NamedTuple):
    """A text with placeholders: its longest part without one, the pattern that it makes, and its translation."""

    core: str
    pattern: str
    translation: str


class Catalogue:
    """The translations of one language, from a ``.mo`` file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            read = gettext.GNUTranslations(file)
        # Public methods find one text; the templates must be known to be compared.
        entries: dict[object, str] = vars(read)["_catalog"]
        self._entries = {key: value for key, value in entries.items() if isinstance(key, str) and key}

    @cached_property
    def _templates(self) -> list[_Template]:
        """Every text with placeholders, those with most letters first: they say most about what they fit."""
        found = [(re.split(_PLACEHOLDER, key)[::2], key) for key in self._entries if re.search(_PLACEHOLDER, key)]
        found.sort(key=lambda pair: -sum(map(len, pair[0])))
        return [_Template(max(parts, key=len), _pattern(key), self._entries[key]) for parts, key in found]

    def translate(self, text: str, depth: int = _DEPTH) -> str:
        """Translate a text, its values and its sentences as far as they are known."""
        text = text.strip() or text
        return self._whole(text, depth) or self._sentences(text, depth) or self._after_a_name(text, depth) or text

    def _whole(self, text: str, depth: int) -> str:
        """Translate one text, or a text that was made a sentence; empty if it is not known."""
        found = self._text(text, depth)
        if not found and text.endswith(".") and (found := self._text(text[:-1], depth)):
            return f"{found}。"
        return found

    def _text(self, text: str, depth: int) -> str:
        key = text if text in self._entries else text[:1].lower() + text[1:]
        if key in self._entries:
            return self._entries[key]
        number, _, noun = text.partition(" ")
        if noun in self._entries and number.isdecimal():
            return f"{number} {self._entries[noun]}"
        for core, pattern, translation in self._templates if depth else ():
            if core in text and (found := re.fullmatch(pattern, text, re.DOTALL)):
                values = {name: self.translate(value, depth - 1) for name, value in found.groupdict().items()}
                return re.sub(_PLACEHOLDER, _filled(values), translation)
        return ""

    def _sentences(self, text: str, depth: int) -> str:
        """Translate a text of several known texts: sentences, or what commas separate."""
        for separator, parts in ((" ", re.split(_SENTENCES, text)), (", ", text.split(", "))):
            if len(parts) == 1:
                continue
            done, known, start = [], False, 0
            while start < len(parts):
                stop, whole = self._longest(parts, start, separator, depth)
                known = known or bool(whole)
                done.append(whole or self._after_a_name(parts[start], depth - 1) or parts[start])
                start = stop
            if known:
                return "".join(done) if separator == " " else "，".join(done)
        return ""

    def _longest(self, parts: list[str], start: int, separator: str, depth: int) -> tuple[int, str]:
        """Translate as many parts as one text has; return where the next begins."""
        for stop in range(len(parts) if depth else start, start, -1):
            whole = self._whole(separator.join(parts[start:stop]), depth - 1)
            if whole:
                return stop, whole
        return start + 1, ""

    def _after_a_name(self, text: str, depth: int) -> str:
        """Translate what follows the name of a file or of a command and a colon."""
        for found in re.finditer(": ", text):
            name, rest = text[: found.start()], text[found.end() :]
            said = (self._whole(rest, depth - 1) or self._sentences(rest, depth - 1)) if depth else ""
            if said:
                return f"{self._whole(name, 0) or name}：{said}"
        return ""


def _filled(values: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda found: values[found[1]]


def _pattern(key: str) -> str:
    parts = re.split(_PLACEHOLDER, key)
    letters = sum(each.isalpha() for part in parts[::2] for each in part)
    value = _FIGURES if letters < _FEW_LETTERS else ".*?"
    return "".join(f"(?P<{part}>{value})" if number % 2 else re.escape(part) for number, part in enumerate(parts))


@cache
def chinese() -> Catalogue:
    """Read the catalogue of Chinese."""
    return Catalogue(LOCALE / "zh" / "LC_MESSAGES" / f"{DOMAIN}.mo")
