"""Damaged files in jobs: they fail as files, before the remote is troubled, or are sent if somebody wants that."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacs_tasks import (
    Category,
    InstanceCategory,
    PacsClient,
    PreflightOutcome,
    PreflightRequest,
    StoreDirectoryRequest,
    StoreRequest,
    TransferOutcome,
)
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.output.transfer import SendView
from pacs_tasks.request import FilesRequest
from pacs_tasks.testing import TestPACS
from tests.support.dicom_files import data_set, write_series

LIMIT = 60


def transferred(client: PacsClient, request: StoreRequest | StoreDirectoryRequest) -> TransferOutcome:
    job = client.enqueue(request)
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


def exit_code(outcome: TransferOutcome) -> ExitCode:
    return SendView(outcome, None, None).exit_code  # type: ignore[arg-type]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A good file, one that is cut off, and one whose last value has an odd length."""
    paths = write_series(tmp_path, 3, rows=4)
    cut, odd = (path.read_bytes() for path in paths[1:])
    paths[1].write_bytes(cut[:-10])
    # 31 of 32 bytes of pixel data.
    paths[2].write_bytes(odd[: -32 - 4] + (31).to_bytes(4, "little") + odd[-32:-1])
    return tmp_path


def test_a_damaged_file_fails_alone_and_at_once(client: PacsClient, pacs: TestPACS, directory: Path) -> None:
    """Exit code 3 beside a good file, 1 alone, never 4; nothing of it is sent."""
    outcome = transferred(client, StoreDirectoryRequest(remote=pacs.remote, directory=str(directory)))
    assert (outcome.counters.success, outcome.counters.failed, exit_code(outcome)) == (1, 2, ExitCode.PARTIAL)
    assert [each.error for each in outcome.problems] == ["DamagedFileError"] * 2
    assert len(pacs.stores) == 1
    associations = pacs.associations
    for path, says in ((directory / "000002.dcm", "(7FE0,0010)"), (directory / "000003.dcm", "odd length")):
        alone = transferred(client, StoreRequest(remote=pacs.remote, path=str(path)))
        assert (alone.counters.failed, exit_code(alone)) == (1, ExitCode.FAILED)
        assert says in alone.problems[0].reason
    assert pacs.associations == associations


def test_a_damaged_file_is_sent_all_the_same_on_request(client: PacsClient, pacs: TestPACS, directory: Path) -> None:
    """Byte for byte: what it becomes there is the remote's decision."""
    path = directory / "000002.dcm"
    outcome = transferred(client, StoreRequest(remote=pacs.remote, path=str(path), send_damaged=True))
    assert outcome.category is Category.SUCCESS
    assert [each.data_set for each in pacs.instances.values()] == [data_set(path)]


def test_an_odd_value_is_padded_on_request(client: PacsClient, pacs: TestPACS, directory: Path) -> None:
    """The remote holds the even length and the padding byte, and the receipt says so."""
    path = directory / "000003.dcm"
    job = client.enqueue(StoreRequest(remote=pacs.remote, path=str(path), repair=True))
    job.wait(LIMIT)
    [receipt] = job.receipts()
    assert receipt.category == InstanceCategory.WARNING
    assert "padding byte" in receipt.reason
    [held] = pacs.instances.values()
    odd = data_set(path)
    assert held.data_set == odd[: -31 - 4] + (32).to_bytes(4, "little") + odd[-31:] + b"\0"


@pytest.mark.parametrize(
    ("options", "unreadable"), [({}, 2), ({"repair": True}, 1), ({"send_damaged": True}, 0)], ids=str
)
def test_a_dry_run_names_damaged_files(
    client: PacsClient, pacs: TestPACS, directory: Path, options: dict[str, bool], unreadable: int
) -> None:
    """It lists what would not be sent."""
    job = client.enqueue(PreflightRequest(remote=pacs.remote, directory=str(directory), **options))
    job.wait(LIMIT)
    outcome = job.outcome()
    assert isinstance(outcome, PreflightOutcome)
    assert len(outcome.unreadable) == unreadable
    assert sum(pair.count for pair in outcome.pairs) == 3 - unreadable


def test_damaged_files_are_held_back_by_default() -> None:
    """In requests of programs as on the command line."""
    assert FilesRequest().model_dump(include={"send_damaged", "repair"}) == {"send_damaged": False, "repair": False}
