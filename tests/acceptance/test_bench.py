"""The benchmark's small form: every contestant does every work, and what it writes is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from pacs_tasks.testing import TestPACS
from tests.benchmarks import one_association
from tests.benchmarks.files import SMALL
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import BenchError
from tests.benchmarks.report import markdown
from tests.benchmarks.results import Results
from tests.benchmarks.works import WORKS
from tests.benchmarks.works.pace import rate
from tests.support.dicom_files import data_set, write_series
from tests.support.processes import ROOT, environment, started
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.dcmtk,
    pytest.mark.skipif(sys.platform != "linux", reason="the memory of processes is read from /proc: Linux"),
]

_BENCH = [sys.executable, "-m", "tests.benchmarks", "--small"]


@pytest.mark.parametrize(("begin", "counted"), [(0.0, 20), (0.2, 10)])
def test_a_rate_leaves_out_the_begin(begin: float, counted: int) -> None:
    arrived = [(0.01 * number, 50) for number in range(10)] + [(0.5 + 0.01 * number, 100) for number in range(10)]
    seconds = arrived[-1][0] - arrived[-counted][0]
    amount = sum(size for _, size in arrived[-counted + 1 :])
    assert rate("a case", arrived, begin, in_bytes=False) == pytest.approx((counted - 1) / seconds)
    assert rate("a case", arrived, begin, in_bytes=True) == pytest.approx(amount / seconds)


@pytest.mark.parametrize("arrived", [[], [0.5], [0.5, 0.5], [0.0, 0.5], [0.0, 0.5, 0.5]])
def test_a_rate_of_files_that_arrive_at_one_moment_names_the_case(arrived: list[float]) -> None:
    with pytest.raises(BenchError, match=f"^a case: . of {len(arrived)} files arrived after the begin, in no time$"):
        rate("a case", [(at, 100) for at in arrived], 0.2, in_bytes=False)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scheduling", [False, True])
def test_that_every_contestant_does_every_work(tmp_path: Path, *, scheduling: bool) -> None:
    """A contestant that did not move every instance, by what its peer holds, would end it with 1.

    The JSON has every figure and every bar, the table and the picture every row. No figure is looked at.
    """
    works = [work for work in WORKS if work.scheduling == scheduling]
    outputs = ["--json", tmp_path / "bench.json", "--svg", tmp_path / "bench.svg", "--time-svg", tmp_path / "time.svg"]
    done = subprocess.run(
        [*_BENCH, "--readme", *map(str, outputs), *(f"--only={work.name}" for work in works)],
        cwd=ROOT,
        env=environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = Results.model_validate_json((tmp_path / "bench.json").read_text("utf-8"))
    assert [work.name for work in results.works] == [work.name for work in works]
    for work, planned in zip(results.works, works, strict=True):
        assert [bar.name for bar in work.bars] == [bar.name for bar in planned.bars]
        assert all(bar.value > 0 for bar in work.bars)
        recipe = SMALL[planned.files[0]]
        assert work.instances == recipe.count * recipe.series
        assert {len(figure.values) for figure in work.figures} == {1}
        for figure in work.figures:
            assert figure.name in done.stdout
        assert work.title[0].replace("`", "") in done.stdout
    assert markdown(results) in done.stdout
    drawn = tmp_path / ("time.svg" if scheduling else "bench.svg")
    assert set(tmp_path.iterdir()) == {tmp_path / "bench.json", drawn}, "its files are removed"
    texts = "".join(Xml.fromstring(drawn.read_text("utf-8")).itertext())
    for work in results.works:
        assert (work.title[0].replace("`", "") in texts) == any(not bar.own for bar in work.bars)
        assert all(trace.title in texts for trace in work.traces)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_that_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Neither a process nor a file; one sentence says so."""
    (tmp_path / "work").mkdir()
    command = [*_BENCH, "--only", "slow-line", "--json", str(tmp_path / "a"), "--svg", str(tmp_path / "b")]
    env = environment(TMPDIR=str(tmp_path / "work"))
    begun = started(
        command, tmp_path / "log", lambda process: "8 processes:" in process.said(), env=env, cwd=ROOT, timeout=120
    )
    with begun as run:
        assert _processes_below(tmp_path / "work")
        run.popen.send_signal(number)
        assert run.popen.wait(60) == 130, run.said()
        assert "interrupted" in run.said()
        assert "Traceback" not in run.said()
    wait_until(lambda: not _processes_below(tmp_path / "work"), 10, "the end of what it started")
    assert list((tmp_path / "work").iterdir()) == []


def test_that_the_slow_line_delays_and_changes_nothing(tmp_path: Path) -> None:
    """An association and five instances are six round trips at least; what comes is what was sent."""
    paths = write_series(tmp_path / "files", 5, rows=512)
    with TestPACS() as pacs, line_to(pacs.port, tmp_path, 0.1) as line:
        began = time.monotonic()
        one_association.main("127.0.0.1", str(line.port), pacs.ae_title, str(tmp_path / "files"))
        assert time.monotonic() - began >= 6 * 0.1
        assert sorted(each.data_set for each in pacs.instances.values()) == sorted(map(data_set, paths))


def _processes_below(directory: Path) -> list[int]:
    """The processes whose command or environment names a directory."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            said = (each / "cmdline").read_bytes() + (each / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in said:
            found.append(int(each.name))
    return found
