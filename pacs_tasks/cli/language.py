"""The language of what people read: Chinese where the locale is Chinese, else English.

:mod:`pacs_tasks.locale.catalogue` has the translations.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pacs_tasks.locale.catalogue import Catalogue

#: The variables that name the language, the first that is set decides (POSIX.1-2017 section 8.2).
_VARIABLES = ("PACS_TASKS_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
#: An invisible space after each wide character lets programs that count characters count columns.
_WIDE = "([\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60])"
_INVISIBLE = "\u200b"


class _Language:
    """The language of this process: none is English."""

    catalogue: Catalogue | None = None


def choose(name: str | None = None) -> None:
    """Choose the language by its name, such as ``zh`` or ``zh_CN.UTF-8``; None: by the environment.

    A stream that cannot show Chinese gets English.
    """
    if name is None:
        name = next(filter(None, map(os.environ.get, _VARIABLES)), "")
    if not name.lower().startswith("zh") or not _can_show("中"):
        _Language.catalogue = None
        return
    # English needs none of it.
    from pacs_tasks.locale import catalogue

    _Language.catalogue = catalogue.chinese()


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def chinese() -> bool:
    """Whether people read Chinese."""
    return _Language.catalogue is not None


def translated(text: str) -> str:
    """The text in the language of the people who read it."""
    return text if _Language.catalogue is None else _Language.catalogue.translate(text)


def widened(text: str) -> str:
    """The text with as many characters as it takes columns; :func:`narrowed` reverses it."""
    return text if text.isascii() else re.sub(_WIDE, rf"\1{_INVISIBLE}", text)


def words(text: str) -> list[str]:
    """What a line may be broken between: words, and each Chinese character."""
    return re.split(f"[ {_INVISIBLE}]", widened(text))


def narrowed(text: str) -> str:
    """The text without the characters that :func:`widened` has added."""
    return text.replace(_INVISIBLE, "")
