"""What a sender may write: bytes of an instance and an association, and the free space that stays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pacs_tasks.dimse.scp.limits import NO_LIMITS, Intake, LimitError, Limits, Space
from pacs_tasks.dimse.upper_layer.wire import Wire
from pacs_tasks.errors import PeerUnavailableError

MIB = 1 << 20


class _Disk:
    """A file system of so many bytes, on which others write too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
        self.total, self.free, self.reads = total, free, 0
        monkeypatch.setattr("pacs_tasks.dimse.scp.limits.shutil.disk_usage", self._usage)

    def _usage(self, _: Path) -> tuple[int, int, int]:
        self.reads += 1
        return self.total, self.total - self.free, self.free

    def fill(self, space: Space, chunk: int) -> int:
        """Write until the reserve stops it; give what is free then."""
        while self.free > 0:
            try:
                space.take(chunk)
            except LimitError:
                break
            self.free -= chunk
        return self.free


@pytest.mark.parametrize("chunk", [1_000, 131_072, 9 * MIB])
@pytest.mark.parametrize(
    ("keep", "total", "reserve"),
    [(None, 1 << 40, 1 << 30), (None, 1 << 30, (1 << 30) // 20), (100 * MIB, 1 << 40, 100 * MIB)],
)
def test_the_reserve_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, keep: int | None, total: int, reserve: int, chunk: int
) -> None:
    """It is a gibibyte, a twentieth of a small disk, or what is set; most of the rest can be used."""
    disk = _Disk(monkeypatch, total, reserve + 200 * MIB)
    left = disk.fill(Space(Path(), keep), chunk)
    assert reserve <= left <= reserve + 10 * MIB
    assert disk.reads < 200 + 200 * MIB // MIB


def test_others_fill_the_disk_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free space is read again before much has been written, and after a moment."""
    now = [0.0]
    monkeypatch.setattr("pacs_tasks.dimse.scp.limits.time.monotonic", lambda: now[0])
    disk = _Disk(monkeypatch, 1 << 40, 1 << 39)
    space = Space(Path(), 100 * MIB)
    for _ in range(1000):
        space.take(1000)
    assert disk.reads == 1
    disk.free = 100 * MIB
    now[0] += 1
    with pytest.raises(LimitError):
        space.take(1)
    with pytest.raises(LimitError):
        space.take(1)
    disk.free += 2
    space.take(1)


def test_no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 0, the disk may be filled."""
    _Disk(monkeypatch, 1 << 30, 0)
    Space(Path(), 0).take(1000)


def _wire() -> Wire:
    lost = SimpleNamespace(lost=lambda what: PeerUnavailableError(f"PACS {what}"))
    return cast("Wire", lost)


def test_an_instance_without_end() -> None:
    """It is refused at its limit, then read for a while, then ends the association; the next one begins anew."""
    intake = Intake(Limits(instance=1000), _wire())
    for _ in range(2):
        intake.begin()
        intake.take(1000)
        with pytest.raises(LimitError, match="larger than this receiver accepts"):
            intake.take(1)
    for _ in range(63):
        intake.drain(MIB)
    with pytest.raises(PeerUnavailableError, match="an instance without end"):
        intake.drain(2 * MIB)


def test_an_association_without_end() -> None:
    """The instance that goes beyond its limit is refused, and the next one ends it."""
    intake = Intake(Limits(association=1500), _wire())
    intake.begin()
    intake.take(1000)
    intake.begin()
    with pytest.raises(LimitError, match="limit of bytes"):
        intake.take(1000)
    with pytest.raises(PeerUnavailableError, match="went on to send"):
        intake.begin()


def test_comments_fit_into_a_response() -> None:
    """Error Comment is of VR LO."""
    for limits in (Limits(instance=0), Limits(association=0)):
        with pytest.raises(LimitError) as caught:
            Intake(limits, _wire()).take(1)
        assert len(str(caught.value)) <= 64
    Intake(NO_LIMITS, _wire()).take(1 << 50)
