"""What a retrieve is worth: what was promised, what is on disk, and what the command says, whatever the peer does.

Each case is one ``retrieve`` on the command line, with a worker and a receiver as processes of their own. The rows of
``build/retrieve.md`` come from here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from pacs_tasks.dimse.part10 import read_instance
from pacs_tasks.testing import Faults, TestPACS
from tests.support import peers, workers
from tests.support.command import Terminal
from tests.support.dicom_files import UID_ROOT, data_set, study_uid, write_series
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.table import Table

_RECEIVER: Final = "TRUSTED"
#: Instances in each series of the study.
_SERIES: Final = (24, 12)
_HELD: Final = tuple(
    f"{UID_ROOT}.1.{series}.{1_000_001 + index}" for series, count in enumerate(_SERIES, 1) for index in range(count)
)
_EVERYTHING: Final = len(_HELD)
_LOST: Final = (_HELD[1], _HELD[20], _HELD[30])
#: Seconds of silence after which a peer is given up.
_SILENCE: Final = "10"

_METHODS: Final = {"C-MOVE": "move", "C-GET": "get", "auto": "auto"}

_TABLE: Final = Table(
    "retrieve",
    ("Peer", "Way", "What it does", "Promised", "Proof", "On disk", "Missing", "Exit code", "Seconds"),
    "<<<><>>>>",
)


@dataclass(frozen=True)
class Case:
    """One peer, asked in one way."""

    peer: str
    way: str
    #: In the words of the table.
    what: str = "as installed"
    faults: Faults = field(default_factory=Faults)
    #: How many instances were promised.
    promised: int = _EVERYTHING
    #: What the promise rests on.
    proof: str = "instances"
    #: The SOP Instance UIDs of what must be missing.
    missing: tuple[str, ...] = ()
    code: int = 0

    def __str__(self) -> str:
        return f"{self.peer}, {self.way}, {self.what}"


def _both(what: str, **fields: Any) -> list[Case]:
    return [Case("TestPACS", way, what, **fields) for way in ("C-MOVE", "C-GET")]


_CASES: Final = (
    *(Case("Orthanc", way) for way in ("C-MOVE", "C-GET", "auto")),
    *(Case("dcmqrscp", way) for way in ("C-MOVE", "C-GET", "auto")),
    *_both("nothing wrong"),
    *_both("drops every tenth the first time", faults=Faults(drop_every=10)),
    *_both("drops three for good", faults=Faults(lost=_LOST), missing=_LOST, code=3),
    *_both("says that three failed", faults=Faults(unsent=_LOST), missing=_LOST, code=3),
    *_both("Success, 0 of 0, the first times", faults=Faults(zero_suboperations=len(_SERIES))),
    *_both("Success, 0 of 0, always", faults=Faults(zero_suboperations=10_000), missing=_HELD, code=1),
    *_both("delivers one UID of a list", faults=Faults(drop_every=10, first_uid_only=True)),
    *_both("never finishes", faults=Faults(never_finish=True, ignore_cancel=True)),
    *_both("Pending for ever", faults=Faults(pending_for_ever=True, ignore_cancel=True), missing=_HELD, code=1),
)


@dataclass(frozen=True)
class Asked:
    """A peer that holds the study."""

    options: list[str]
    #: The data sets that it holds, by SOP Instance UID.
    held: Mapping[str, bytes]


@dataclass(frozen=True)
class Fleet:
    """A worker and a receiver, and the files that peers are given."""

    directory: Path
    redis_url: str
    receiver_port: int
    files: list[Path]

    @property
    def destinations(self) -> dict[str, tuple[str, int]]:
        return {_RECEIVER: ("127.0.0.1", self.receiver_port)}

    def left(self) -> list[Path]:
        """What a job expected at the receiver and did not take."""
        return [path for path in (self.directory / "data/received/incoming").rglob("*.dcm") if path.is_file()]


@pytest.fixture(scope="module")
def fleet(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for all cases."""
    directory, url, port = tmp_path_factory.mktemp("trusted"), redis_process.fresh_url(), free_port()
    files = [
        path
        for series, count in enumerate(_SERIES, 1)
        for path in write_series(directory / f"files/{series}", count, series=series)
    ]
    with (
        workers.receiver(url, directory, port, _RECEIVER),
        workers.worker(url, directory, PACS_TASKS_MAX_RETRIES="3", PACS_TASKS_PROGRESS_TIMEOUT="1"),
    ):
        yield Fleet(directory, url, port, files)


