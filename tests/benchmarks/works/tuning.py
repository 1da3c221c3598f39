"""How near the number of associations that nobody sets comes to the best one found by hand, and how soon it falls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pacs_tasks import Job, PacsClient, RemoteAE, RetrieveMethod, RetrieveRequest, StoreDirectoryRequest
from pacs_tasks.fleet.leases import name_of, tuning_key
from pacs_tasks.request import AnyRequest
from tests.benchmarks.evidence import check_claims, claimed, instances
from tests.benchmarks.files import MANY_SERIES, TEN_THOUSAND, Files
from tests.benchmarks.fleet import default_fleet, took
from tests.benchmarks.line import line_to
from tests.benchmarks.measuring import Bar, Bench, BenchError, Contestant, Figure, Work
from tests.benchmarks.programs import one_association
from tests.benchmarks.results import Sample, Trace
from tests.benchmarks.timeline import Timeline, associations, rate, timeline
from tests.chaos.pacs import Pacs
from tests.support import peers

#: What is tried by hand; in the small form, one number.
_FIXED: Final = (1, 2, 4, 8, 16, 32)
_SMALL_FIXED: Final = (8,)
#: Seconds after its first outcome in which the rate of a job counts: ours tunes itself in the first ten.
_TUNED: Final = (10.0, 20.0)
_BY_HAND: Final = (2.0, 8.0)
#: The share of its files after which the last parts of a job end one by one, so that its rate does not count any more.
_WHOLE: Final = 0.9
#: Samples of a job, ten a second, with fewer of which only its whole time says something.
_FEWEST: Final = 10
#: Seconds within which a cancelled job ends.
_PATIENCE: Final = 60.0
#: TestPACS answers after so many seconds, times 1 + (n / 6)² where n associations are open: six are the best.
_DELAY, _OVERLOAD = 0.1, 6
#: From a moment on two are the best, and ours has so many seconds to have half as many.
_SLOWER: Final = 2
_LONGEST_FALL: Final = 20.0
_INTO: Final = "output"

#: A peer that has begun, where it is called, and what says which SOP Instance UIDs it holds after a job.
Held = Callable[[Job], set[str]]
Place = tuple[RemoteAE, Held]


@dataclass(frozen=True)
class _Case:
    """A peer, and what goes on between it and us."""

    words: tuple[str, str]
    files: str
    start: Callable[[Files, Path], AbstractContextManager[Place]]
    #: Whether the files go to it; else they come from it.
    sends: bool = True
    #: Whether a picture shows what we do there.
    drawn: bool = False

    @property
    def name(self) -> str:
        return self.words[0]

    def request(self, remote: RemoteAE, files: Files, room: Path) -> AnyRequest:
        if self.sends:
            return StoreDirectoryRequest(remote=remote, directory=str(files.directory))
        into = room / _INTO
        into.mkdir()
        return RetrieveRequest(
            remote=remote, study_uid=files.study_uid, output_dir=str(into), method=RetrieveMethod.GET
        )


def _at(remote: RemoteAE, port: int) -> RemoteAE:
    return remote.model_copy(update={"port": port})


@contextmanager
def _storescp(round_trip: float, _: Files, room: Path) -> Iterator[Place]:
    with peers.storescp(room, "STORESCP", "--fork") as peer, line_to(peer.port, room, round_trip) as line:
        yield _at(peer.remote, line.port), lambda _: set(instances(peer.directory))


@contextmanager
def _orthanc(_: Files, room: Path) -> Iterator[Place]:
    with peers.orthanc(room) as peer:
        yield peer.remote, lambda _: set(peer.instances())


@contextmanager
def _dcmqrscp(_: Files, room: Path) -> Iterator[Place]:
    """Over several associations it loses instances that it has answered with success, so that its log has to do."""
    with peers.dcmqrscp(room, "DCMQRSCP", {}, "-v") as peer:

        def held(job: Job) -> set[str]:
            claims = claimed(job)
            came = peer.process.said().count("Received Store")
            return claims if came >= len(claims) else set()

        yield peer.remote, held


@contextmanager
def _slowing(_: Files, room: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        pacs = _test_pacs(stack, room)
        yield pacs.remote, lambda _: set(pacs.held())


def _test_pacs(stack: ExitStack, room: Path) -> Pacs:
    pacs = Pacs(stack, room / "pacs")
    pacs.start()
    pacs.faults(delay=_DELAY, overload=_OVERLOAD)
    return pacs


@contextmanager
def _archive(round_trip: float, files: Files, room: Path) -> Iterator[Place]:
    """Orthanc, which delivers by C-GET."""
    with peers.orthanc(room) as peer, line_to(peer.port, room, round_trip) as line:
        one_association().send(peer, files)
        yield _at(peer.remote, line.port), lambda _: set(instances(room / _INTO))


_CASES: Final = (
    *(
        _Case(
            (f"storescp, {milliseconds} ms round trip", f"storescp，往返延迟 {milliseconds} 毫秒"),
            TEN_THOUSAND,
            partial(_storescp, milliseconds / 1000),
            drawn=milliseconds == 100,
        )
        for milliseconds in (1, 20, 100)
    ),
    _Case(("Orthanc", "Orthanc"), TEN_THOUSAND, _orthanc),
    _Case(("dcmqrscp", "dcmqrscp"), MANY_SERIES, _dcmqrscp),
    _Case(
        ("TestPACS that slows down with each association", "随每个关联变慢的 TestPACS"),
        TEN_THOUSAND,
        _slowing,
        drawn=True,
    ),
    *(
        _Case(
            (f"C-GET from Orthanc, {milliseconds} ms round trip", f"从 Orthanc C-GET，往返延迟 {milliseconds} 毫秒"),
            MANY_SERIES,
            partial(_archive, milliseconds / 1000),
            sends=False,
        )
        for milliseconds in (20, 100)
    ),
)


def _rate(bench: Bench, case: _Case, window: tuple[float, float], number: int = 0) -> float:
    """Instances a second at an empty peer, within a window or over the whole job; 0 leaves the number to us."""
    files = bench.files(case.files)
    ours = bench.shared(default_fleet)
    with bench.room() as room, case.start(files, room) as (peer, held), ours.client() as client:
        remote = _fixed(client, peer, number) if number else peer
        job = client.enqueue(case.request(remote, files, room))
        with timeline(job, remote.port) as seen:
            first = seen.wait(lambda each: each.recorded > 0, _PATIENCE)
            if first is None:
                raise BenchError(f"{case.name}: nothing was moved in {_PATIENCE:g} s")
            begin, end = (first.at + each for each in window)
            seen.run(end)
        found = _rate_of(job, [each for each in seen.samples if each.at >= first.at], begin, end)
        _end(case.name, job, held)
        if case.drawn and not number:
            bench.traces[case.name] = Trace(title=case.name, samples=tuple(seen.samples))
        return found


def _fixed(client: PacsClient, remote: RemoteAE, number: int) -> RemoteAE:
    """A remote with which there are exactly so many associations: nothing is tried, and nothing makes them fewer.

    Listing what to retrieve may take longer than a record without use is believed: the ceiling holds then.
    """
    never = 1e12
    fixed = {"limit": number, "base": number, "seen": time.time(), "again": never, "cut": never, "pause": never}
    for name, value in {**fixed, "settled": 0, "probe": 0, "coarse": 0}.items():
        client.ledger.client.hset(tuning_key(name_of(remote)), name, str(value))
    return remote.model_copy(update={"max_associations": number})


def _rate_of(job: Job, samples: Sequence[Sample], begin: float, end: float) -> float:
    """The rate between two moments; of the second half of its time if the job has ended before."""
    progress = job.progress()
    whole = _WHOLE * progress.counters.total
    busy = [each for each in samples if each.recorded <= whole]
    if len(busy) < _FEWEST and progress.state.finished:
        return progress.counters.done / took(progress)
    return rate(busy, min(begin, (busy[0].at + busy[-1].at) / 2), min(end, busy[-1].at))


def _end(who: str, job: Job, held: Held) -> None:
    """Cancel a job of which enough has been seen; the peer must hold what the ledger calls sent."""
    job.cancel()
    job.wait(_PATIENCE)
    if not check_claims(who, job, held(job)):
        raise BenchError(f"{who}: nothing was sent; {job.outcome()!r:.500}")


def _contestant(bench: Bench, case: _Case) -> Contestant:
    def run() -> Mapping[str, Figure]:
        tuned = _rate(bench, case, _TUNED)
        best, number = max(_by_hand(bench, case))
        if not best:
            raise BenchError(f"{case.name}: nothing was moved by any number of associations in the seconds that count")
        return {
            f"{case.name}: by itself": Figure(tuned, "instances/s"),
            f"{case.name}: best by hand": Figure(best, "instances/s"),
            f"{case.name}: best number": Figure(number, "associations"),
            case.name: Figure(tuned / best, ""),
        }

    return Contestant(case.name, run, once=True)


def _by_hand(bench: Bench, case: _Case) -> Iterator[tuple[float, int]]:
    """The rate of each fixed number of associations, each at a peer of its own."""
    for number in _SMALL_FIXED if bench.small else _FIXED:
        found = _rate(bench, case, _BY_HAND, number)
        bench.say(f"{case.name}: {number} associations: {found:.1f} instances/s")
        yield found, number


_FALL: Final = "until half the associations"
_FALL_TITLE: Final = "TestPACS that begins to slow down"


def _fall(bench: Bench) -> Contestant:
    """A PACS that can do less from a moment on: until we have half as many associations with it."""

    def run() -> Mapping[str, Figure]:
        files = bench.files(TEN_THOUSAND)
        with (
            bench.room() as room,
            bench.shared(default_fleet).client() as client,
            ExitStack() as stack,
        ):
            pacs = _test_pacs(stack, room)
            job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(files.directory)))
            with timeline(job, pacs.port) as seen:
                seconds, mark = _seconds_to_half(bench, pacs, seen)
                seen.run(seen.now + (0.0 if bench.small else 5.0))
            _end(_FALL_TITLE, job, lambda _: set(pacs.held()))
            bench.traces[_FALL] = Trace(
                title=_FALL_TITLE, samples=tuple(seen.samples), mark=mark, mark_title="it becomes slower"
            )
            return {_FALL: Figure(seconds)}

    return Contestant(_FALL_TITLE, run, once=True)


def _seconds_to_half(bench: Bench, pacs: Pacs, seen: Timeline) -> tuple[float, float]:
    """Seconds until we have half as many associations, and when it became slower."""
    seen.run(1.0 if bench.small else _TUNED[0])
    before = associations(seen.samples, seen.now - 3.0, seen.now)
    mark = seen.now
    pacs.faults(delay=_DELAY, overload=_SLOWER)
    half = seen.wait(lambda each: each.associations <= before / 2, 1.0 if bench.small else _LONGEST_FALL)
    return (half.at if half else seen.now) - mark, mark


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    yield [*(_contestant(bench, case) for case in _CASES), _fall(bench)]


WORK: Final = Work(
    "tuning",
    (
        "associations by themselves: rate as a share of the best fixed number",
        "自动调整关联数：速率与最佳固定关联数之比",
    ),
    (TEN_THOUSAND, MANY_SERIES),
    _scene,
    (
        *(Bar(case.name, case.name, (), 0.9, case.words) for case in _CASES),
        Bar(
            "fall",
            _FALL,
            (),
            5,
            ("half the associations, after a PACS becomes slower", "PACS 变慢后，关联数减半的时间"),
            at_least=False,
            unit="s",
        ),
    ),
    scheduling=True,
)
