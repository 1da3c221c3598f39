"""Parts of pages that renew themselves are for those whom the console still knows."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from pacs_tasks.serve.console import pages


def test_a_stream_that_always_changes_ends_with_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that runs changes each second. Whoever has logged out after two events sees no third one."""
    monkeypatch.setattr(pages, "_PAUSE", 0.0)
    numbers, known = count(), iter([True, True])

    async def watch() -> list[str]:
        events = pages.Live().watch("job", lambda: str(next(numbers)), lambda: next(known, False))
        return [await anext(events, "ended") for _ in range(4)]

    head, *changes, last = asyncio.run(watch())
    assert head.startswith("retry: ")
    assert all(event.startswith("data: ") for event in changes)
    assert last == "ended"
