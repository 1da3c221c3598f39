"""What a retrieve is worth: what was promised, what is on disk, and what the command says, whatever the peer does.

Each case is one ``retrieve`` on the command line, with a worker and a receiver as processes of their own. Most of them
wait for a peer most of the time, so those of one method run side by side, each with a study of its own. The rows of
``build/retrieve.md`` come from here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.testing import Faults, TestPACS
from tests.support import peers, workers
from tests.support.command import Result, Terminal
from tests.support.dicom_files import UID_ROOT, data_set, study_uid, write_series
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.table import Table

_RECEIVER: Final = "TRUSTED"
#: Instances in each series of the study.
_SERIES: Final = (24, 12)


_EVERYTHING: Final = sum(_SERIES)
#: Some of all instances, by their places.
_LOST: Final = (1, 20, 30)
#: Cases that run at once.
_AT_ONCE: Final = 6
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
    #: The places of the instances that never come: nothing is said about them, or that they failed.
    lost: tuple[int, ...] = ()
    unsent: tuple[int, ...] = ()
    #: How many instances were promised.
    promised: int = _EVERYTHING
    #: What the promise rests on.
    proof: str = "instances"
    #: Whether all must be missing, and not only what never comes.
    all_missing: bool = False
    code: int = 0
    #: Instances in each series of the study.
    series: tuple[int, ...] = _SERIES
    #: The number of the study.
    study: int = 1

    def __str__(self) -> str:
        return f"{self.peer}, {self.way}, {self.what}"

    @property
    def uids(self) -> tuple[str, ...]:
        """The SOP Instance UIDs of the study."""
        numbered = ((series, index) for series, count in enumerate(self.series, 1) for index in range(count))
        return tuple(f"{UID_ROOT}.{self.study}.{series}.{1_000_001 + index}" for series, index in numbered)

    def named(self, places: Sequence[int]) -> tuple[str, ...]:
        """The SOP Instance UIDs at these places."""
        return tuple(self.uids[place] for place in places)

    @property
    def missing(self) -> tuple[str, ...]:
        """The SOP Instance UIDs of what must be missing."""
        return self.uids if self.all_missing else self.named(self.lost + self.unsent)


def _both(what: str, **fields: Any) -> list[Case]:
    return [Case("TestPACS", way, what, **fields) for way in ("C-MOVE", "C-GET")]


_PLAYED: Final = (
    *(Case("Orthanc", way) for way in ("C-MOVE", "C-GET")),
    *(Case("dcmqrscp", way) for way in ("C-MOVE", "C-GET", "auto")),
    *_both("nothing wrong"),
    *_both("drops every tenth the first time", faults=Faults(drop_every=10)),
    *_both("drops three for good", lost=_LOST, code=3),
    *_both("says that three failed", unsent=_LOST, code=3),
    *_both("Success, 0 of 0, the first times", faults=Faults(zero_suboperations=len(_SERIES))),
    *_both("Success, 0 of 0, always", faults=Faults(zero_suboperations=10_000), all_missing=True, code=1),
    *_both("delivers one UID of a list", faults=Faults(drop_every=10, first_uid_only=True)),
    *_both("never finishes", faults=Faults(never_finish=True, ignore_cancel=True)),
    *_both("Pending for ever", faults=Faults(pending_for_ever=True, ignore_cancel=True), all_missing=True, code=1),
    *_both("only counts", faults=Faults(no_image_level=0xC000), proof="counts"),
    *_both(
        "only counts; drops every tenth the first time",
        faults=Faults(no_image_level=0xC000, drop_every=10),
        proof="counts",
    ),
    *_both(
        "only counts; drops three for good",
        faults=Faults(no_image_level=0xC000),
        lost=_LOST,
        proof="counts",
        code=3,
    ),
    *_both(
        "caps C-FIND at 100 of 110",
        faults=Faults(most_matches=100),
        proof="counts",
        promised=110,
        series=(110,),
    ),
)
_CASES: Final = tuple(
    replace(case, study=number) if case.peer == "TestPACS" else case for number, case in enumerate(_PLAYED, 2)
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

    def files(self, case: Case) -> list[Path]:
        """The study of a case."""
        directory = self.directory / "files" / f"{case.study}-{len(case.uids)}"
        if not directory.exists():
            for series, count in enumerate(case.series, 1):
                write_series(directory / str(series), count, study=case.study, series=series)
        return sorted(directory.rglob("*.dcm"))

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
    with (
        workers.receiver(url, directory, port, _RECEIVER),
        workers.worker(
            url, directory, concurrency=_AT_ONCE, PACS_TASKS_MAX_RETRIES="3", PACS_TASKS_PROGRESS_TIMEOUT="4"
        ),
    ):
        yield Fleet(directory, url, port)


@pytest.fixture(scope="module")
def orthanc_with_study(fleet: Fleet) -> Iterator[Asked]:
    """Orthanc, told by REST what it holds."""
    with peers.orthanc(fleet.directory, destinations=fleet.destinations) as running:
        for path in fleet.files(Case("Orthanc", "")):
            running.add(path)
        yield Asked(running.options, {uid: running.data_set(each) for uid, each in running.instances().items()})


@pytest.fixture(scope="module")
def dcmqrscp_with_study(fleet: Fleet) -> Iterator[Asked]:
    """dcmqrscp, sent by DCMTK's own sender what it holds."""
    with peers.dcmqrscp(fleet.directory, destinations=fleet.destinations) as running:
        files = fleet.files(Case("dcmqrscp", ""))
        send = ["dcmsend", "-aec", running.ae_title, "127.0.0.1", str(running.port), *map(str, files)]
        subprocess.run(send, env=peers.dcmtk_environment(), timeout=60, check=True)
        held = {read_instance(str(path)).sop_instance_uid: data_set(path) for path in running.files()}
        yield Asked(running.options, held)


