"""Days and ranges of days as people write them, in the form of DICOM."""

from __future__ import annotations

import datetime
import re

_DAY = (
    r"[0-9]{8}|[0-9]{4}(?:-[0-9]{1,2}-|/[0-9]{1,2}/|\.[0-9]{1,2}\.)[0-9]{1,2}"
    r"|today|yesterday|tomorrow|[-+][0-9]{1,4}[dw]"
)
_RANGE = rf"({_DAY})?\s*(?:-|\.\.|/|\u2013)\s*({_DAY})?"
_FLAGS = re.IGNORECASE | re.ASCII
_NAMED = {"yesterday": -1, "today": 0, "tomorrow": 1}
_DAYS_OF = {"d": 1, "w": 7}
HOW = (
    "write a day (2023-01-31, 20230131, today, yesterday), a range (2023-01-01..2023-12-31, 20230101-20231231), an "
    "open range (2023-01-01..), or -7d for the last 7 days"
)


def as_dicom(text: str, today: datetime.date | None = None) -> str:
    """Write a day or a range of days as a key of a query (range matching, PS3.4 section C.2.2.2.5).

    Parameters
    ----------
    text
        ``20230131``, ``2023-01-31``, ``today``, ``yesterday``, ``tomorrow``, ``-7d`` and ``+2w`` (from that day to
        today, or from today to that day), and a range of these, which may be open at either end.
    today
        By default, the day of this machine.

    Raises
    ------
    ValueError
        If it is none of them; the message names it and says what to write.
    """
    typed, today = text.strip(), today or datetime.date.today()
    if re.fullmatch(_DAY, typed, _FLAGS):
        day = _day(typed, today)
        if typed[0] not in "-+":
            return _written(day)
        return f"{_written(min(day, today))}-{_written(max(day, today))}"
    found = re.fullmatch(_RANGE, typed, _FLAGS)
    if found is None or not (found[1] or found[2]):
        raise ValueError(f"{typed!r}: {HOW}")
    first, last = (each and _day(each, today) for each in found.groups())
    if first and last and first > last:
        raise ValueError(f"{typed!r}: the range ends before it begins; swap the dates")
    return f"{_written(first)}-{_written(last)}"


def _day(text: str, today: datetime.date) -> datetime.date:
    text = text.lower()
    if text in _NAMED:
        return today + datetime.timedelta(days=_NAMED[text])
    try:
        if text[0] in "-+":
            return today + datetime.timedelta(days=int(text[:-1]) * _DAYS_OF[text[-1]])
        year, month, day = re.split(r"[-/.]", text) if len(text) != 8 or not text.isdigit() else _split(text)
        return datetime.date(int(year), int(month), int(day))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a day of the calendar; {HOW}") from None


def _split(text: str) -> tuple[str, str, str]:
    return text[:4], text[4:6], text[6:]


def _written(day: datetime.date | str | None) -> str:
    """Write a day in eight digits (VR DA, PS3.5 section 6.2); years before 1000 have zeroes."""
    return f"{day:%Y%m%d}".zfill(8) if isinstance(day, datetime.date) else ""
