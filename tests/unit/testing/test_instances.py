"""The instances of a TestPACS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pacs_tasks.testing.instances import StoredBytes


def test_an_instance_that_comes_twice_at_once_is_kept(tmp_path: Path) -> None:
    """Two callers may send the same instance: neither loses its file to the other."""
    came = StoredBytes.from_wire("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2", b"x" * 10_000)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: came.written(tmp_path, b"meta"), range(400)))
    assert {each.data_set for each in kept} == {came.data_set}
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.dcm"]
