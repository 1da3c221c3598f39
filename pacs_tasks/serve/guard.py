"""What every request and response passes: a limit of the body, the headers that browsers obey, and a trace."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pacs_tasks.cli.output.terminal import place_of
from pacs_tasks.journal import tracing
from pacs_tasks.serve import problems
from pacs_tasks.serve.routes import uploads

logger = logging.getLogger("pacs_tasks.serve")

#: Bytes of a body, except that of an upload. A batch of 100,000 queries has some megabytes.
LARGEST_BODY = 32 << 20
#: Bytes of a form of the console, which anybody may send who wants to log in.
_LARGEST_FORM = 1 << 20
_FORMS = "/console/"
#: Headers of every response that has no others of its own.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Middleware: limits bodies, except uploads, which have a limit of their own, and adds headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # RFC 9110 section 9.3.2: the same as GET. uvicorn, which still knows the method, leaves out the body.
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        problem = None
        limited = _Limited(receive, _LARGEST_FORM if scope["path"].startswith(_FORMS) else LARGEST_BODY)
        try:
            if scope["path"] == uploads.PATH:
                await self._app(scope, receive, send_guarded)
            elif limited.announces_too_much(scope):
                problem = _too_large(limited.most)
            else:
                await self._app(scope, limited, send_guarded)
        except _TooLargeError:
            problem = _too_large(limited.most)
        except Exception as error:  # noqa: BLE001 - uvicorn would log its values, which may be patient data
            logger.error("unexpected %s", place_of(error))
            problem = _DEFECT
        if problem is not None and not begun:
            await problem(scope, receive, send_guarded)


@dataclass(frozen=True)
class Traced:
    """Middleware: each job that a request submits belongs to the trace of its header ``traceparent``.

    A span has the method of the request, and not its path, which may name a job.
    """

    app: ASGIApp
    collector: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parent = Headers(scope=scope).get(tracing.HEADER)
        with tracing.span(self.collector, f"HTTP {scope['method']}", parent):
            await self.app(scope, receive, send)


def _without_body(send: Send) -> Send:
    """End each response with its headers: a stream would never end."""
    ended = False

    async def send_head(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            await send(message)
        elif not ended:
            ended = True
            await send({"type": "http.response.body"})

    return send_head


class _TooLargeError(Exception):
    pass


class _Limited:
    """The body of a request, up to the limit."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._size, self.most = receive, 0, most

    def announces_too_much(self, scope: Scope) -> bool:
        announced = Headers(scope=scope).get("content-length", "0")
        return announced.isascii() and announced.isdigit() and int(announced) > self.most

    async def __call__(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self.most:
            raise _TooLargeError
        return message


def _too_large(most: int) -> Response:
    return problems.response(
        413,
        "ContentTooLargeError",
        f"The body is larger than {most} bytes. Divide the request, or upload files to /uploads.",
        {"Connection": "close"},
    )


_DEFECT = problems.response(
    500,
    "UnexpectedError",
    "An unexpected error ended this request. See the log of `pacs-tasks serve` for details.",
)
