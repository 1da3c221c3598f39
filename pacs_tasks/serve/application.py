"""The application that serves the API and the console, and the description of the API in OpenAPI 3.1."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from pacs_tasks.client import PacsClient
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.tokens import Tokens
from pacs_tasks.metrics import CONTENT_TYPE, exposition
from pacs_tasks.serve import console, problems
from pacs_tasks.serve.access import Access, Reader, Services, Shared
from pacs_tasks.serve.guard import Guard, Traced
from pacs_tasks.serve.routes import jobs, remotes, streams, submission, uploads
from pacs_tasks.serve.spool import Spool
from pacs_tasks.serve.watch import Watch
from pacs_tasks.settings import Settings

logger = logging.getLogger("pacs_tasks.serve")

#: Seconds between two looks for uploads that are over.
_SWEEP = 5.0

_DESCRIPTION = """\
Transfer DICOM files to and from a PACS. Each transfer is a job that workers do.

Errors are problem details (RFC 9457). `code` and `detail` are the name and the message that the command line shows.
"""
_PROBLEM = {
    "description": "A problem (RFC 9457).",
    "content": {problems.MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{problems.Problem.__name__}"}}},
}
#: What FastAPI would say of errors that we report as problems.
_NOT_OURS = ("HTTPValidationError", "ValidationError")


def create_app(settings: Settings, client: PacsClient) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    settings
        Its settings.
    client
        The client of the Redis that it serves; the caller closes it after the application has ended.
    """
    app = bare_app()
    app.state.services = Services(
        settings,
        client,
        Access(Tokens(client.ledger.client)),
        Watch(client),
        Spool(settings.uploads, settings.serve_upload_bytes, settings.serve_keep_uploads),
    )
    console.mount(app)
    if settings.traces is not None:
        app.add_middleware(Traced, collector=settings.traces)
    return app


def bare_app() -> FastAPI:
    """Make the application without a Redis, which is enough to describe it."""
    # The pages of FastAPI about the API load scripts from the internet.
    app = FastAPI(
        title="pacs-tasks",
        description=_DESCRIPTION,
        version=version("pacs-tasks"),
        docs_url=None,
        redoc_url=None,
        lifespan=_sweeping,
    )
    app.exception_handler(PacsTasksError)(problems.on_error)
    app.exception_handler(problems.RefusedError)(problems.on_refusal)
    app.exception_handler(HTTPException)(problems.on_http_error)
    app.exception_handler(RequestValidationError)(problems.on_invalid)
    app.add_middleware(Guard)
    app.add_api_route("/health", health, tags=["service"], operation_id="health")
    app.add_api_route("/metrics", metrics, tags=["service"], operation_id="metrics", response_class=PlainTextResponse)
    for each in (jobs, streams, remotes, uploads):
        app.include_router(each.router)
    app.openapi = partial(_describe, app)  # type: ignore[method-assign]  # as FastAPI's documentation has it
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    """Describe the routes of an application, with the request of each operation."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas: dict[str, Any] = document["components"]["schemas"]
        for name in _NOT_OURS:
            schemas.pop(name, None)
        schemas.update(submission.schemas(jobs.Verification))
        schemas[problems.Problem.__name__] = problems.Problem.model_json_schema()
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _PROBLEM
        app.openapi_schema = document
    return app.openapi_schema


@asynccontextmanager
async def _sweeping(app: FastAPI) -> AsyncIterator[None]:
    """Remove uploads that are over, from time to time, for as long as the application runs."""
    services: Services = app.state.services

    async def sweep() -> None:
        while True:
            try:
                await asyncio.to_thread(services.spool.sweep, services.client)
            except (PacsTasksError, OSError) as error:
                logger.warning("uploads were not removed: %s", type(error).__name__)
            await asyncio.sleep(_SWEEP)

    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def health(services: Shared) -> dict[str, str]:
    """Report whether the Redis answers. It needs no token."""
    services.client.ledger.client.ping()
    return {"status": "up"}


def metrics(services: Shared, _caller: Reader) -> Response:
    """Give the figures of the fleet in the text format of Prometheus."""
    return Response(exposition(services.client.ledger.client), media_type=CONTENT_TYPE)
