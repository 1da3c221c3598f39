"""The application that serves the API and the console."""

from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from pacs_tasks.client import PacsClient
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.tokens import Tokens
from pacs_tasks.serve import console, problems
from pacs_tasks.serve.access import Access
from pacs_tasks.serve.guard import Guard
from pacs_tasks.serve.services import Services, Shared
from pacs_tasks.settings import Settings

_DESCRIPTION = """\
Transfer DICOM files to and from a PACS. Each transfer is a job that workers do.

Errors are problem details (RFC 9457). `code` and `detail` are the name and the message that the command line shows.
"""


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
    app.state.services = Services(settings, client, Access(Tokens(client.ledger.client)))
    console.mount(app)
    return app


def bare_app() -> FastAPI:
    """Make the application without a Redis, which is enough to describe it."""
    # The pages of FastAPI about the API load scripts from the internet.
    app = FastAPI(
        title="pacs-tasks", description=_DESCRIPTION, version=version("pacs-tasks"), docs_url=None, redoc_url=None
    )
    app.exception_handler(PacsTasksError)(problems.on_error)
    app.exception_handler(problems.RefusedError)(problems.on_refusal)
    app.exception_handler(HTTPException)(problems.on_http_error)
    app.exception_handler(RequestValidationError)(problems.on_invalid)
    app.add_middleware(Guard, upload="/uploads")
    app.add_api_route("/health", health, tags=["service"])
    return app


def health(services: Shared) -> dict[str, str]:
    """Report whether the Redis answers. It needs no token."""
    services.client.ledger.client.ping()
    return {"status": "up"}
