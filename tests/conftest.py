"""Fixtures for all tests, and the rule about peers that are not installed."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pynetdicom import _config

from pacs_tasks.testing import TestPACS
from tests.support import nursery, peers, workers
from tests.support.command import Terminal
from tests.support.processes import Process, hide_our_scripts
from tests.support.redis_server import RedisServer, redis_program, redis_server

# An activated environment would find pynetdicom's programs where DCMTK's of the same names are meant.
hide_our_scripts()
nursery.open_at_first_use()

# Nobody reads what pynetdicom would log of each PDU and message, which takes a tenth of a TestPACS's time.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False

# A run that was started in the background ignores Ctrl-C, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_REQUIRED = os.environ.get("PACS_TASKS_TESTS_REQUIRE_PEERS") == "1"


def _missing(marker: str) -> str:
    """Why tests with this marker cannot run here; empty when they can."""
    if marker == "orthanc":
        return "" if peers.orthanc_program() else "Orthanc is not installed (Debian: apt-get install orthanc)"
    if marker == "chromium":
        return "" if peers.chromium_program() else "Chromium is not installed (Debian: apt-get install chromium)"
    absent = peers.dcmtk_missing()
    return f"DCMTK is not installed: no {', '.join(absent)} (Debian: apt-get install dcmtk)" if absent else ""


_MARKERS = ("orthanc", "dcmtk", "chromium")

#: Files and folders whose tests are marked `thorough`, so that `make test` takes minutes. They repeat shorter tests
#: with more peers, more files or more failures.
_THOROUGH = (
    "acceptance/test_batch_query.py",
    "acceptance/test_batch_retrieve.py",
    "acceptance/test_bench.py",
    "acceptance/test_cancelled_retrieve.py",
    "acceptance/test_capped_query.py",
    "acceptance/test_chaos.py",
    "acceptance/test_console.py",
    "acceptance/test_exact_bytes.py",
    "acceptance/test_fleet.py",
    "acceptance/test_fuzz.py",
    "acceptance/test_many_files.py",
    "acceptance/test_orthanc.py",
    "acceptance/test_receiver_peers.py",
    "acceptance/test_retrieve_selections.py",
    "acceptance/test_tls.py",
    "acceptance/test_to_remote.py",
    "acceptance/test_trusted_retrieve.py",
    "acceptance/test_types.py",
    "integration/cli/test_alone.py",
    "integration/cli/test_batch.py",
    "integration/cli/test_chinese.py",
    "integration/cli/test_purge.py",
    "integration/cli/test_up.py",
    "integration/dimse/test_crowds.py",
    "integration/dimse/test_delivery.py",
    "integration/dimse/test_exact_receiving.py",
    "integration/dimse/test_exact_sending.py",
    "integration/dimse/test_fuzz_callers.py",
    "integration/dimse/test_fuzz_receiver.py",
    "integration/dimse/test_limits.py",
    "integration/dimse/test_pdus.py",
    "integration/dimse/test_tls_sending.py",
    "integration/embedded",
    "integration/serve/test_schema.py",
    "integration/tasks/engine",
    "integration/tasks/find/test_find_charsets.py",
    "integration/tasks/find/test_find_split.py",
    "integration/tasks/find/test_hostile_pacs.py",
    "integration/tasks/retrieve/test_already_there.py",
    "integration/tasks/retrieve/test_cancel_retrieves.py",
    "integration/tasks/retrieve/test_count_deaths.py",
    "integration/tasks/retrieve/test_many_retrieves.py",
    "integration/tasks/retrieve/test_retrieve_selections.py",
    "integration/tasks/retrieve/test_to_remote.py",
    "integration/tasks/store/test_helpers.py",
    "integration/tasks/store/test_odd_inputs.py",
    "integration/tasks/verify/test_commit_jobs.py",
    "integration/testing",
    "integration/workers",
)
_TESTS = Path(__file__).parent
#: What takes longest of these begins first: at the end of a run it would keep one core busy and the others idle.
_FIRST = {
    _TESTS / each
    for each in (
        "acceptance/test_bench.py",
        "acceptance/test_chaos.py",
        "acceptance/test_fuzz.py",
        "acceptance/test_trusted_retrieve.py",
        "acceptance/test_many_files.py",
        "acceptance/test_batch_retrieve.py",
        "acceptance/test_orthanc.py",
        "integration/tasks/engine/test_association_budget.py",
    )
}


@cache
def _is_thorough(path: Path) -> bool:
    return any(path.is_relative_to(_TESTS / each) for each in _THOROUGH)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark thorough tests, and skip tests against a peer that is not installed, with the reason."""
    for item in items:
        if _is_thorough(item.path):
            item.add_marker("thorough")
    items.sort(key=lambda item: item.path not in _FIRST)
    reasons = {marker: _missing(marker) for marker in _MARKERS}
    for item in items:
        for marker, reason in reasons.items():
            if reason and not _REQUIRED and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Keep the thousands of tests out of each search for garbage, which they make 0.4 s longer."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where peers are required, one that is not installed is a failure."""
    for marker in _MARKERS:
        if _REQUIRED and item.get_closest_marker(marker) and (reason := _missing(marker)):
            pytest.fail(f"PACS_TASKS_TESTS_REQUIRE_PEERS=1, but {reason}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which peers were there."""
    terminalreporter.section("peers")
    orthanc = peers.orthanc_program()
    found = {
        "Redis": peers.version_of(redis_program()),
        "Orthanc": _missing("orthanc") or peers.version_of(orthanc or ""),
        "DCMTK": _missing("dcmtk") or peers.version_of("storescp"),
        "Chromium": _missing("chromium") or "installed",
    }
    for name, version in found.items():
        terminalreporter.write_line(f"{name}: {version}")
    for report in terminalreporter.stats.get("passed", []):
        for figure, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {figure} {value}")


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the whole run."""
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis_url(redis_process: RedisServer) -> str:
    """An empty database of a real Redis, for this test alone."""
    return redis_process.fresh_url()


@pytest.fixture(scope="session")
def shared_redis_url(redis_process: RedisServer) -> str:
    """The database that the shared worker serves."""
    return redis_process.url(0)


@pytest.fixture(scope="session")
def shared_worker(shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One worker for all tests that do not care who else uses it."""
    with workers.worker(shared_redis_url, tmp_path_factory.mktemp("shared-worker"), "shared") as running:
        yield running


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Process]:
    """A worker of this test's own database."""
    with workers.worker(redis_url, tmp_path) as running:
        yield running


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def terminal(shared_redis_url: str, shared_worker: Process, tmp_path: Path) -> Terminal:
    """A command line that the shared worker serves."""
    assert shared_worker.running(), shared_worker.said()
    directory = tmp_path / "terminal"
    directory.mkdir()
    return Terminal(directory, shared_redis_url)


@pytest.fixture
def pacs() -> Iterator[TestPACS]:
    """An empty PACS without faults."""
    with TestPACS() as running:
        yield running


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[peers.Orthanc]:
    """An empty Orthanc; it knows no move destination."""
    with peers.orthanc(tmp_path) as running:
        yield running


@pytest.fixture
def dcmqrscp(tmp_path: Path) -> Iterator[peers.Directory]:
    """An empty dcmqrscp; it knows no move destination."""
    with peers.dcmqrscp(tmp_path) as running:
        yield running


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[peers.Directory]:
    """An empty storescp."""
    with peers.storescp(tmp_path) as running:
        yield running
