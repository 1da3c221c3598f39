"""Following jobs: the progress of a job is read once for all who watch it, so that they cost the job nothing."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field
from functools import cached_property

from pacs_tasks.cli.output.terminal import place_of
from pacs_tasks.client import PacsClient
from pacs_tasks.errors import JobNotFoundError, PacsTasksError, without_comments
from pacs_tasks.outcome import Progress

logger = logging.getLogger("pacs_tasks.serve")

#: Seconds between two looks at the ledger, and what each watcher adds, so that an event to each takes a few hundredths
#: of a core however many there are.
_PAUSE = 0.5
_PAUSE_PER_WATCHER = 0.005
#: Seconds without a change after which watchers get a sign of life, which finds the dead among them.
_QUIET = 15.0


@dataclass(frozen=True)
class Update:
    """The progress of a job as it was read.

    Attributes
    ----------
    whole, public
        For those who may see patient data, and for all.
    """

    whole: Progress
    public: Progress

    @cached_property
    def whole_event(self) -> bytes:
        """The server-sent event for those who may see patient data."""
        return _event(self.whole)

    @cached_property
    def public_event(self) -> bytes:
        """The server-sent event for all."""
        return _event(self.public)


def _event(progress: Progress) -> bytes:
    name = f"id: {end_id(progress)}\nevent: end" if progress.state.finished else "event: progress"
    return f"{name}\ndata: {progress.model_dump_json()}\n\n".encode()


def end_id(progress: Progress) -> str:
    """Give the id of the event of the end; empty before."""
    return f"end-{progress.attempt}" if progress.state.finished else ""


@dataclass
class _Channel:
    """What is known of a watched job, and who waits for more."""

    watchers: int = 0
    update: Update | None = None
    gone: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, update: Update | None) -> None:
        if update is None:
            self.gone = True
        elif self.update is not None and update.whole == self.update.whole:
            return
        else:
            self.update = update
        before, self.changed = self.changed, asyncio.Event()
        before.set()


class Watch:
    """Follows jobs for all connections of one application, within one event loop."""

    def __init__(self, client: PacsClient) -> None:
        self._client = client
        self._channels: dict[str, _Channel] = {}
        self._new = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def follow(self, job_id: str) -> AsyncGenerator[Update | None]:
        """Yield the progress of a job now and after each change until it ends or its record is gone.

        None is a sign of life: nothing has changed for a while.
        """
        channel = self._channels.setdefault(job_id, _Channel())
        if channel.update is not None and channel.update.whole.state.finished:
            # The job may have begun anew since.
            channel.update = None
        channel.watchers += 1
        self._wake(at_once=channel.update is None)
        try:
            seen: Update | None = None
            while not channel.gone:
                changed = channel.changed
                if channel.update is not None and channel.update is not seen:
                    seen = channel.update
                    yield seen
                    if seen.whole.state.finished:
                        return
                    continue
                try:
                    async with asyncio.timeout(_QUIET):
                        await changed.wait()
                except TimeoutError:
                    yield None
        finally:
            channel.watchers -= 1
            if not channel.watchers:
                self._channels.pop(job_id, None)

    def _wake(self, *, at_once: bool) -> None:
        if at_once:
            self._new.set()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Read the progress of all watched jobs, again and again, for as long as there are any."""
        while self._channels:
            self._new.clear()
            try:
                found = await asyncio.to_thread(self._read_all, list(self._channels))
            except PacsTasksError:
                # A Redis that is away comes back; until then nothing changes, but who has nothing yet learns that.
                found = {job_id: None for job_id, each in self._channels.items() if each.update is None}
            for job_id, update in found.items():
                if (channel := self._channels.get(job_id)) is not None:
                    channel.publish(update)
            watchers = sum(channel.watchers for channel in self._channels.values())
            with contextlib.suppress(TimeoutError):
                # Somebody who begins to watch another job is not kept waiting.
                await asyncio.wait_for(self._new.wait(), max(_PAUSE, watchers * _PAUSE_PER_WATCHER))

    def _read_all(self, job_ids: Collection[str]) -> dict[str, Update | None]:
        found: dict[str, Update | None] = {}
        for job_id in job_ids:
            try:
                progress = self._client.job(job_id).progress()
                found[job_id] = Update(progress, public(self._client, progress))
            except JobNotFoundError:
                found[job_id] = None
            except PacsTasksError:
                raise
            except Exception as error:  # noqa: BLE001 - others are watched too
                logger.error("a job that is watched cannot be read (%s)", place_of(error))
                found[job_id] = None
        return found


def public(client: PacsClient, progress: Progress) -> Progress:
    """Give the progress of a job without patient data: its error may name a path, and a remote may say anything."""
    if not (progress.error or progress.waiting_reason):
        return progress
    error = client.ledger.public_error(progress.job_id) if progress.error else ""
    reason = without_comments(progress.waiting_reason)
    return progress.model_copy(update={"error": without_comments(error), "waiting_reason": reason})
