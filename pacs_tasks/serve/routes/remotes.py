"""The routes of remotes: those of the settings, and all that the fleet has associations with or that are down."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from pacs_tasks.ae import RemoteAE
from pacs_tasks.client import Job
from pacs_tasks.fleet.leases import Associations, name_of
from pacs_tasks.fleet.outages import Outages
from pacs_tasks.outcome import Progress
from pacs_tasks.request import EchoRequest, build
from pacs_tasks.serve.access import Reader, Submitter
from pacs_tasks.serve.problems import RefusedError
from pacs_tasks.serve.routes.shown import progress_for
from pacs_tasks.serve.services import Services, Shared

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


@router.get("", operation_id="list_remotes")
def list_remotes(_caller: Reader, services: Shared) -> RemoteList:
    """List the remotes of the settings, and others with which the fleet has associations open or that are down."""
    return RemoteList(remotes=states(services))


@router.get("/{name}", operation_id="show_remote")
def show_remote(name: RemoteName, _caller: Reader, services: Shared) -> RemoteState:
    """Show how the fleet fares with a remote of the settings."""
    remote = named(services, name)
    return _state(services, name, remote, {each.remote: each for each in services.client.associations()})


@router.post("/{name}/echo", status_code=202, operation_id="echo_remote")
def echo_remote(name: RemoteName, caller: Submitter, services: Shared, response: Response) -> Progress:
    """Enqueue a C-ECHO to a remote of the settings."""
    job = echo(services, name, caller.name)
    response.headers["Location"] = f"/jobs/{job.id}"
    return progress_for(caller, services.client, job.progress())


def echo(services: Services, name: str, requester: str) -> Job:
    """Enqueue a C-ECHO to a remote of the settings; :class:`RefusedError` if there is none of this name."""
    return services.client.enqueue(build(EchoRequest, {"remote": named(services, name)}), requester=requester)


def states(services: Services) -> list[RemoteState]:
    """Read the state of all remotes."""
    used = {each.remote: each for each in services.client.associations()}
    default = services.settings.default_remote
    known: list[tuple[str | None, RemoteAE]] = [
        (name, services.settings.remote(name)) for name in sorted(services.settings.remotes)
    ]
    if name_of(default) not in {name_of(remote) for _, remote in known}:
        known.append((None, default))
    found = [_state(services, name, remote, used) for name, remote in known]
    down = {each.name for each in Outages(services.client.ledger.client).all()}
    others = {*used, *down} - {each.remote for each in found}
    return found + [_other(services, place, used) for place in sorted(others)]


def named(services: Services, name: str) -> RemoteAE:
    """Return a remote of the settings; :class:`RefusedError` if there is none of this name."""
    if name not in services.settings.remotes:
        raise RefusedError(
            404, "RemoteNotFoundError", "The settings have no remote of this name. `GET /remotes` lists them."
        )
    return services.settings.remote(name)


def _state(services: Services, name: str | None, remote: RemoteAE, used: dict[str, Associations]) -> RemoteState:
    place = name_of(remote)
    return RemoteState(
        name=name,
        remote=place,
        ae_title=remote.ae_title,
        host=remote.host,
        port=remote.port,
        tls=remote.tls is not None,
        associations=used.get(place),
        down_since=_down_since(services, place),
    )


def _other(services: Services, place: str, used: dict[str, Associations]) -> RemoteState:
    return RemoteState(name=None, remote=place, associations=used.get(place), down_since=_down_since(services, place))


def _down_since(services: Services, place: str) -> float | None:
    outages = Outages(services.client.ledger.client)
    return outages.since(place) if outages.is_down(place) else None