@pytest.fixture(scope="module")
def orthanc_with_study(fleet: Fleet) -> Iterator[Asked]:
    """Orthanc, told by REST what it holds."""
    with peers.orthanc(fleet.directory, destinations=fleet.destinations) as running:
        for path in fleet.files:
            running.add(path)
        yield Asked(running.options, {uid: running.data_set(each) for uid, each in running.instances().items()})


@pytest.fixture(scope="module")
def dcmqrscp_with_study(fleet: Fleet) -> Iterator[Asked]:
    """dcmqrscp, sent by DCMTK's own sender what it holds."""
    with peers.dcmqrscp(fleet.directory, destinations=fleet.destinations) as running:
        send = ["dcmsend", "-aec", running.ae_title, "127.0.0.1", str(running.port), *map(str, fleet.files)]
        subprocess.run(send, env=peers.dcmtk_environment(), timeout=60, check=True)
        held = {read_instance(str(path)).sop_instance_uid: data_set(path) for path in running.files()}
        yield Asked(running.options, held)


@contextmanager
def _testpacs(fleet: Fleet, faults: Faults) -> Iterator[Asked]:
    """TestPACS with the faults of a case."""
    with TestPACS("TESTPACS", instances=fleet.files, destinations=fleet.destinations, faults=faults) as pacs:
        held = {uid: each.data_set for uid, each in pacs.instances.items()}
        yield Asked(["--ip", pacs.host, "--port", str(pacs.port), "--pacs-ae-title", pacs.ae_title], held)


#: The fixture and the mark of each peer that must be installed.
_INSTALLED: Final = {
    "Orthanc": ("orthanc_with_study", pytest.mark.orthanc),
    "dcmqrscp": ("dcmqrscp_with_study", pytest.mark.dcmtk),
}


@pytest.fixture
def asked(request: pytest.FixtureRequest, fleet: Fleet, case: Case) -> Iterator[Asked]:
    """The peer of a case."""
    if case.peer in _INSTALLED:
        yield request.getfixturevalue(_INSTALLED[case.peer][0])
        return
    with _testpacs(fleet, case.faults) as running:
        yield running


def _parameter(case: Case) -> Any:  # pytest keeps the name of its type to itself
    marks = [_INSTALLED[case.peer][1]] if case.peer in _INSTALLED else []
    return pytest.param(case, id=str(case), marks=marks)


@pytest.mark.parametrize("case", [_parameter(case) for case in _CASES])
def test_that_what_was_promised_is_here_or_missing_by_name(
    fleet: Fleet, case: Case, asked: Asked, tmp_path: Path
) -> None:
    """Every data set is on disk as the peer holds it, or its SOP Instance UID is told, and the exit code says which."""
    assert set(asked.held) == set(_HELD)
    output = tmp_path / "output"
    command = ["retrieve", "--study-uid", study_uid(), "--output-dir", output, "--method", _METHODS[case.way]]
    command += ["--json", "--timeout", _SILENCE, *asked.options]
    result = Terminal(tmp_path, fleet.redis_url).run(*command)
    files = [path for path in output.rglob("*") if path.is_file()]
    told, counters = result.json["problems"], result.json["counters"]
    (study,) = result.json["studies"]
    lacking = counters["missing"] + counters["failed"]
    _TABLE.add(
        _CASES.index(case), case.peer, case.way, case.what, study["promised"], study["proof"], len(files), lacking,
        result.code, f"{result.seconds:.1f}",
    )  # fmt: skip
    expected = {uid: content for uid, content in asked.held.items() if uid not in case.missing}
    assert {path.stem: data_set(path) for path in files} == expected, str(result)
    assert all(path == _place(output, path.stem) for path in files)
    assert sorted(each["subject"] for each in told) == sorted(case.missing), str(result)
    assert (counters["success"], lacking) == (len(expected), len(case.missing))
    assert counters["total"] == study["promised"] == case.promised
    assert (study["study_uid"], study["received"], study["proof"]) == (study_uid(), len(expected), case.proof)
    assert study["missing"] + study["failed"] == len(case.missing)
    assert result.code == case.code, str(result)
    assert not fleet.left()


def _place(output: Path, uid: str) -> Path:
    """Where an instance belongs."""
    return output / study_uid() / uid.rpartition(".")[0] / f"{uid}.dcm"
