"""The forms by which jobs are submitted: their fields, and the requests that they make.

Each field has the name of the field of the request, which validates its value: a form has no rules of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pacs_tasks.ae import RemoteAE
from pacs_tasks.cli.input.dates import as_dicom
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import (
    AnyRequest,
    EchoRequest,
    FindRequest,
    Level,
    Priority,
    RetrieveRequest,
    StoreDirectoryRequest,
    StoreRequest,
    build,
)
from pacs_tasks.settings import Settings

#: The choices of remotes that are no name of one: that of the settings, and one that the form describes.
DEFAULT_REMOTE = ""
OTHER_REMOTE = "+"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form.

    Attributes
    ----------
    name
        That of the field of the request, or of the option of `pacs-tasks query`.
    label, hint
        Texts of the catalogue.
    choices
        The values of a list to choose from; empty for a text.
    """

    name: str
    label: str
    hint: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """A form for one operation, by the name of its command."""

    command: str
    title: str
    request: type[AnyRequest]
    fields: tuple[Field, ...] = ()


_PATIENT_ID = Field("patient_id", "Patient ID")
_ACCESSION = Field("accession_number", "Accession number")
_STUDY_UID = Field("study_uid", "Study Instance UID")
_PRIORITY = Field("priority", "Priority", choices=(Priority.NORMAL, Priority.STAT, Priority.BULK))

FORMS: Mapping[str, Form] = {
    each.command: each
    for each in (
        Form(
            "send-dir",
            "Send a directory",
            StoreDirectoryRequest,
            (Field("directory", "Directory", "An absolute path that the workers see.", required=True), _PRIORITY),
        ),
        Form(
            "send-file",
            "Send a file",
            StoreRequest,
            (Field("path", "File", "An absolute path that the workers see.", required=True), _PRIORITY),
        ),
        Form(
            "query",
            "Query",
            FindRequest,
            (
                Field("patient_id", "Patient ID", "* and ? match any characters."),
                Field("patient_name", "Patient name", "FAMILY^GIVEN. * and ? match any characters."),
                Field("study_date", "Study date", "today, yesterday, -7d, 2024-01-31 or 2024-01-01..2024-01-31"),
                Field("modality", "Modality", "CT, MR, ..."),
                _ACCESSION,
                Field("level", "Level", choices=(Level.STUDY, Level.PATIENT)),
            ),
        ),
        Form(
            "retrieve",
            "Retrieve",
            RetrieveRequest,
            (
                _STUDY_UID,
                _ACCESSION,
                Field("patient_id", "Patient ID", "Fill in one of the three."),
                Field("output_dir", "Save in", "An absolute path that the workers see.", required=True),
                _PRIORITY,
            ),
        ),
        Form("echo", "Echo", EchoRequest),
    )
}


def request_of(form: Form, given: Mapping[str, str], settings: Settings) -> AnyRequest:
    """Make the request that a form asks for.

    Raises
    ------
    ConfigurationError
        If the settings know no remote of that name.
    InvalidRequestError
        If a value is wrong.
    """
    values = {each.name: given.get(each.name, "").strip() for each in form.fields}
    fields: dict[str, Any] = {name: value for name, value in values.items() if value}
    if form.request is FindRequest:
        fields = _query(fields)
    return build(form.request, {**fields, "remote": _remote(given, settings)})


def _query(given: Mapping[str, str]) -> dict[str, Any]:
    """Give the fields of a query, by what the command line makes of its options."""
    # These load pydicom.
    from pacs_tasks.cli.input.keys import criteria
    from pacs_tasks.cli.output.matches import default_columns

    options = {each.name: given.get(each.name) for each in FORMS["query"].fields if each.name != "level"}
    level = Level.PATIENT if given.get("level") == Level.PATIENT else Level.STUDY
    try:
        options["study_date"] = as_dicom(options["study_date"]) if options["study_date"] else None
    except ValueError as error:
        raise InvalidRequestError(f"The study date is wrong: {error}. Correct it.") from None
    keys = criteria(level, None, study_uids=(), **options)
    return {"level": level, "keys": {**dict.fromkeys(default_columns(level), ""), **keys}}


def _remote(given: Mapping[str, str], settings: Settings) -> RemoteAE:
    name = given.get("remote", DEFAULT_REMOTE)
    if name == DEFAULT_REMOTE:
        return settings.default_remote
    if name != OTHER_REMOTE:
        return settings.remote(name)
    fields = {"ae_title": "remote_ae_title", "host": "remote_host", "port": "remote_port"}
    return build(RemoteAE, {name: given[field].strip() for name, field in fields.items() if given.get(field)})
