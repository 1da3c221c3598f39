"""Each kind of selection against PACS that others wrote: Orthanc and DCMTK's dcmqrscp."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pacs_tasks.testing import TestPACS
from tests.support import peers, workers
from tests.support.command import Result, Terminal
from tests.support.dicom_files import study_uid, write_series
from tests.support.redis_server import RedisServer

#: Instances in each series of the studies 1 to 3.
SIZES = {1: (3, 2), 2: (2,), 3: (1,)}


def series_uid(study: int, series: int) -> str:
    return f"{study_uid(study)}.{series}"


def uids(study: int, series: int) -> list[str]:
    return [f"{series_uid(study, series)}.{1_000_001 + number}" for number in range(SIZES[study][series - 1])]


def of_study(study: int) -> set[str]:
    return {uid for series in range(1, len(SIZES[study]) + 1) for uid in uids(study, series)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The studies, as files."""
    directory = tmp_path_factory.mktemp("selections")
    return [
        path
        for study, sizes in SIZES.items()
        for series, count in enumerate(sizes, 1)
        for path in write_series(directory / f"{study}/{series}", count, study=study, series=series, rows=8)
    ]


@dataclass(frozen=True)
class Asked:
    """A peer that holds the studies, and the one who asks it."""

    options: list[str]
    terminal: Terminal

    def retrieve(self, *arguments: object) -> Result:
        """By C-GET, to the directory ``out``."""
        common = ("retrieve", "--output-dir", "out", "--method", "get", "--json")
        return self.terminal.run(*common, *arguments, *self.options)

    def on_disk(self) -> set[str]:
        return {path.stem for path in (self.terminal.directory / "out").rglob("*.dcm")}


@pytest.fixture(scope="module")
def redis_url(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that a worker serves."""
    url = redis_process.fresh_url()
    with workers.worker(url, tmp_path_factory.mktemp("worker")):
        yield url


@pytest.fixture(scope="module")
def orthanc_options(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Orthanc with the studies."""
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        for path in files:
            running.add(path)
        yield running.options


@pytest.fixture(scope="module")
def dcmqrscp_options(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """DCMTK's dcmqrscp with the studies."""
    with peers.dcmqrscp(tmp_path_factory.mktemp("dcmqrscp")) as running:
        send = ["dcmsend", "-aec", running.ae_title, "127.0.0.1", str(running.port), *map(str, files)]
        subprocess.run(send, env=peers.dcmtk_environment(), timeout=60, check=True)
        yield running.options


@pytest.fixture(scope="module")
def testpacs_options(files: list[Path]) -> Iterator[list[str]]:
    """TestPACS with the studies."""
    with TestPACS(instances=files) as running:
        yield ["--ip", running.host, "--port", str(running.port), "--pacs-ae-title", running.ae_title]


@pytest.fixture(
    params=[
        pytest.param("orthanc", marks=pytest.mark.orthanc),
        pytest.param("dcmqrscp", marks=pytest.mark.dcmtk),
        "testpacs",
    ]
)
def asked(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Asked:
    """One peer after the other."""
    options: Any = request.getfixturevalue(f"{request.param}_options")
    return Asked(options, Terminal(tmp_path, redis_url))


def test_a_series_an_instance_and_an_accession_number_come(asked: Asked) -> None:
    """Nothing else does; each study was promised by the names of its instances."""
    one, two = uids(1, 1)[1], uids(1, 2)[0]
    steps = [
        (("--study-uid", study_uid(1), "--series-uid", series_uid(1, 2)), set(uids(1, 2))),
        (("--study-uid", study_uid(1), "--sop-instance-uid", f"{one}\\{two}"), {one, two}),
        (("--accession-number", "A3"), of_study(3)),
        (("--accession-number", "A2", "--study-uid", study_uid(2)), of_study(2)),
    ]
    here: set[str] = set()
    for arguments, wanted in steps:
        result = asked.retrieve(*arguments)
        assert result.code == 0, result
        here |= wanted
        assert asked.on_disk() == here
        (study,) = result.json["studies"]
        assert (study["proof"], study["promised"]) == ("instances", len(wanted)), study


def test_a_batch_brings_what_there_is_and_names_what_there_is_not(asked: Asked) -> None:
    """Exit code 3, with one outcome for each study."""
    rows = [
        "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,AccessionNumber",
        f"{study_uid(1)},{series_uid(1, 1)},,",
        ",,,A2",
        f"{study_uid(1)},,{uids(1, 2)[1]},",
        "1.2.3.4.5,,,",
        ",,,NOBODY",
        f"{study_uid(3)},,1.2.3.4.5,",
    ]
    (asked.terminal.directory / "studies.csv").write_text("\n".join(rows), "utf-8")
    result = asked.retrieve("--batch", "studies.csv")
    assert result.code == 3, result
    assert asked.on_disk() == {*uids(1, 1), uids(1, 2)[1]} | of_study(2)
    told = {(each["study_uid"], tuple(each["rows"])): each for each in result.json["studies"]}
    assert {key: (each["category"], each["promised"]) for key, each in told.items()} == {
        (study_uid(1), (2, 4)): ("success", 4),
        (study_uid(2), (3,)): ("success", 2),
        ("1.2.3.4.5", (5,)): ("failed", 0),
        ("", (6,)): ("failed", 0),
        (study_uid(3), (7,)): ("failed", 0),
    }
    assert "lists none of the named instances" in told[study_uid(3), (7,)]["reason"]


def test_a_study_that_is_not_there_is_an_error(asked: Asked) -> None:
    """As it was, in one sentence and with exit code 1."""
    for arguments in (("--study-uid", "1.2.3.4.5"), ("--accession-number", "NOBODY")):
        result = asked.retrieve(*arguments)
        assert (result.code, result.json["error"]["type"]) == (1, "JobFailedError"), result
