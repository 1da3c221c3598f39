"""The hours and the pace of a remote in the settings."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from pacs_tasks.ae import RemoteAE
from pacs_tasks.errors import ConfigurationError
from pacs_tasks.settings import load
from pacs_tasks.settings.pace import Hours, Pace, parse_window

BERLIN = "Europe/Berlin"
REMOTE = RemoteAE(ae_title="ARCHIVE", host="storage.example", port=104)


def hours(*windows: str, zone: str | None = BERLIN) -> Hours:
    return Hours(tuple(map(parse_window, windows)), zone)


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    """Unix seconds of a time by the clock of a zone; ``fold`` 1 is the second of two."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def read(directory: Path, *lines: str) -> Path:
    """A settings file with these lines about a remote."""
    file = directory / "pacs-tasks.toml"
    about = ('ae_title = "ARCHIVE"', 'host = "Storage.example"', "port = 104")
    file.write_text("\n".join(["[remotes.archive]", *about, *lines]))
    return file


@pytest.mark.parametrize(
    ("windows", "time", "held"),
    [
        # 2026-11-26 is a Thursday.
        (["22:00-06:00"], "2026-11-26T21:59", False),
        (["22:00-06:00"], "2026-11-26T22:00", True),
        (["22:00-06:00"], "2026-11-27T05:59", True),
        (["22:00-06:00"], "2026-11-27T06:00", False),
        (["22:00-00:00"], "2026-11-26T23:59", True),
        (["22:00-00:00"], "2026-11-27T00:00", False),
        (["9:00-17:30"], "2026-11-26T17:29", True),
        # A night belongs to the day on which it begins, also over the end of the week.
        (["fri 22:00-06:00"], "2026-11-27T05:00", False),
        (["fri 22:00-06:00"], "2026-11-28T05:00", True),
        (["sun 22:00-06:00"], "2026-11-30T05:00", True),
        (["Mon-Fri 20:00-24:00", "sat, sun 00:00-24:00"], "2026-11-29T12:00", True),
        (["Mon-Fri 20:00-24:00", "sat, sun 00:00-24:00"], "2026-11-30T12:00", False),
        (["sat-mon 10:00-11:00"], "2026-11-30T10:30", True),
        (["sat-mon 10:00-11:00"], "2026-12-01T10:30", False),
        # In spring 02:00 to 03:00 does not come, in autumn it comes twice.
        (["03:00-04:00"], "2026-03-29T03:00", True),
    ],
)
def test_a_time_is_within_the_hours(windows: list[str], time: str, held: bool) -> None:
    """By the clock of the remote."""
    assert hours(*windows).hold(at(time)) is held


def test_an_hour_that_comes_twice_counts_twice() -> None:
    """Clocks go back at 03:00 on 2026-10-25."""
    night = hours("02:00-03:00")
    assert night.hold(at("2026-10-25T02:30"))
    assert night.hold(at("2026-10-25T02:30", fold=1))
    assert night.begin(at("2026-10-25T01:59")) == at("2026-10-25T02:00")
    assert not night.hold(at("2026-10-25T03:00"))


def test_an_hour_that_does_not_come_is_left_out() -> None:
    """Clocks go forward from 02:00 to 03:00 on 2026-03-29, a Sunday."""
    assert hours("02:00-03:00").begin(at("2026-03-29T01:00")) == at("2026-03-30T02:00")
    assert hours("sun 02:00-03:00").begin(at("2026-03-28T12:00")) == at("2026-04-05T02:00")
    # The rest of hours that begin in it does come.
    assert hours("02:30-04:00").begin(at("2026-03-29T01:59")) == at("2026-03-29T03:00")


def test_the_hours_are_those_of_the_remote() -> None:
    """Wherever the worker is."""
    assert hours("22:00-23:00", zone="Asia/Shanghai").hold(at("2026-11-26T14:30", "UTC"))
    assert hours("22:00-23:00", zone="America/New_York").begin(at("2026-11-26T12:00", "UTC")) == at(
        "2026-11-27T03:00", "UTC"
    )
    # Without a zone, the clock is that of the machine.
    local = datetime(2026, 11, 26, 22, 30).timestamp()
    assert hours("22:00-23:00", zone=None).hold(local)
    assert not hours("22:00-23:00", zone=None).hold(local + 3600)


def test_a_time_is_written_for_people() -> None:
    """With its day where that is not today."""
    night = hours("fri 22:00-23:00")
    thursday, friday = at("2026-11-26T12:00"), at("2026-11-27T12:00")
    begin = night.begin(thursday)
    assert night.written(begin, thursday) == "Fri 22:00 (Europe/Berlin)"
    assert night.written(begin, friday) == "22:00 (Europe/Berlin)"


def test_the_pace_of_a_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings have it for each request with the same AE title, host and port; no request may name one."""
    lines = ['bulk_hours = "22:00-06:00"', f'time_zone = "{BERLIN}"', "instances_per_second = 5"]
    monkeypatch.setenv("PACS_TASKS_CONFIG", str(read(tmp_path, *lines, 'bytes_per_second = "2.5 MB"')))
    known = load()
    assert known.pace(REMOTE) == Pace(5, 2_500_000, hours("22:00-06:00"))
    assert str(known.pace(REMOTE)) == "5 instances a second, 2.5 MB a second"
    assert known.pace(REMOTE.model_copy(update={"port": 105})) is None
    assert known.remote("archive") == REMOTE.model_copy(update={"host": "Storage.example"})
    with pytest.raises(ValidationError):
        RemoteAE.model_validate({"instances_per_second": 5})
    monkeypatch.setenv("PACS_TASKS_CONFIG", str(read(tmp_path)))
    assert load().pace(REMOTE) is None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("bulk_hours = []", "this names no hours; leave it out if bulk jobs may run at any time"),
        ('bulk_hours = "at night"', "'at night' names no hours; write them as 22:00-06:00"),
        ('bulk_hours = "0 22 * * *"', "names no hours"),
        ('bulk_hours = "funday 22:00-06:00"', "'funday' is not a day; write mon, tue, wed"),
        ('bulk_hours = "mon- 22:00-06:00"', ""),
        ('bulk_hours = "24:00-06:00"', "24:00 is not a time of the day"),
        ('bulk_hours = "22:60-06:00"', "22:60 is not a time of the day"),
        ('bulk_hours = "22:00-24:01"', "24:01 is not a time of the day"),
        ('bulk_hours = "22:00-22:00"', "ends when it begins; write 00:00-24:00 for a whole day"),
        ('time_zone = "Mars/Olympus"', "'Mars/Olympus' is not a time zone; write one such as Europe/Berlin"),
        ('time_zone = "../etc/passwd"', "is not a time zone"),
        ("instances_per_second = 0", "greater than or equal to 0.01"),
        ('bytes_per_second = "fast"', "'fast' is not a number of bytes; write one such as 20MB"),
        ('bytes_per_second = "1 B"', "greater than or equal to 1000"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, wrong: str) -> None:
    """In one sentence, with the name of the setting."""
    monkeypatch.setenv("PACS_TASKS_CONFIG", str(read(tmp_path, line)))
    if not wrong:
        load()
        return
    with pytest.raises(ConfigurationError) as error:
        load()
    assert wrong in error.value.message
    assert f"remotes.archive.{line.partition(' ')[0]}" in error.value.message
