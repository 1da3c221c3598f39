"""The routes of remotes: those of the settings, and all that the fleet has associations with or that are down."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from pacs_tasks.ae import RemoteAE
from pacs_tasks.client import Job, PacsClient
from pacs_tasks.fleet.leases import Associations, name_of
from pacs_tasks.fleet.outages import Outages
from pacs_tasks.outcome import Progress
from pacs_tasks.request import EchoRequest, build
from pacs_tasks.serve.access import Reader, Services, Shared, Submitter
from pacs_tasks.serve.problems import RefusedError
from pacs_tasks.serve.routes.jobs import accepted

router = APIRouter(prefix="/remotes", tags=["remotes"])

RemoteName = Annotated[str, Path(min_length=1, max_length=200, description="The name of a remote in the settings.")]


class RemoteState(BaseModel):
    """A remote, and how the fleet fares with it.

    Attributes
    ----------
    name
        Its name in the settings; None if it has none there.
    remote
        Its AE title and address, as in the jobs.
    associations
        Those in use and waited for; None if there are none.
    down_since
        When it went down, in Unix seconds; None if it is not down.
    """

    name: str | None
    remote: str
    ae_title: str | None = None
    host: str | None = None
    port: int | None = None
    tls: bool | None = None
    associations: Associations | None = None
    down_since: float | None = None


class RemoteList(BaseModel):
    """All remotes: those of the settings by name, the default one, then others that are in use or down."""

    remotes: list[RemoteState]


class _Fleet:
    """What the fleet has open and what is down at this moment."""

    def __init__(self, client: PacsClient) -> None:
        self._used = {each.remote: each for each in client.associations()}
        self._down = {each.name: each.since for each in Outages(client.ledger.client).all()}

    def state(self, remote: RemoteAE, name: str | None) -> RemoteState:
        """Give the state of a remote of the settings."""
        about = {"ae_title": remote.ae_title, "host": remote.host, "port": remote.port, "tls": remote.tls is not None}
        return self._state(name_of(remote), name, **about)

    def others(self, known: Iterable[RemoteState]) -> list[RemoteState]:
        """Give the states of all others that are in use or down."""
        places = {*self._used, *self._down} - {each.remote for each in known}
        return [self._state(place, None) for place in sorted(places)]

    def _state(self, place: str, name: str | None, **about: Any) -> RemoteState:
        used, since = self._used.get(place), self._down.get(place)
        return RemoteState(name=name, remote=place, associations=used, down_since=since, **about)


@router.get("", operation_id="list_remotes")
def list_remotes(_caller: Reader, services: Shared) -> RemoteList:
    """List the remotes of the settings, and others with which the fleet has associations open or that are down."""
    settings, fleet = services.settings, _Fleet(services.client)
    found = [fleet.state(settings.remote(name), name) for name in sorted(settings.remotes)]
    if name_of(settings.default_remote) not in {each.remote for each in found}:
        found.append(fleet.state(settings.default_remote, None))
    return RemoteList(remotes=found + fleet.others(found))


@router.get("/{name}", operation_id="show_remote")
def show_remote(name: RemoteName, _caller: Reader, services: Shared) -> RemoteState:
    """Show how the fleet fares with a remote of the settings."""
    remote = _named(services, name)
    return _Fleet(services.client).state(remote, name)


@router.post("/{name}/echo", status_code=202, operation_id="echo_remote")
def echo_remote(name: RemoteName, caller: Submitter, services: Shared, response: Response) -> Progress:
    """Enqueue a C-ECHO to a remote of the settings."""
    return accepted(echo(services, name, caller.name), caller, services, response)


def echo(services: Services, name: str, requester: str) -> Job:
    """Enqueue a C-ECHO to a remote of the settings; :class:`RefusedError` if there is none of this name."""
    return services.client.enqueue(build(EchoRequest, {"remote": _named(services, name)}), requester=requester)


def _named(services: Services, name: str) -> RemoteAE:
    if name not in services.settings.remotes:
        raise RefusedError(
            404, "RemoteNotFoundError", "The settings have no remote of this name. `GET /remotes` lists them."
        )
    return services.settings.remote(name)