@contextmanager
def _testpacs(fleet: Fleet, case: Case) -> Iterator[Asked]:
    """TestPACS with the faults of a case."""
    held, known = fleet.files(case), fleet.destinations
    faults = replace(case.faults, lost=case.named(case.lost), unsent=case.named(case.unsent))
    with TestPACS("TESTPACS", instances=held, destinations=known, faults=faults) as pacs:
        options = ["--ip", pacs.host, "--port", str(pacs.port), "--pacs-ae-title", pacs.ae_title]
        yield Asked(options, {uid: each.data_set for uid, each in pacs.instances.items()})


#: The fixture and the mark of each peer that must be installed.
_INSTALLED: Final = {
    "Orthanc": ("orthanc_with_study", pytest.mark.orthanc),
    "dcmqrscp": ("dcmqrscp_with_study", pytest.mark.dcmtk),
}


def _parameter(case: Case) -> Any:  # pytest keeps the name of its type to itself
    return pytest.param(case, id=str(case), marks=[_INSTALLED[case.peer][1]])


@pytest.mark.parametrize("case", [_parameter(case) for case in _CASES if case.peer in _INSTALLED])
def test_that_real_archives_give_what_they_promise(
    request: pytest.FixtureRequest, fleet: Fleet, case: Case, tmp_path: Path
) -> None:
    """Every data set is on disk as the archive holds it."""
    asked = request.getfixturevalue(_INSTALLED[case.peer][0])
    _TABLE.add(_CASES.index(case), *_checked(fleet, case, asked, tmp_path))
    assert not fleet.left()


@pytest.mark.parametrize("way", ["C-MOVE", "C-GET"])
def test_that_what_was_promised_is_here_or_missing_by_name(fleet: Fleet, way: str, tmp_path: Path) -> None:
    """Every data set is on disk as the peer holds it, or its SOP Instance UID is told, and the exit code says which."""
    cases = [case for case in _CASES if (case.peer, case.way) == ("TestPACS", way)]

    def play(case: Case) -> Sequence[object]:
        (directory := tmp_path / str(case.study)).mkdir()
        with _testpacs(fleet, case) as asked:
            return _checked(fleet, case, asked, directory)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        played = [(case, pool.submit(play, case)) for case in cases]
    if failures := {str(case): error for case, each in played if (error := each.exception())}:
        raise ExceptionGroup(", ".join(failures), [each for each in failures.values() if isinstance(each, Exception)])
    for case, each in played:
        _TABLE.add(_CASES.index(case), *each.result())
    assert not fleet.left()


