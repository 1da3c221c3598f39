"""The types of options and arguments, and checked paths.

Declaring an option must not import pydantic, so a type imports its rule when it checks a value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import click

from pacs_tasks.cli.input.dates import as_dicom
from pacs_tasks.cli.output.terminal import readable
from pacs_tasks.errors import UnreadableInputError

_AGE = re.compile(r"(\d{1,9})([smhdw])")
_TAG = re.compile(r"(?<![^.])\(?([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)?(?![^.])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
#: The longest value that a file for one option may have, in bytes.
_LONGEST = 10_000


def from_elsewhere(value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
    """Read a value that other users of this machine must not see in the list of processes.

    ``-`` is the line on stdin, ``@FILE`` the line in a file; anything else is the value itself, and ``@@`` begins one
    with ``@``.

    Raises
    ------
    click.BadParameter
        If it cannot be read, or is not one line of text.
    """
    if value != "-" and (value.startswith("@@") or not value.startswith("@")):
        found = value.removeprefix("@") if value.startswith("@@") else value
    else:
        found = _read_line(value, param, ctx)
    if any(each < " " or "\x7f" <= each < "\xa0" for each in found):
        raise click.BadParameter("The value has a line break or another control character. Remove it.", ctx, param)
    return found


def _read_line(value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
    from pacs_tasks.cli.input.batch_file import STDIN, opened

    try:
        with opened(STDIN if value == "-" else value[1:]) as file:
            lines = file.read(_LONGEST).decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise click.BadParameter(
            f"{value!r} cannot be read ({why}). Write - for stdin, @FILE for a file, or @@ for a value that begins "
            "with @.",
            ctx,
            param,
        ) from None
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) != 1:
        raise click.BadParameter(
            f"{value!r} has {len(lines)} lines instead of one. Use --batch for several values.", ctx, param
        )
    return lines[0]


class Checked(click.ParamType[str]):
    """Text that a rule of the requests or settings checks, so that a wrong value is wrong usage.

    With ``private``, the text may be patient data: it may come from stdin or a file.
    """

    def __init__(self, name: str, rule: Callable[[], Any], *, private: bool = False) -> None:
        self.name = name
        self._rule = rule
        self._private = private

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if param is not None and value == param.default:
            return str(value)
        if self._private:
            value = from_elsewhere(str(value), param, ctx)
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


class Modality(click.ParamType[str]):
    """One modality, or several with backslashes between them (PS3.5 section 6.4)."""

    name = "MODALITY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "," in str(value):
            meant = str(value).replace(" ", "").replace(",", "\\")
            self.fail(f"{value!r} is not a modality. Write '{meant}' for several.", param, ctx)
        return str(value)


class Key(click.ParamType[tuple[str, str]]):
    """``KEYWORD`` requests an attribute, ``KEYWORD=VALUE`` matches it too. DCMTK writes tags as ``(gggg,eeee)``."""

    name = "KEYWORD[=VALUE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        keyword, _, wanted = str(value).partition("=")
        keyword = _TAG.sub(r"\1\2", keyword.strip())
        if not keyword.isascii() or not all(part.isalnum() for part in keyword.split(".")):
            self.fail(
                f"{keyword!r} is not a keyword of the DICOM data dictionary. Write a keyword such as StudyDescription "
                "or StudyDescription=CHEST*, or SEQUENCE.KEYWORD for an attribute within a sequence.",
                param,
                ctx,
            )
        return keyword, from_elsewhere(wanted, param, ctx)


class Age(click.ParamType[float]):
    """A time in seconds, minutes, hours, days or weeks."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _AGE.fullmatch(str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is not an age. Write a number with its unit: 30d, 2w, 12h, 90m or 45s.", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


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
ACCESSION_NUMBER = Checked("accession number", lambda: _request().AccessionNumber, private=True)
PATIENT_ID = Checked("Patient ID", lambda: _request().PatientID, private=True)
LAYOUT = Checked("layout", _layout)
#: What a query matches may have wildcards, so no rule but that of privacy holds.
CRITERION = Checked("text", lambda: str, private=True)


def absolute(path: str) -> str:
    """Make a path absolute, since a worker has another current directory.

    Raises
    ------
    UnreadableInputError
        If the path is empty, is not Unicode, so that no request can hold it, or is one of Windows on another system.
    """
    # An empty one would be the current directory: it is a variable of the shell that is not set.
    if not path or "\0" in path:
        raise UnreadableInputError("This path is empty or impossible. Name a file or directory.", readable(path))
    if _ae().is_foreign_path(path):
        raise UnreadableInputError(
            "This is a path of Windows, and this machine has nothing of that name. Name a path of this machine, such "
            "as /data/dicom_files.",
            readable(path),
        )
    found = os.path.abspath(os.path.expanduser(path))
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
