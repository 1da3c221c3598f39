"""Traces of requests: each job that a request submits belongs to the trace of its header ``traceparent``."""

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pacs_tasks.journal import tracing


@dataclass(frozen=True)
class Traced:
    """The ASGI middleware. A span has the method of the request, and not its path, which may name a job."""

    app: ASGIApp
    collector: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parent = Headers(scope=scope).get(tracing.HEADER)
        with tracing.span(self.collector, f"HTTP {scope['method']}", parent):
            await self.app(scope, receive, send)
