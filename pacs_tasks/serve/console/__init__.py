"""The console: pages for people who look after jobs, at ``/`` and below ``/console``.

They are made by the server, work without a script and load nothing from elsewhere. Others import :func:`mount`.
"""

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from pacs_tasks.serve.access import Services
from pacs_tasks.serve.console.pages import STATIC, Pages
from pacs_tasks.serve.console.routes import router
from pacs_tasks.serve.console.sessions import Sessions


class _Static(StaticFiles):
    """Static files. Their addresses change with their contents."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def mount(app: FastAPI) -> None:
    """Add the pages to an application whose ``app.state.services`` is set."""
    services: Services = app.state.services
    sessions = Sessions(services.client.ledger.client, services.access, services.settings)
    app.state.pages, app.state.sessions = Pages(services), sessions
    services.access.sign_ons.append(sessions.visitor)
    app.mount("/console/static", _Static(directory=STATIC))
    app.include_router(router)
