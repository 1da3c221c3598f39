"""From text to values: what can be wrong with what is typed, in people's words."""

from __future__ import annotations

import datetime
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from pacs_tasks.ae import AETitle, Charset, FileName, Host, ServerName
from pacs_tasks.request import UID


class Checked(click.ParamType[str]):
    """Text that the package's own rules check, so that a wrong one is a wrong usage."""

    def __init__(self, name: str, rule: Any) -> None:
        self.name = name
        self._rule: TypeAdapter[str] = TypeAdapter(rule)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self._rule.validate_python(value)
        except ValidationError as error:
            self.fail(error.errors()[0]["msg"].removeprefix("Value error, "), param, ctx)


class WholeNumber(click.IntRange):
    """A number in a range, called so in messages."""

    name = "whole number"


class Seconds(click.FloatRange):
    """A time in a range, called so in messages."""

    name = "number of seconds"


class StudyDate(click.ParamType[str]):
    """A day or a range of days (range matching, PS3.4 section C.2.2.2.5)."""

    name = "YYYYMMDD-YYYYMMDD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        first, dash, last = text.partition("-")
        first, last = first.strip(), last.strip()
        if not first and not last:
            self.fail(
                "give one day (20230131), a range (20230101-20231231) or an open one (20230101- or -20231231)",
                param,
                ctx,
            )
        days = [self._day(each, param, ctx) for each in (first, last) if each]
        if days != sorted(days):
            self.fail(f"the range ends ({last}) before it begins ({first})", param, ctx)
        return f"{first}{dash}{last}"

    def _day(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime.date:
        """VR DA: eight digits (PS3.5 section 6.2)."""
        day = _day_of_the_calendar(text)
        if day is None:
            self.fail(f"{text!r} is no day of the calendar; write YYYYMMDD, such as 20230131", param, ctx)
        return day


def _day_of_the_calendar(text: str) -> datetime.date | None:
    if len(text) != 8 or not text.isascii() or not text.isdigit():
        return None
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


class Key(click.ParamType[tuple[str, str]]):
    """``KEYWORD`` asks for an attribute in return, ``KEYWORD=VALUE`` matches it as well."""

    name = "KEYWORD[=VALUE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        keyword, _, wanted = str(value).partition("=")
        keyword = keyword.strip()
        if not keyword.isascii() or not all(part.isalnum() for part in keyword.split(".")):
            self.fail(
                f"{keyword!r} is no keyword of the DICOM data dictionary; write one such as StudyDescription "
                "or StudyDescription=CHEST*, or SEQUENCE.KEYWORD for one within a sequence",
                param,
                ctx,
            )
        return keyword, wanted


class UIDList(click.ParamType[str]):
    """A UID, or several with a backslash between them (list of UID matching, PS3.4 section C.2.2.2.2)."""

    name = "UID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return "\\".join(UID_TEXT.convert(each, param, ctx) for each in str(value).split("\\"))


AE_TITLE = Checked("AE title", AETitle)
HOST = Checked("host", Host)
FILE_NAME = Checked("file", FileName)
SERVER_NAME = Checked("host", ServerName)
UID_TEXT = Checked("UID", UID)
CHARSET = Checked("character set", Charset)
