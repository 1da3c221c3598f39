"""What each page shows, the templates that show it, its language, and the parts of it that renew themselves.

Such a part is rendered for all who see the same, so that it knows no caller: only a
:class:`Look`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from pacs_tasks.cli.output.terminal import size, when
from pacs_tasks.cli.output.view import reason_of
from pacs_tasks.client import Job
from pacs_tasks.errors import InvalidRequestError, PacsTasksError, SealingError
from pacs_tasks.fleet import receivers
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.webhooks import Webhooks
from pacs_tasks.locale.catalogue import chinese
from pacs_tasks.messages.dead_letters import DeadLetters
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.outcome import FindOutcome, TransferOutcome
from pacs_tasks.privacy import plain
from pacs_tasks.request import FindRequest
from pacs_tasks.serve.access import Services
from pacs_tasks.serve.console import fleet
from pacs_tasks.serve.console.views import Group, JobView, JobViews, by_reason, safe_text

STATIC = Path(__file__).parent / "static"
#: Jobs and failed instances on one page.
PAGE = 50
#: Jobs that a filter reads; older ones are found by their ids.
_SEARCHED = 2_000
#: Studies and matches that the page of a job lists.
_LISTED = 200
#: Parts of a summary that each page of a job has anyway.
_SHOWN = ("category", "seconds")
#: Seconds from one rendering to the next.
_PAUSE = 1.0
#: Seconds of silence after which a comment shows that both sides are there.
_SILENCE = 15.0
#: Milliseconds after which a browser comes back.
_COME_BACK = 3000
#: The languages of the console, with the names that their speakers read.
LANGUAGES = {"en": "English", "zh": "中文"}
#: The value of the attribute ``lang`` (BCP 47), by which browsers choose fonts and screen readers voices.
_TAGS = {"en": "en-GB", "zh": "zh-Hans"}


class Texts:
    """The texts of one language. It is called with a text of the source, and the values of its placeholders."""

    def __init__(self, language: str) -> None:
        self.language, self.tag = language, _TAGS[language]

    def __call__(self, text: str, **values: object) -> str:
        """Translate a text of the templates and fill its values in."""
        known = self.said(text)
        return known.format(**values) if values else known

    def said(self, text: str) -> str:
        """Translate what a worker or an error says, whose values are filled in already."""
        return chinese().translate(text) if self.language == "zh" and text else text


def preferred(header: str) -> str:
    """Choose a language by the value of Accept-Language (RFC 9110 section 12.5.4); English where it names none."""
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


@dataclass(frozen=True, slots=True)
class Look:
    """Who sees the same: the language, and what the caller may see and do."""

    language: str
    patients: bool
    submit: bool


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
    """The parts that somebody watches, as server-sent events (WHATWG HTML, section 9.2).

    Whoever watches the same part in the same language shares it: it is rendered once a second, and sent where it
    changed.
    """

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


class Pages:
    """Renders the pages of one application."""

    def __init__(self, services: Services) -> None:
        self.live = Live()
        self._services, self._client = services, services.client
        self._views = JobViews(services.client)
        self._workers = fleet.Workers(services.client, services.settings)
        # Nothing here can be loaded from elsewhere, and every value is escaped.
        self._templates = Environment(
            loader=PackageLoader("pacs_tasks.serve.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"size": size, "when": when, "iso": iso, "span": span, "number": number}
        self._templates.filters |= {"minutes": minutes, "words": words, "without": without}
        commands = sorted({each.command for each in OPERATIONS.values()})
        self._templates.globals |= {"asset": asset, "commands": commands, "safe_text": safe_text}
        self._parts: Mapping[str, Callable[[Mapping[str, str], Look], dict[str, Any]]] = {
            "jobs": self._jobs,
            "job": self._job,
            "remotes": self._remotes,
            "fleet": self._fleet,
        }

    def render(self, template: str, texts: Texts, **values: Any) -> str:
        """Render a template."""
        return self._templates.get_template(template).render(_=texts, texts=texts, plain=plain, **values)

    def part(self, name: str, query: Mapping[str, str], look: Look) -> str:
        """Render a part that renews itself.

        Parameters
        ----------
        name
            That of a part.
        query
            The query of the page's address.

        Raises
        ------
        KeyError
            If there is no such part.
        """
        values = self._parts[name](query, look)
        return self.render(f"parts/{name}.html", Texts(look.language), look=look, query=query, **values)

    def _jobs(self, query: Mapping[str, str], look: Look) -> dict[str, Any]:
        before = query.get("before", "")
        filters = {name: query[name] for name in ("state", "command", "remote") if query.get(name)}
        found: list[JobView] = []
        last, more = before, False
        for each in islice(self._client.ledger.newest(before), _SEARCHED):
            view = self._views.view(each, patients=look.patients)
            if len(found) == PAGE:
                more = True
                break
            last = each.job_id
            if _fits(view, filters):
                found.append(view)
        groups = {group: [each for each in found if each.group is group] for group in Group}
        return {"groups": groups, "filters": filters, "start": before, "next": last if more else ""}

    def _job(self, query: Mapping[str, str], look: Look) -> dict[str, Any]:
        job = self._client.job(query["job"])
        view = self._views.view(job.progress(), patients=look.patients)
        values: dict[str, Any] = {"job": view, "remote": plain(view.progress.remote), "studies": (), "matches": None}
        values |= self._failures(view, query, look)
        finished = view.progress.state.finished
        # The remote is not known if the request cannot be read.
        values["associations"] = job.associations() if view.progress.remote and not finished else None
        values["facts"] = ()
        if finished and not view.error:
            try:
                values |= self._outcome(job, look)
            except SealingError as error:
                values["job"] = replace(view, error=plain(error.message))
        return values

    def _failures(self, view: JobView, query: Mapping[str, str], look: Look) -> dict[str, Any]:
        """Give one page of the failed instances, and all reasons."""
        problems = self._views.problems(view.id) if view.not_done else []
        reasons = by_reason((each for _, each in problems), patients=look.patients)
        start, wanted = whole(query.get("start", "")), query.get("reason", "")
        named = [(index, each, safe_text(reason_of(each), look.patients)) for index, each in problems]
        chosen = [each for each in named if not wanted or reason_id(each[2]) == wanted]
        return {
            "reasons": [(each, reason_id(each.text)) for each in reasons],
            "wanted": wanted,
            "failures": chosen[start : start + PAGE],
            "start": start,
            "listed": len(chosen),
            "not_listed": view.not_done - len(problems),
            "next": start + PAGE if start + PAGE < len(chosen) else None,
        }

    def _outcome(self, job: Job, look: Look) -> dict[str, Any]:
        """Give what a job that has ended has beside counts: studies, matches, or the answer of the remote."""
        request = None
        with contextlib.suppress(InvalidRequestError):
            request = job.request()
        outcome = job.outcome()
        if isinstance(outcome, TransferOutcome):
            worst_first = sorted(outcome.studies, key=lambda each: -(each.missing + each.failed))
            return {"studies": worst_first[:_LISTED], "study_count": len(worst_first)}
        if isinstance(outcome, FindOutcome) and isinstance(request, FindRequest):
            shown = _matches(outcome, request) if look.patients else ((), ())
            known = self._services.settings.remotes.items()
            names = [name for name, each in known if name_of(each) == name_of(request.remote)]
            return {"headings": shown[0], "matches": shown[1], "match_count": outcome.number, "known_as": names}
        said = {name: value for name, value in outcome.summary().items() if name not in _SHOWN and value != ""}
        status = getattr(outcome, "status", None)
        if status is not None:
            said["status"] = f"{status.code:04X}: {status.meaning}"
        return {"facts": tuple(said.items())}

    def _remotes(self, _query: Mapping[str, str], _look: Look) -> dict[str, Any]:
        found = fleet.remotes(self._client, self._services.settings)
        return {"remotes": found, "queues": fleet.queues(self._client)}

    def _fleet(self, _query: Mapping[str, str], _look: Look) -> dict[str, Any]:
        client = self._client.ledger.client
        letters = DeadLetters(client, self._services.settings.keep_jobs).count()
        return {
            "workers": self._workers.known(),
            "receivers": receivers.running(client),
            "letters": letters,
            "undelivered": Webhooks(client).count_given_up(),
        }


def _fits(view: JobView, filters: Mapping[str, str]) -> bool:
    state, command, remote = (filters.get(name, "") for name in ("state", "command", "remote"))
    return (
        (not state or view.group == state)
        and (not command or view.command == command)
        and (not remote or remote.lower() in view.progress.remote.lower())
    )


#: The Study Instance UID of a match, empty for a patient, and its values.
Match = tuple[str, tuple[str, ...]]


def _matches(outcome: FindOutcome, request: FindRequest) -> tuple[tuple[str, ...], tuple[Match, ...]]:
    """Give the headings of matches, and the first of them."""
    # Loads pydicom.
    from pacs_tasks.cli.output.matches import columns_of, new_match_table, text_of

    columns = columns_of(request)
    rows = (
        (text_of(match, "StudyInstanceUID"), tuple(plain(text_of(match, column)) for column in columns))
        for match in outcome.matches[:_LISTED]
    )
    return tuple(map(str, new_match_table(columns).headings)), tuple(rows)


def whole(text: str) -> int:
    """Read where a page begins; 0 for anything else than a number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def reason_id(text: str) -> str:
    """Name a reason in an address, which logs and histories keep."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def span(seconds: float | None) -> str:
    """Write a time that passes, in two units at most: ``4 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts[:2])


def number(value: float) -> str:
    """Write a number with spaces between thousands, as the SI brochure does (section 5.4.4)."""
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 10 or value == int(value) else f"{value:.1f}"


def minutes(seconds: float) -> str:
    """Write a time that passes, which changes once a minute."""
    return span(max(60, seconds - seconds % 60))


def iso(seconds: float) -> str:
    """Write Unix seconds as programs read them (ISO 8601)."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def words(name: str) -> str:
    """Write the name of a field as words: ``Limit hit``."""
    return name.replace("_", " ").capitalize()


def without(query: Mapping[str, str], *names: str) -> str:
    """Write the query of an address without some of its fields."""
    return urlencode({name: value for name, value in query.items() if name not in names})


@cache
def asset(name: str) -> str:
    """Give the address of a static file, which changes with its contents, so that browsers may keep it."""
    return f"/console/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"
