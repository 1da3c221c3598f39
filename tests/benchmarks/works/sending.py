"""Sending CT500: over one association, and as people do, with a record of every file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from tests.benchmarks.evidence import check_files, check_ignored, check_uids
from tests.benchmarks.files import CT, Files
from tests.benchmarks.fleet import SEND_DIR, fleet
from tests.benchmarks.measuring import Bar, Bench, Contestant, Figure, Work
from tests.benchmarks.programs import (
    Sender,
    dcmsend,
    once_started,
    one_association,
    pynetdicom_storescu,
    storescu,
)
from tests.support import peers

#: A storescp that throws away what comes, and says of each instance that it came.
IGNORING: Final = ("--ignore", "-v")


def to_storescp(
    bench: Bench, sender: Sender, files: Files, *options: str, tuned: bool = True, once: bool = False
) -> Contestant:
    """Send to a storescp that holds nothing yet."""

    def run() -> Mapping[str, Figure]:
        with bench.room() as room, peers.storescp(room, "STORESCP", *options, tuned=tuned) as peer:
            figures = sender.send(peer, files)
            if "--ignore" in options:
                check_ignored(sender.name, files, peer)
            else:
                check_files(sender.name, files, peer.directory, exact=sender.exact)
            return figures

    return Contestant(sender.name, run, once)


def _to_orthanc(bench: Bench, sender: Sender, files: Files) -> Contestant:
    """Send to an Orthanc as installed that holds nothing yet."""

    def run() -> Mapping[str, Figure]:
        with bench.room() as room, peers.orthanc(room, tuned=False) as peer:
            figures = sender.send(peer, files)
            check_uids(sender.name, files, peer.instances())
            return figures

    return Contestant(sender.name, run)


@contextmanager
def _over_one_association(bench: Bench) -> Iterator[Sequence[Contestant]]:
    senders = [one_association(), dcmsend(tuned=True), storescu(tuned=True), pynetdicom_storescu()]
    yield [to_storescp(bench, each, bench.files(CT)) for each in senders]


@contextmanager
def _over_one_association_ignored(bench: Bench) -> Iterator[Sequence[Contestant]]:
    senders = [one_association(), dcmsend(tuned=True), storescu(tuned=True)]
    yield [to_storescp(bench, each, bench.files(CT), *IGNORING) for each in senders]


@contextmanager
def _to_tuned_storescp(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    # Two associations at once need a process for each.
    yield [to_storescp(bench, each, files, "--fork") for each in (bench.shared(fleet).sender(), dcmsend(tuned=True))]


@contextmanager
def _to_storescp_as_installed(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    senders = [bench.shared(fleet).sender(), dcmsend(tuned=False), storescu(tuned=False)]
    yield [to_storescp(bench, each, files, tuned=False) for each in senders]


@contextmanager
def _to_orthanc_as_installed(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(CT)
    yield [_to_orthanc(bench, each, files) for each in (bench.shared(fleet).sender(), dcmsend(tuned=False))]


_TUNED: Final = dcmsend(tuned=True).name
_INSTALLED: Final = dcmsend(tuned=False).name
_OURS: Final = one_association().name
_AGAINST_TUNED: Final = ("`dcmsend`, tuned", "`dcmsend`，已调优")
_AGAINST_INSTALLED: Final = ("`dcmsend`, as installed", "`dcmsend`，默认安装")
_ONCE_STARTED: Final = ("`dcmsend`, tuned; ours once started", "`dcmsend`，已调优；pacs-tasks 不计启动")

WORKS: Final = (
    Work(
        "one-association",
        ("CT500 over one association to a tuned `storescp`", "CT500，一个关联，发给已调优的 `storescp`"),
        (CT,),
        _over_one_association,
        (
            # A worker is a process that runs already: what counts is the rate at which it sends.
            Bar("dcmsend", _TUNED, (once_started(_OURS),), 0.9, _ONCE_STARTED),
            Bar("dcmsend-and-our-start", _TUNED, (_OURS,), None, _AGAINST_TUNED),
            Bar(
                "pynetdicom",
                pynetdicom_storescu().name,
                (_OURS,),
                10,
                ("pynetdicom's `storescu`", "pynetdicom 的 `storescu`"),
            ),
        ),
    ),
    Work(
        "one-association-ignored",
        (
            "CT500 over one association to a tuned `storescp --ignore`",
            "CT500，一个关联，发给已调优的 `storescp --ignore`",
        ),
        (CT,),
        _over_one_association_ignored,
        (
            # A worker is a process that runs already: what counts is the rate at which it sends.
            Bar("dcmsend", _TUNED, (once_started(_OURS),), 0.9, _ONCE_STARTED),
            Bar("dcmsend-and-our-start", _TUNED, (_OURS,), None, _AGAINST_TUNED),
        ),
    ),
    Work(
        "send-dir",
        ("`send-dir` of CT500 to a tuned `storescp`", "`send-dir` 把 CT500 发给已调优的 `storescp`"),
        (CT,),
        _to_tuned_storescp,
        (
            Bar("dcmsend", _TUNED, (SEND_DIR,), 1.5, _AGAINST_TUNED),
            Bar("dcmsend-once-started", _TUNED, (once_started(SEND_DIR),), None, _ONCE_STARTED),
        ),
    ),
    Work(
        "send-dir-as-installed",
        ("`send-dir` of CT500 to a `storescp` as installed", "`send-dir` 把 CT500 发给默认安装的 `storescp`"),
        (CT,),
        _to_storescp_as_installed,
        (Bar("dcmsend", _INSTALLED, (SEND_DIR,), 30, _AGAINST_INSTALLED),),
    ),
    Work(
        "send-dir-orthanc",
        ("`send-dir` of CT500 to Orthanc as installed", "`send-dir` 把 CT500 发给默认安装的 Orthanc"),
        (CT,),
        _to_orthanc_as_installed,
        (Bar("dcmsend", _INSTALLED, (SEND_DIR,), 5, _AGAINST_INSTALLED),),
    ),
)
