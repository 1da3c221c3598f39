"""The addresses of the console: pages, parts that renew themselves, and forms."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from pacs_tasks.client import Job
from pacs_tasks.errors import ConfigurationError, InvalidRequestError, JobError, PacsTasksError
from pacs_tasks.ledger.tokens import Scope
from pacs_tasks.request import VerifyRequest, build
from pacs_tasks.serve.access import Caller, Services, check_scope
from pacs_tasks.serve.console.forms import FORMS, Form, request_of
from pacs_tasks.serve.console.pages import LANGUAGES, Look, Pages, Texts, preferred
from pacs_tasks.serve.console.sessions import FORM_FIELD, FormToken, Sessions
from pacs_tasks.serve.problems import RefusedError, status_of
from pacs_tasks.serve.routes.remotes import echo

LOGIN = "/console/login"
_LANGUAGE_COOKIE = "pacs_tasks_language"
_YEAR = 365 * 86_400
#: Pages load what this server has, and send forms to it only. There is no inline script and no inline style.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


class _NotSignedInError(Exception):
    """Nobody knows who visits."""


class Visit:
    """One request for a page: its texts, its form token, and who makes it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.services: Services = request.app.state.services
        self.pages: Pages = request.app.state.pages
        self.sessions: Sessions = request.app.state.sessions
        chosen = request.cookies.get(_LANGUAGE_COOKIE, "")
        self.texts = Texts(chosen if chosen in LANGUAGES else preferred(request.headers.get("accept-language", "")))
        self.form_token = FormToken(request)
        self.caller: Caller | None = None

    @property
    def query(self) -> dict[str, str]:
        return dict(self.request.query_params)

    @property
    def look(self) -> Look:
        caller = self.caller or Caller("", frozenset())
        return Look(self.texts.language, patients=caller.may(Scope.PATIENTS), submit=caller.may(Scope.SUBMIT))

    @property
    def name(self) -> str:
        """Who requests a job, for the audit trail."""
        return self.caller.name if self.caller else ""

    async def form(self) -> dict[str, str]:
        """Read a form of ours, which another site cannot send.

        Raises
        ------
        RefusedError
            If it does not come from a page of ours.
        """
        given = {name: value for name, value in (await self.request.form()).items() if isinstance(value, str)}
        if not self.form_token.fits(given.get(FORM_FIELD, "")):
            raise RefusedError(403, "OldFormError", "This form is too old. Load the page again and repeat it.")
        return given

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Make a page."""
        text = self.pages.render(
            template,
            self.texts,
            look=self.look,
            caller=self.caller,
            form_field=FORM_FIELD,
            form_token=self.form_token.value,
            path=self.request.url.path,
            here=_here(self.request),
            languages=LANGUAGES,
            signed_on=self.services.settings.serve_proxy_header is not None,
            **values,
        )
        response = HTMLResponse(text, status, {"Content-Security-Policy": POLICY, "Content-Language": self.texts.tag})
        self.form_token.write(response)
        return response

    def part(self, name: str, title: str, **more: str) -> Response:
        """Make a page that is one part that renews itself."""
        query = {**self.query, **more}
        shown = self.pages.part(name, query, self.look)
        live = f"/console/live/{name}?{urlencode(query)}"
        return self.page("part.html", title=title, name=name, shown=shown, live=live, query=query)


def _here(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _requires(scope: Scope) -> Callable[[Request], Visit]:
    """Make the dependency that lets in whoever has a scope."""

    def let_in(request: Request) -> Visit:
        visit = Visit(request)
        visit.caller = visit.services.access.caller(request, None)
        if visit.caller is None:
            raise _NotSignedInError
        check_scope(visit.caller, scope)
        return visit

    return let_in


Reader = Annotated[Visit, Depends(_requires(Scope.READ))]
Submitter = Annotated[Visit, Depends(_requires(Scope.SUBMIT))]
Visitor = Annotated[Visit, Depends(Visit)]


class PageRoute(APIRoute):
    """A route whose errors are pages, and that has whoever is not known log in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except _NotSignedInError:
                wanted = _here(request) if request.method == "GET" else "/"
                return RedirectResponse(f"{LOGIN}?next={quote(wanted)}", 303)
            except RefusedError as error:
                return await run_in_threadpool(_error_page, request, error.status, error.detail)
            except PacsTasksError as error:
                shown = error if isinstance(error, InvalidRequestError | JobError) else error.public()
                return await run_in_threadpool(_error_page, request, status_of(error), shown.message)
            except RequestValidationError:
                return await run_in_threadpool(_error_page, request, 422, "This address is not valid. Correct it.")
            except HTTPException as error:
                missing = "There is no such page. Go back to the jobs."
                return await run_in_threadpool(_error_page, request, error.status_code, missing)

        return handle


def _error_page(request: Request, status: int, message: str) -> Response:
    visit = Visit(request)
    # The page says why, even if nobody can know to whom.
    with contextlib.suppress(PacsTasksError, RefusedError):
        visit.caller = visit.services.access.caller(request, None)
    return visit.page("error.html", status, message=message)


router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
def jobs(visit: Reader) -> Response:
    """Show the jobs, those that need attention first."""
    return visit.part("jobs", "Jobs")


@router.get("/console/find")
def find(visit: Reader) -> Response:
    """Open the job whose id begins so."""
    return _to_job(visit.services.client.find(visit.query.get("id", "").strip()))


@router.get("/console/jobs/{job_id}")
def job(visit: Reader, job_id: str) -> Response:
    """Show one job."""
    return visit.part("job", "Job", job=visit.services.client.find(job_id).id)


