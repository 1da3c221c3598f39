"""The language of a page: that of the switch, or else the first of the browser's that there is."""

from __future__ import annotations

from functools import cache

from pacs_tasks.locale.catalogue import Catalogue, chinese

#: The languages of the console, with the names that their speakers read.
LANGUAGES = {"en": "English", "zh": "中文"}
#: The value of the attribute ``lang`` (BCP 47), by which browsers choose fonts and screen readers voices.
TAGS = {"en": "en-GB", "zh": "zh-Hans"}


class Texts:
    """The texts of one language. It is called with a text of the source, and the values of its placeholders."""

    def __init__(self, language: str) -> None:
        self.language = language if language in LANGUAGES else "en"
        self.tag = TAGS[self.language]

    def __call__(self, text: str, **values: object) -> str:
        """Translate a text of the templates and fill its values in."""
        known = _chinese().translate(text) if self.language == "zh" else text
        return known.format(**values) if values else known

    def said(self, text: str) -> str:
        """Translate what a worker or an error says, whose values are filled in already."""
        return _chinese().translate(text) if self.language == "zh" and text else text


@cache
def _chinese() -> Catalogue:
    return chinese()


def preferred(header: str) -> str:
    """Choose by the value of Accept-Language (RFC 9110 section 12.5.4); English where it names none of ours."""
    weighted: list[tuple[float, str]] = []
    for each in header.split(","):
        tag, _, parameter = each.partition(";")
        language = tag.strip().lower().partition("-")[0]
        try:
            weight = float(parameter.strip().removeprefix("q=")) if parameter.strip() else 1.0
        except ValueError:
            continue
        if language in LANGUAGES and weight > 0:
            weighted.append((weight, language))
    # The first of several with the same weight.
    return max(weighted, key=lambda pair: pair[0], default=(1.0, "en"))[1]
