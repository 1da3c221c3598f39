"""What a service enqueues: the same requests as on the command line and in Celery, checked by the same models."""

from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.operations import OPERATIONS
from pacs_tasks.request import AnyRequest, JobRequest, PreflightRequest, StorePathsRequest, build
from pacs_tasks.serve.spool import Spool
from pacs_tasks.settings import Settings

#: The tasks that can send an upload.
_WITH_PATHS = (StorePathsRequest.task, PreflightRequest.task)
_SCHEMAS = "#/components/schemas/"


class Submission(BaseModel):
    """A request to enqueue.

    Attributes
    ----------
    task
        The name of the public task.
    request
        The fields of its request.
    remote
        The name of a remote of the settings, instead of the field ``remote`` of the request.
    upload
        The id of an upload, instead of the field ``paths`` of the request.
    """

    model_config = ConfigDict(extra="forbid")

    task: str
    request: dict[str, Any] = Field(default_factory=dict)
    remote: str | None = None
    upload: str | None = None

    def to_request(self, settings: Settings, spool: Spool, known: Collection[str] = ()) -> AnyRequest:
        """Build the request.

        Parameters
        ----------
        known
            The paths of the job that the same call has enqueued before.

        Raises
        ------
        InvalidRequestError
            If there is no such task or remote, or a field is wrong.
        RefusedError
            If there is no such upload.
        """
        operation = OPERATIONS.get(self.task)
        if operation is None:
            raise InvalidRequestError(f"There is no such task. Name one of {', '.join(OPERATIONS)}.", self.task[:200])
        fields = dict(self.request)
        if self.remote is not None:
            if "remote" in fields:
                raise InvalidRequestError("The remote is named twice. Leave out one of remote and request.remote.")
            fields["remote"] = named(settings, self.remote)
        elif "remote" not in fields and not issubclass(operation.request, JobRequest):
            fields["remote"] = settings.default_remote
        if self.upload is not None:
            if "paths" in fields or self.task not in _WITH_PATHS:
                raise InvalidRequestError(
                    "An upload stands for the field paths. Leave that field out, and name a task that has it: "
                    f"{' or '.join(_WITH_PATHS)}."
                )
            fields["paths"] = [str(spool.path(self.upload, known))]
        return build(operation.request, fields)


def named(settings: Settings, name: str) -> Any:
    """Return the remote of the settings that has this name.

    Raises
    ------
    InvalidRequestError
        If there is none.
    """
    if name not in settings.remotes:
        raise InvalidRequestError("The settings have no remote of this name. `GET /remotes` lists them.", name[:200])
    return settings.remote(name)


def schemas(*others: type[BaseModel]) -> dict[str, Any]:
    """Give the schemas of OpenAPI for :class:`Submission`, with the request of each task, and for other bodies."""
    models = [*(operation.request for operation in OPERATIONS.values()), *others]
    _, found = models_json_schema([(each, "validation") for each in models], ref_template=f"{_SCHEMAS}{{model}}")
    definitions: dict[str, Any] = found["$defs"]
    forms = dict(_forms())
    submission = {
        "description": "A request to enqueue.",
        "oneOf": [{"$ref": f"{_SCHEMAS}{name}"} for name in forms],
        "discriminator": {
            "propertyName": "task",
            "mapping": {form["properties"]["task"]["const"]: f"{_SCHEMAS}{name}" for name, form in forms.items()},
        },
    }
    return {**definitions, **forms, Submission.__name__: submission}


def _forms() -> Iterator[tuple[str, dict[str, Any]]]:
    remote = {"type": "string", "description": "A remote of the settings, instead of `request.remote`."}
    upload = {"type": "string", "description": "The id of an upload, instead of `request.paths`."}
    for task, operation in OPERATIONS.items():
        name = operation.request.__name__
        properties = {"task": {"const": task}, "request": {"$ref": f"{_SCHEMAS}{name}"}, "remote": remote}
        form = {
            "type": "object",
            "properties": {**properties, "upload": upload} if task in _WITH_PATHS else properties,
            "required": ["task"],
            "additionalProperties": False,
        }
        yield f"Submit{name}", form
