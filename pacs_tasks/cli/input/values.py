"""The types of options and arguments, and checked paths.

Declaring an option must not import pydantic, so a type imports its rule when it checks a value.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import click

from pacs_tasks.cli.input.dates import as_dicom
from pacs_tasks.cli.output.terminal import readable
from pacs_tasks.errors import UnreadableInputError


class Checked(click.ParamType[str]):
    """Text that a rule of the requests or settings checks, so that a wrong value is wrong usage."""

    def __init__(self, name: str, rule: Callable[[], Any]) -> None:
        self.name = name
        self._rule = rule

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if param is not None and value == param.default:
            return str(value)
        from pydantic import TypeAdapter, ValidationError

        try:
            return str(TypeAdapter(self._rule()).validate_python(value))
        except ValidationError as error:
            self.fail(f"{value!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}.", param, ctx)


class WholeNumber(click.IntRange):
    """A whole number in a range."""

    name = "whole number"


class Seconds(click.FloatRange):
    """A number of seconds in a range."""

    name = "number of seconds"


class StudyDate(click.ParamType[str]):
    """A day or a range of days, as people write it."""

    name = "DATE[..DATE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return as_dicom(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class Key(click.ParamType[tuple[str, str]]):
    """``KEYWORD`` requests an attribute, ``KEYWORD=VALUE`` matches it too."""

    name = "KEYWORD[=VALUE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        keyword, _, wanted = str(value).partition("=")
        keyword = keyword.strip()
        if not keyword.isascii() or not all(part.isalnum() for part in keyword.split(".")):
            self.fail(
                f"{keyword!r} is not a keyword of the DICOM data dictionary. Write a keyword such as StudyDescription "
                "or StudyDescription=CHEST*, or SEQUENCE.KEYWORD for an attribute within a sequence.",
                param,
                ctx,
            )
        return keyword, wanted


class UIDs(click.ParamType[tuple[str, ...]]):
    """One UID, or several with backslashes between them (PS3.5 section 6.4)."""

    name = "UID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(UID.convert(each, param, ctx) for each in str(value).split("\\"))


def _ae() -> Any:
    from pacs_tasks import ae

    return ae


def _request() -> Any:
    from pacs_tasks import request

    return request


def _layout() -> Any:
    from pydantic import AfterValidator

    from pacs_tasks.request.template import check

    return Annotated[str, AfterValidator(check)]


AE_TITLE = Checked("AE title", lambda: _ae().AETitle)
HOST = Checked("host", lambda: _ae().Host)
FILE_NAME = Checked("file", lambda: _ae().FileName)
SERVER_NAME = Checked("host", lambda: _ae().ServerName)
CHARSET = Checked("character set", lambda: _ae().Charset)
UID = Checked("UID", lambda: _request().UID)
ACCESSION_NUMBER = Checked("accession number", lambda: _request().AccessionNumber)
PATIENT_ID = Checked("Patient ID", lambda: _request().PatientID)
LAYOUT = Checked("layout", _layout)


def absolute(path: str) -> str:
    """Make a path absolute, since a worker has another current directory.

    Raises
    ------
    UnreadableInputError
        If the path is not Unicode, so that no request can hold it, or is one of Windows on another system.
    """
    if _ae().is_foreign_path(path):
        raise UnreadableInputError(
            "This is a path of Windows, and this machine has nothing of that name. Name a path of this machine, such "
            "as /data/dicom_files.",
            readable(path),
        )
    found = os.path.normpath(Path(path).expanduser().absolute())
    if readable(found) != found:
        raise UnreadableInputError(
            "This path has bytes that are not UTF-8. Name a directory above it.", readable(found)
        )
    return found


def local_directory(path: str) -> str:
    """Make an existing directory of this machine absolute; raises :class:`UnreadableInputError`."""
    found = Path(absolute(path))
    if not found.exists():
        raise UnreadableInputError("There is no such directory. Check the path.", str(found))
    if not found.is_dir():
        raise UnreadableInputError("This is a file, not a directory. Use send-file for one file.", str(found))
    return str(found)


def local_file(path: str) -> str:
    """Make the path of an existing file of this machine absolute; raises :class:`UnreadableInputError`."""
    found = Path(absolute(path))
    if not found.exists():
        raise UnreadableInputError("There is no such file. Check the path.", str(found))
    if found.is_dir():
        raise UnreadableInputError("This is a directory, not a file. Use send-dir for all of its files.", str(found))
    return str(found)


def local_path(path: str) -> str:
    """Make the path of an existing file or directory of this machine absolute; raises :class:`UnreadableInputError`."""
    found = Path(absolute(path))
    if not found.exists():
        raise UnreadableInputError("There is no such file or directory. Check the path.", str(found))
    return str(found)


def local_output(path: str) -> str:
    """Make a directory absolute that exists or can be made; raises :class:`UnreadableInputError`."""
    found = Path(absolute(path))
    nearest = next(parent for parent in (found, *found.parents) if parent.exists())
    if not nearest.is_dir():
        raise UnreadableInputError("This is a file, not a directory. Name another --output-dir.", str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UnreadableInputError(
            "This directory is not writable. Change its permissions, or name another --output-dir.", str(nearest)
        )
    return str(found)
