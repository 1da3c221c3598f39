"""Many retrieves at once through the receiver: each receives all of its instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacs_tasks import Category, Job, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.testing import Faults, TestPACS
from tests.support import workers
from tests.support.dicom_files import UID_ROOT, data_set, study_uid, write_series
from tests.support.ports import free_port

STUDIES = range(1, 5)
#: Two studies of two series each, and two of one series.
_SERIES = {1: (8, 5), 2: (6, 4), 3: (7,), 4: (3,)}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of four studies."""
    root = tmp_path_factory.mktemp("held")
    return [
        path
        for study in STUDIES
        for series, count in enumerate(_SERIES[study], 1)
        for path in write_series(root / f"{study}.{series}", count, study=study, series=series)
    ]


@pytest.fixture
def archive(held: list[Path]) -> Iterator[TestPACS]:
    with TestPACS(instances=held) as running:
        yield running


def of_study(archive: TestPACS, study: int) -> Mapping[str, bytes]:
    """The data sets of a study in the PACS."""
    return {uid: each.data_set for uid, each in archive.instances.items() if uid.startswith(f"{UID_ROOT}.{study}.")}


@contextmanager
def receivers(redis_url: str, directory: Path, archive: TestPACS, *ae_titles: str, **settings: str) -> Iterator[None]:
    """Receivers that share one directory; the PACS knows them all."""
    if not ae_titles:
        yield
        return
    port, first = free_port(), ae_titles[0]
    with workers.receiver(redis_url, directory, port, first, **settings):
        archive.destinations[first] = ("127.0.0.1", port)
        with receivers(redis_url, directory, archive, *ae_titles[1:], **settings):
            yield


def enqueued(client: PacsClient, archive: TestPACS, output: Path, move_aet: str, study: int = 1, **some: str) -> Job:
    return client.enqueue(
        RetrieveRequest.model_validate(
            {
                "remote": archive.remote,
                "study_uid": study_uid(study),
                "output_dir": str(output),
                "method": RetrieveMethod.MOVE,
                "move_aet": move_aet,
                **some,
            }
        )
    )


def assert_complete(job: Job, output: Path, promised: Mapping[str, bytes]) -> None:
    """The job succeeds, and the directory holds exactly the promised instances."""
    job.wait(60)
    outcome = job.outcome()
    assert outcome.category is Category.SUCCESS, outcome
    files = [path for path in output.rglob("*") if path.is_file()]
    assert {path.stem: data_set(path) for path in files} == promised
    assert len(files) == len(promised)


def assert_all_taken(directory: Path) -> None:
    """The receiver's storage is empty, unsolicited instances included."""
    assert not list((directory / "data/received").rglob("*.dcm"))
    assert not list((directory / "data/received").rglob("*.part"))


@pytest.mark.parametrize("processes", [1, 2])
def test_two_retrieves_of_a_study_and_three_of_others_at_once(
    client: PacsClient, shared_redis_url: str, archive: TestPACS, tmp_path: Path, processes: int
) -> None:
    """Each into a directory of its own, through one receiver."""
    settings = {"PACS_TASKS_RECEIVER_PROCESSES": str(processes), "PACS_TASKS_UNSOLICITED": "refuse"}
    with receivers(shared_redis_url, tmp_path, archive, "MANY", **settings):
        wanted = [(1, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e")]
        jobs = {name: enqueued(client, archive, tmp_path / name, "MANY", study) for study, name in wanted}
        for study, name in wanted:
            assert_complete(jobs[name], tmp_path / name, of_study(archive, study))
    assert_all_taken(tmp_path)


def test_a_study_and_each_of_its_series_at_once(
    client: PacsClient, shared_redis_url: str, archive: TestPACS, tmp_path: Path
) -> None:
    """One job wants the whole study, the others a series each."""
    with receivers(shared_redis_url, tmp_path, archive, "MANY", PACS_TASKS_UNSOLICITED="refuse"):
        whole = enqueued(client, archive, tmp_path / "whole", "MANY")
        alone = [
            enqueued(client, archive, tmp_path / str(series), "MANY", series_uid=f"{study_uid()}.{series}")
            for series in (1, 2)
        ]
        promised = of_study(archive, 1)
        assert_complete(whole, tmp_path / "whole", promised)
        for series, job in enumerate(alone, 1):
            of_series = {uid: each for uid, each in promised.items() if uid.startswith(f"{study_uid()}.{series}.")}
            assert_complete(job, tmp_path / str(series), of_series)
    assert_all_taken(tmp_path)


def test_receivers_that_share_a_directory_serve_the_same_study_at_once(
    client: PacsClient, shared_redis_url: str, archive: TestPACS, tmp_path: Path
) -> None:
    """Both store the same instance at the same path; each job receives its own."""
    archive.faults = Faults(delay=0.05)
    with receivers(shared_redis_url, tmp_path, archive, "FIRST", "SECOND", PACS_TASKS_UNSOLICITED="refuse"):
        jobs = {title: enqueued(client, archive, tmp_path / title, title) for title in ("FIRST", "SECOND")}
        for title, job in jobs.items():
            assert_complete(job, tmp_path / title, of_study(archive, 1))
    assert_all_taken(tmp_path)


@pytest.mark.parametrize("ae_title", ["MY_READING_ROOM", "READING ROOM 1", "SIXTEEN_CHARS 16", "_", "pacs*[tasks]?"])
def test_any_ae_title_that_dicom_allows_will_do(
    client: PacsClient, shared_redis_url: str, archive: TestPACS, tmp_path: Path, ae_title: str
) -> None:
    """Underscores, inner spaces, 16 characters, patterns of Redis and shells (PS3.5 table 6.2-1, VR AE)."""
    with receivers(shared_redis_url, tmp_path, archive, ae_title, PACS_TASKS_UNSOLICITED="refuse"):
        job = enqueued(client, archive, tmp_path / "out", ae_title, study=4)
        assert_complete(job, tmp_path / "out", of_study(archive, 4))
    assert_all_taken(tmp_path)


def test_spaces_around_an_ae_title_do_not_matter(
    client: PacsClient, shared_redis_url: str, archive: TestPACS, tmp_path: Path
) -> None:
    """They are not significant, for the receiver and for the job (PS3.5 table 6.2-1)."""
    port = free_port()
    with workers.receiver(shared_redis_url, tmp_path, port, "  MY ROOM "):
        archive.destinations["MY ROOM"] = ("127.0.0.1", port)
        job = enqueued(client, archive, tmp_path / "out", "MY ROOM         ", study=4)
        assert_complete(job, tmp_path / "out", of_study(archive, 4))
    assert_all_taken(tmp_path)
