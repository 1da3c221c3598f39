"""Parts of pages that renew themselves, as server-sent events (WHATWG HTML, section 9.2).

Whoever watches the same part in the same language shares it: it is rendered once a second, and sent where it changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable

from starlette.concurrency import run_in_threadpool

from pacs_tasks.errors import PacsTasksError

#: Seconds from one rendering to the next.
_PAUSE = 1.0
#: Seconds of silence after which a comment shows that both sides are there.
_SILENCE = 15.0
#: Milliseconds after which a browser comes back.
_COME_BACK = 3000


class _Part:
    """One part of a page, rendered for as long as somebody watches it."""

    def __init__(self, render: Callable[[], str]) -> None:
        self._render = render
        self._changed = asyncio.Condition()
        self._text, self._version = "", 0
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None

    async def renew(self) -> None:
        """Render again and again."""
        while True:
            try:
                text = await run_in_threadpool(self._render)
            except PacsTasksError:
                # The Redis is away, or the job has expired. What is shown stays, as it does on paper.
                text = self._text
            if text != self._text:
                async with self._changed:
                    self._text, self._version = text, self._version + 1
                    self._changed.notify_all()
            await asyncio.sleep(_PAUSE)

    async def after(self, version: int) -> tuple[int, str]:
        """Wait for another text than that of a version."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._version > version)
            return self._version, self._text


class Live:
    """The parts that somebody watches."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, _Part] = {}

    async def watch(self, key: Hashable, render: Callable[[], str], known: Callable[[], bool]) -> AsyncIterator[str]:
        """Yield events for one visitor.

        Parameters
        ----------
        key
            What visitors share who see the same.
        render
            Makes the part. It is called in another thread.
        known
            Whether the visitor still may see it. It is called before each event, in another thread.
        """
        part = self._parts.setdefault(key, _Part(render))
        part.watchers += 1
        if part.task is None or part.task.done():
            part.task = asyncio.create_task(part.renew())
        version = 0
        try:
            yield f"retry: {_COME_BACK}\n\n"
            while True:
                try:
                    async with asyncio.timeout(_SILENCE):
                        version, text = await part.after(version)
                except TimeoutError:
                    if part.task.done():
                        return
                    event = ": still here\n\n"
                else:
                    event = "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
                # There is an event a second at most.
                if not await run_in_threadpool(known):
                    return
                yield event
        finally:
            part.watchers -= 1
            if not part.watchers:
                part.task.cancel()
                self._parts.pop(key, None)
