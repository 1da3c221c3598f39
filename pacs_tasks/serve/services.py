"""What the routes of one application share."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from pacs_tasks.client import PacsClient
from pacs_tasks.serve.access import Access
from pacs_tasks.serve.spool import Spool
from pacs_tasks.serve.watch import Watch
from pacs_tasks.settings import Settings


@dataclass(frozen=True)
class Services:
    """The settings, the client, the access, the watch and the uploads of one application."""

    settings: Settings
    client: PacsClient
    access: Access
    watch: Watch
    spool: Spool


async def services_of(request: Request) -> Services:
    """Return what belongs to the application of a request. FastAPI would run it in a thread if it were not async."""
    return cast(Services, request.app.state.services)


Shared = Annotated[Services, Depends(services_of)]
