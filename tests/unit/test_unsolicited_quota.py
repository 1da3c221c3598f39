"""The quota of unsolicited instances."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pacs_tasks.dimse.scp.limits import Space
from pacs_tasks.settings import WhenFull
from workers.receiver.quota import UnsolicitedQuota

NO_RESERVE = 0


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


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    """There is room again once files are removed."""
    quota = _quota(tmp_path, 1000, WhenFull.REFUSE)
    new = _add(tmp_path, 0)
    for number in range(10):
        assert quota.admits(new)
        _add(tmp_path / "unsolicited", number)
    assert not quota.admits(new)
    (tmp_path / "unsolicited/0/3.dcm").unlink()
    assert quota.admits(new)


def test_the_oldest_are_dropped(tmp_path: Path) -> None:
    """A tenth of the quota becomes free; links and what is elsewhere stay."""
    quota = _quota(tmp_path, 1000, WhenFull.DROP_OLDEST)
    other = _add(tmp_path, 99)
    for number in range(10):
        _add(tmp_path / "unsolicited", number)
    (tmp_path / "unsolicited/link.dcm").symlink_to(other)
    (tmp_path / "unsolicited/tree").symlink_to(other.parent)
    assert quota.admits(other)
    assert _kept(tmp_path) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert other.exists()
    assert not quota.admits(_add(tmp_path, 98, 1001)), "nothing is dropped for what can never fit"
    assert _kept(tmp_path) == [2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("keep", "admitted"), [(NO_RESERVE, True), (1 << 60, False)])
def test_jobs_have_a_reserve_of_their_own(tmp_path: Path, keep: int, admitted: bool) -> None:
    """Without a quota, twice the reserve of free space stays."""
    assert _quota(tmp_path, None, WhenFull.REFUSE, keep).admits(_add(tmp_path, 0)) is admitted
