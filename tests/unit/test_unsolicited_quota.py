"""The quota of unsolicited instances."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pacs_tasks.dimse.scp.limits import Space
from pacs_tasks.settings import WhenFull
from workers.receiver.directory import UnsolicitedQuota

NO_RESERVE = 0
#: What the smallest file and each directory take.
BLOCK = 4096


def _add(directory: Path, number: int, size: int = 100) -> Path:
    """Make a file; higher numbers are newer."""
    path = directory / str(number % 3) / f"{number}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (number, number))
    return path


def _quota(tmp_path: Path, quota: int | None, policy: WhenFull, keep: int = NO_RESERVE) -> UnsolicitedQuota:
    (tmp_path / "unsolicited").mkdir(exist_ok=True)
    return UnsolicitedQuota(tmp_path / "unsolicited", quota, policy, Space(tmp_path, keep))


def _kept(tmp_path: Path) -> list[int]:
    return sorted(int(each.stem) for each in (tmp_path / "unsolicited").rglob("[0-9]*.dcm"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still."""
    now = [1000.0]
    monkeypatch.setattr("workers.receiver.directory.time.monotonic", lambda: now[0])
    return now


def test_what_does_not_fit_is_refused(tmp_path: Path, clock: list[float]) -> None:
    """There is room again once files are removed, which is noticed after five seconds."""
    quota = _quota(tmp_path, 15 * BLOCK, WhenFull.REFUSE)
    new = _add(tmp_path, 0)
    for number in range(10):
        clock[0] += 6
        assert quota.admits(new)
        _add(tmp_path / "unsolicited", number)
    clock[0] += 6
    assert not quota.admits(new)
    (tmp_path / "unsolicited/0/3.dcm").unlink()
    assert not quota.admits(new)
    clock[0] += 6
    assert quota.admits(new)


def test_the_oldest_are_dropped(tmp_path: Path) -> None:
    """A tenth of the quota becomes free; links and what is elsewhere stay."""
    quota = _quota(tmp_path, 15 * BLOCK, WhenFull.DROP_OLDEST)
    other = _add(tmp_path, 99)
    for number in range(10):
        _add(tmp_path / "unsolicited", number)
    (tmp_path / "unsolicited/link.dcm").symlink_to(other)
    (tmp_path / "unsolicited/tree").symlink_to(other.parent)
    assert quota.admits(other)
    assert _kept(tmp_path) == [3, 4, 5, 6, 7, 8, 9]
    assert other.exists()
    assert not quota.admits(_add(tmp_path, 98, 15 * BLOCK)), "nothing is dropped for what can never fit"
    assert _kept(tmp_path) == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("quota", "admitted"), [(1_000_000, False), (1_300_000, True)])
def test_small_instances_count_with_their_blocks_and_directories(tmp_path: Path, quota: int, admitted: bool) -> None:
    """A hundred of a hundred bytes, each of a series and a study of its own, take more than a megabyte."""
    for number in range(100):
        _add(tmp_path / f"unsolicited/study{number}", number)
    assert _quota(tmp_path, quota, WhenFull.REFUSE).admits(_add(tmp_path, 0)) is admitted


def test_directories_of_what_is_dropped_go_too(tmp_path: Path) -> None:
    """Otherwise they alone would use up the quota."""
    for number in range(20):
        _add(tmp_path / f"unsolicited/study{number}", number)
    assert _quota(tmp_path, 30 * BLOCK, WhenFull.DROP_OLDEST).admits(_add(tmp_path, 0))
    kept = _kept(tmp_path)
    assert kept == list(range(20 - len(kept), 20))
    assert kept
    assert sorted(int(each.name.removeprefix("study")) for each in (tmp_path / "unsolicited").iterdir()) == kept


@pytest.mark.parametrize(("keep", "admitted"), [(NO_RESERVE, True), (1 << 60, False)])
def test_jobs_have_a_reserve_of_their_own(tmp_path: Path, keep: int, admitted: bool) -> None:
    """Without a quota, twice the reserve of free space stays."""
    assert _quota(tmp_path, None, WhenFull.REFUSE, keep).admits(_add(tmp_path, 0)) is admitted


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no inodes")
@pytest.mark.parametrize(
    ("total", "left", "admitted"), [(1_000_000, 10, False), (1_000_000, 60_000, False), (1_000_000, 100_000, True)]
)
def test_there_must_be_room_for_the_files_of_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, left: int, admitted: bool
) -> None:
    """Twice the reserve of inodes stays: small instances use them up long before the bytes."""
    _report_files(monkeypatch, total, left)
    assert _quota(tmp_path, None, WhenFull.REFUSE, 1).admits(_add(tmp_path, 0)) is admitted


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no inodes")
def test_a_file_system_without_a_number_of_files_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Btrfs makes inodes as it needs them, and reports 0."""
    _report_files(monkeypatch, 0, 0)
    assert _quota(tmp_path, None, WhenFull.REFUSE, 1).admits(_add(tmp_path, 0))


def _report_files(monkeypatch: pytest.MonkeyPatch, total: int, left: int) -> None:
    """Have the file system report how many files it can hold, and how many more."""
    block, blocks = 4096, 1 << 30
    found = os.statvfs_result((block, block, blocks, blocks, blocks, total, left, left, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: found)
