"""How a directory is cut into parts: little cost beside the work, enough parts to share, never too many."""

from __future__ import annotations

import math

import pytest

from pacs_tasks.ledger.manifest import FileLine
from pacs_tasks.tasks import find
from pacs_tasks.tasks.engine.job import FEWEST_PARTS, MOST_PARTS, PART_WAIT, PART_WORK
from pacs_tasks.tasks.store import PART_BYTES, cut

CT = 526_000
SMALL = 4_000
#: Seconds that a task of Celery costs.
TASK = 0.005


def files(count: int, size: int) -> list[FileLine]:
    return [FileLine(f"/data/{number}", size) for number in range(count)]


def sizes(entries: list[FileLine], files_per_task: int | None = None, round_trip: float = 0.0) -> set[int]:
    """How many files the parts have; all parts together are the whole, in order."""
    parts = cut(entries, files_per_task, round_trip)
    assert [index for start, stop in parts for index in range(start, stop)] == list(range(len(entries)))
    return {stop - start for start, stop in parts[:-1]} or {len(entries)}


@pytest.mark.parametrize("count", [1, 2, 200])
def test_a_small_directory_is_one_task_per_file(count: int) -> None:
    """People who watch Flower expect that."""
    assert sizes(files(count, CT)) == {1}


@pytest.mark.parametrize(("count", "size", "file_work"), [(10_000, SMALL, 0.0004), (5_000, CT, 0.0009)])
def test_tasks_cost_less_than_a_tenth_of_the_work_of_a_large_job(count: int, size: int, file_work: float) -> None:
    """On a fast line; the work of a file was measured on two cores."""
    assert min(sizes(files(count, size))) * file_work >= 10 * TASK


@pytest.mark.parametrize("round_trip", [0.0, 0.0002, 0.02, 0.2])
@pytest.mark.parametrize("count", [201, 500, 2_000])
def test_there_is_enough_to_share_out(count: int, round_trip: float) -> None:
    """A large job has at least sixteen parts."""
    assert len(cut(files(count, CT), None, round_trip)) >= 16


def test_on_a_slow_line_parts_take_a_second_or_two() -> None:
    """Each file takes at least a round trip: many parts wait at once, where it is long over two associations each."""
    assert len(cut(files(2_000, CT), None, 0.02)) == 32
    assert len(cut(files(500, CT), None, 0.1)) == 16
    assert len(cut(files(1_000, CT), None, 0.1)) == 32
    assert len(cut(files(300, CT), None, 0.05)) == 16, "four associations end together"


@pytest.mark.parametrize("round_trip", [0.0, 0.2])
def test_a_huge_directory_is_no_huge_chord(round_trip: float) -> None:
    """The line may be as slow as it likes. Jobs take turns by their parts, so one has not many more than another."""
    assert len(cut(files(100_000, SMALL), None, round_trip)) <= MOST_PARTS


def test_parts_have_about_the_same_work() -> None:
    """A few large files among small ones are a part of their own, or the job waits for that part in the end."""
    lines = [*files(900, SMALL), *files(100, 500_000_000)]
    parts = cut(lines, None)
    assert parts[0] == (0, 901)
    assert {stop - start for start, stop in parts[1:]} <= {1, 2}


def test_a_part_of_an_archive_ends_at_its_bytes() -> None:
    """It unpacks them. One file may be larger than that."""
    lines = [FileLine(f"/z/{number}", PART_BYTES // 2 + 1, "/z", number) for number in range(300)]
    assert sizes(lines) == sizes(lines, 100) == {1}


def test_who_says_how_many_gets_so_many() -> None:
    """The line does not matter then."""
    assert sizes(files(500, CT), 63, 0.02) == {63}


@pytest.mark.parametrize("round_trip", [0.0, 0.0002, 0.02, 0.2])
@pytest.mark.parametrize("total", [1, 15, 16, 200, 3_000, 100_000])
def test_rows_of_a_batch_are_shared_out(total: int, round_trip: float) -> None:
    """In order and completely; neither so many parts that the chord is large, nor a part that takes minutes."""
    parts = find.cut(total, round_trip)
    assert [index for start, stop in parts for index in range(start, stop)] == list(range(total))
    rows = parts[0][1] - parts[0][0]
    assert min(total, FEWEST_PARTS) <= math.ceil(total / rows) == len(parts) <= MOST_PARTS
    assert rows * (round_trip + find.ROW_WORK) <= PART_WAIT + PART_WORK or rows == max(1, math.ceil(total / MOST_PARTS))