@router.get("/console/remotes")
def remotes(visit: Reader) -> Response:
    """Show the remotes and the queues."""
    return visit.part("remotes", "Remotes")


@router.get("/console/fleet")
def fleet(visit: Reader) -> Response:
    """Show the workers and the receivers."""
    return visit.part("fleet", "Workers")


@router.get("/console/live/{name}")
def live(visit: Reader, name: str) -> StreamingResponse:
    """Send a part of a page each time that it changes."""
    if name not in {"jobs", "job", "remotes", "fleet"}:
        raise HTTPException(404)
    query, look, caller = visit.query, visit.look, visit.caller

    events = visit.pages.live.watch(
        (name, *sorted(query.items()), look),
        partial(visit.pages.part, name, query, look),
        lambda: visit.services.access.caller(visit.request, None) == caller,
    )
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.get("/console/new")
def new(visit: Submitter) -> Response:
    """Show the form for a job."""
    query = visit.query
    return _form_page(visit, FORMS.get(query.get("command", ""), FORMS["send-dir"]), query)


@router.post("/console/new")
async def fill_in(visit: Submitter) -> Response:
    """Show the form for a job, with values that no address should have."""
    given = {**visit.query, **await visit.form()}
    return await run_in_threadpool(_form_page, visit, FORMS.get(given.get("command", ""), FORMS["send-dir"]), given)


@router.post("/console/new/{command}")
async def submit(visit: Submitter, command: str) -> Response:
    """Enqueue a job."""
    given = await visit.form()
    if command not in FORMS:
        raise HTTPException(404)
    return await run_in_threadpool(_submit, visit, FORMS[command], given)


def _submit(visit: Visit, form: Form, given: Mapping[str, str]) -> Response:
    try:
        request = request_of(form, given, visit.services.settings)
        # The same form sent twice, by a double click, is one job.
        once = f"console {visit.caller.own(given['once'])}" if visit.caller and given.get("once") else None
        found = visit.services.client.enqueue(request, once, requester=visit.name)
    except (InvalidRequestError, ConfigurationError) as error:
        if status_of(error) not in {422, 500}:
            raise
        return _form_page(visit, form, given, visit.texts.said(error.message), 422)
    return _to_job(found)


def _form_page(visit: Visit, form: Form, given: Mapping[str, str], error: str = "", status: int = 200) -> Response:
    remotes = sorted(visit.services.settings.remotes)
    values = {"form": form, "forms": FORMS, "given": given, "remotes": remotes, "error": error}
    default = visit.services.settings.default_remote
    return visit.page("new.html", status, title=form.title, default=default, once=secrets.token_hex(16), **values)


@router.post("/console/jobs/{job_id}/{action}")
async def act(visit: Submitter, job_id: str, action: str) -> Response:
    """Cancel, retry, resume or verify a job."""
    await visit.form()
    if action not in _ACTIONS:
        raise HTTPException(404)
    return await run_in_threadpool(lambda: _to_job(_ACTIONS[action](visit, visit.services.client.find(job_id))))


def _cancel(_visit: Visit, found: Job) -> Job:
    found.cancel()
    return found


def _verify(visit: Visit, found: Job) -> Job:
    return visit.services.client.enqueue(build(VerifyRequest, {"job_id": found.id}), requester=visit.name)


_ACTIONS: Mapping[str, Callable[[Visit, Job], Job]] = {
    "cancel": _cancel,
    "retry": lambda visit, found: found.retry(visit.name),
    "resume": lambda visit, found: found.resume(visit.name),
    "verify": _verify,
}


@router.post("/console/echo/{name}")
async def echo_remote(visit: Submitter, name: str) -> Response:
    """Echo a remote of the settings."""
    await visit.form()
    return await run_in_threadpool(lambda: _to_job(echo(visit.services, name, visit.name)))


@router.get(LOGIN)
def login_page(visit: Visitor) -> Response:
    """Show the form to log in."""
    return visit.page("login.html", title="Log in", next=visit.query.get("next", "/"), error="")


@router.post(LOGIN)
async def login(visit: Visitor) -> Response:
    """Begin a session."""
    given = await visit.form()
    wanted = given.get("next", "/")
    response = RedirectResponse(_own(wanted), 303)
    if await run_in_threadpool(visit.sessions.begin, given.get("token", "").strip(), visit.request, response):
        return response
    error = "This token is not known. Check it, or ask an administrator for a new one."
    return visit.page("login.html", 403, title="Log in", next=wanted, error=visit.texts(error))


@router.post("/console/logout")
async def logout(visit: Visitor) -> Response:
    """End the session."""
    await visit.form()
    response = RedirectResponse(LOGIN, 303)
    await run_in_threadpool(visit.sessions.end, visit.request, response)
    return response


@router.get("/console/language/{language}")
def choose(visit: Visitor, language: str) -> Response:
    """Choose the language of all pages from now on."""
    response = RedirectResponse(_own(visit.query.get("next", "/")), 303)
    if language in LANGUAGES:
        response.set_cookie(_LANGUAGE_COOKIE, language, max_age=_YEAR, path="/", httponly=True, samesite="strict")
    return response


def _own(address: str) -> str:
    """Give an address of this server; the first page for any other."""
    plain = address.isascii() and address.isprintable() and "\\" not in address
    return address if plain and address.startswith("/") and not address.startswith("//") else "/"


def _to_job(found: Job) -> Response:
    return RedirectResponse(f"/console/jobs/{quote(found.id, safe='')}", 303)