def _checked(fleet: Fleet, case: Case, asked: Asked, directory: Path) -> Sequence[object]:
    """Retrieve the study and compare; gives the row of the table."""
    assert set(asked.held) == set(case.uids)
    output = directory / "output"
    result = _retrieved(fleet, case, asked, output)
    files = [path for path in output.rglob("*") if path.is_file()]
    told, counters = result.json["problems"], result.json["counters"]
    (study,) = result.json["studies"]
    lacking = counters["missing"] + counters["failed"]
    expected = {uid: content for uid, content in asked.held.items() if uid not in case.missing}
    assert {path.stem: data_set(path) for path in files} == expected, str(result)
    assert all(path == _place(output, case, path.stem) for path in files)
    if case.proof == "instances":
        assert sorted(each["subject"] for each in told) == sorted(case.missing), str(result)
    elif case.proof == "counts":
        # What it never named cannot be told by name, but its series and how many there should be can.
        assert all(re.fullmatch(r"\d+ of \d+", each["subject"]) for each in told), str(result)
    assert (counters["success"], lacking) == (len(expected), len(case.missing)), str(result)
    assert counters["total"] == study["promised"] == case.promised
    assert (study["study_uid"], study["received"], study["proof"]) == (study_uid(case.study), len(expected), case.proof)
    assert study["ways"] == ([{"auto": "C-MOVE"}.get(case.way, case.way)] if expected else [])
    assert study["missing"] + study["failed"] == len(case.missing)
    assert result.code == case.code, str(result)
    promised = study["promised"], study["proof"], len(files), lacking
    return (case.peer, case.way, case.what, *promised, result.code, f"{result.seconds:.1f}")


def _retrieved(fleet: Fleet, case: Case, asked: Asked, output: Path) -> Result:
    command = ["retrieve", "--study-uid", study_uid(case.study), "--output-dir", output, "--method", _METHODS[case.way]]
    return Terminal(output.parent, fleet.redis_url).run(*command, "--json", "--timeout", _SILENCE, *asked.options)


@pytest.mark.parametrize("way", ["C-MOVE", "C-GET"])
def test_that_nothing_is_fetched_where_nothing_can_be_promised(fleet: Fleet, way: str, tmp_path: Path) -> None:
    """Without a list and without a count nobody could say whether what comes is all: the command says so, and fails."""
    case = Case("TestPACS", way, "neither lists nor counts", Faults(no_image_level=0xC000, no_counts=True))
    output = tmp_path / "output"
    with _testpacs(fleet, case) as asked:
        result = _retrieved(fleet, case, asked, output)
    files = [path for path in output.rglob("*") if path.is_file()]
    place = len(_CASES) + list(_METHODS).index(way)
    _TABLE.add(place, case.peer, way, case.what, 0, "none", len(files), "", result.code, f"{result.seconds:.1f}")
    assert (result.code, files) == (1, []), str(result)
    assert "cannot list the instances of the study" in result.json["error"]["message"]


@pytest.mark.parametrize("way", ["C-MOVE", "C-GET"])
def test_that_a_round_number_without_a_count_is_doubted(fleet: Fleet, way: str, tmp_path: Path) -> None:
    """A list that was cut off looks like a whole one: the study says so, and what else came of the series is kept."""
    faults = Faults(most_matches=100, no_counts=True)
    case = Case("TestPACS", way, "caps C-FIND at 100 of 110, does not count", faults, series=(110, 2))
    output = tmp_path / "output"
    with _testpacs(fleet, case) as asked:
        result = _retrieved(fleet, case, asked, output)
    came = {path.stem: data_set(path) for path in output.rglob("*") if path.is_file()}
    (study,) = result.json["studies"]
    place = len(_CASES) + len(_METHODS) + list(_METHODS).index(way)
    told = study["promised"], study["proof"], len(came), 0, result.code, f"{result.seconds:.1f}"
    _TABLE.add(place, case.peer, way, case.what, *told)
    assert (study["promised"], study["received"], study["proof"]) == (102, 102, "instances"), str(result)
    assert (result.code, result.json["category"], study["category"]) == (0, "warning", "warning"), str(result)
    assert "if it limits its answers, there are more" in study["reason"]
    assert "more instances came than the remote had listed or counted (10)" in study["reason"]
    assert came == asked.held
    assert not fleet.left()


def _place(output: Path, case: Case, uid: str) -> Path:
    """Where an instance belongs."""
    return output / study_uid(case.study) / uid.rpartition(".")[0] / f"{uid}.dcm"
