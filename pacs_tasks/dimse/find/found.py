"""The matches of a query so far, and what makes two of them the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pacs_tasks.dimse.find.query_keys import Path

#: What tells one match from all others.
Identity = tuple[str, ...]


class Found:
    """The matches of a query that may take several requests; each of them once where ``unique`` says how.

    Attributes
    ----------
    limit_hit
        Whether there were more than ``limit``.
    """

    def __init__(self, unique: Sequence[Path], limit: int | None) -> None:
        self._unique, self._limit = unique, limit
        self._known: set[Identity] = set()
        self.matches: list[dict[str, Any]] = []
        self.limit_hit = False

    def add(self, match: dict[str, Any], *, once: bool) -> Identity | None:
        """Take a match, unless it is there already (``once``); give its identity, or nothing if it is one too many."""
        identity = self.identity(match)
        if once and identity in self._known:
            return identity
        if self._limit is not None and len(self.matches) >= self._limit:
            # One more than the limit: only now is it known that there are more.
            self.limit_hit = True
            return None
        self._known.add(identity)
        self.matches.append(match)
        return identity

    def identity(self, match: Mapping[str, Any]) -> Identity:
        """The values of the unique keys; where the last of them is missing, all that the peer said."""
        values = tuple(text_at(match, path) for path in self._unique)
        return values if values[-1] else ("", json.dumps(match, sort_keys=True))


def text_at(match: Mapping[str, Any], path: Path) -> str:
    """The values at a path of a match, in the first item of each sequence, as one text."""
    for tag in path[:-1]:
        items = match.get(f"{tag:08X}", {}).get("Value") or [{}]
        match = items[0] if isinstance(items[0], Mapping) else {}
    values = match.get(f"{path[-1]:08X}", {}).get("Value") or ()
    return "\\".join(str(value) for value in values)
