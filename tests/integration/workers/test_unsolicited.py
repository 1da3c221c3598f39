"""Unsolicited instances: stored apart, or refused; nothing hangs or is lost while Redis is away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from pacs_tasks import Category, PacsClient, RetrieveMethod, RetrieveRequest
from pacs_tasks.connection import connect
from pacs_tasks.fleet.receivers import EXPECTED_FOR, MARKER, ExpectedSeries
from pacs_tasks.fleet.senders import Expectation
from pacs_tasks.testing import TestPACS
from pacs_tasks.testing.association import Caller
from tests.support import workers
from tests.support.callers import CT, EXPLICIT, GUARDED
from tests.support.dicom_files import UID_ROOT, data_set, instance, study_uid, write, write_series
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

SERIES = f"{UID_ROOT}.1.1"
_REFUSE = {"PACS_TASKS_UNSOLICITED": "refuse"}
#: What somebody expects from :func:`associated`.
ME = Expectation(owner="me", addresses=("127.0.0.1",), ae_titles=("MODALITY",), originator="WORKSTATION", message_id=1)


@contextmanager
def associated(port: int) -> Iterator[Association]:
    """pynetdicom calls the receiver."""
    ae = Caller("MODALITY")
    ae.acse_timeout = ae.dimse_timeout = 15
    assoc = ae.associate("127.0.0.1", port, [build_context(CT, EXPLICIT)], "PACS_TASKS", evt_handlers=GUARDED)
    assert assoc.is_established
    try:
        yield assoc
    finally:
        assoc.release()


def pushed(assoc: Association, number: int, originator: str = "") -> Dataset:
    """Send an instance of series 1 of study 1, as if by a C-MOVE of ``originator``; return the answer."""
    if originator:
        return assoc.send_c_store(instance(number), originator_aet=originator, originator_id=1)
    return assoc.send_c_store(instance(number))


def below(directory: Path, where: str) -> dict[str, bytes]:
    """The instances below a directory; each is at the path of its UIDs."""
    root = directory / "data/received" / where
    found = {}
    for path in root.rglob("*.dcm"):
        ds = dcmread(path, stop_before_pixels=True)
        assert path == root / ds.StudyInstanceUID / ds.SeriesInstanceUID / f"{ds.SOPInstanceUID}.dcm"
        found[str(ds.SOPInstanceUID)] = data_set(path)
    return found


def everything(directory: Path) -> list[str]:
    return [path.name for path in (directory / "data/received").rglob("*")]


def uid(number: int) -> str:
    return f"{SERIES}.{number}"


def test_what_nobody_asked_for_has_a_place_of_its_own(redis_url: str, tmp_path: Path) -> None:
    """They are stored bit for bit and counted in the log; expected ones go elsewhere."""
    port = free_port()
    with workers.receiver(redis_url, tmp_path, port) as process, connect(redis_url, 5) as client:
        with associated(port) as assoc:
            assert [pushed(assoc, number).Status for number in (1, 2)] == [0x0000] * 2
            ExpectedSeries(client).expect("PACS_TASKS", study_uid(), SERIES, ME, 60)
            # For a C-MOVE, Redis is read each time, even right after another answer.
            assert pushed(assoc, 3, "WORKSTATION").Status == 0x0000
            ExpectedSeries(client).withdraw("PACS_TASKS", study_uid(), SERIES, ME)
        process.end(15)
        said = process.said()
    assert below(tmp_path, "unsolicited") == {
        uid(number): data_set(write(instance(number), tmp_path / f"{number}.dcm")) for number in (1, 2)
    }
    assert set(below(tmp_path, "incoming")) == {uid(3)}
    assert "Received 3 instances and refused 0; unsolicited were 2 of those received" in said
    assert study_uid() not in said


def test_the_same_instance_with_other_content_is_kept_twice(redis_url: str, tmp_path: Path) -> None:
    """Both files stay, and the log counts them; the same content again changes nothing."""
    port = free_port()
    contents = [instance(1), instance(1, patient_id="OTHER"), instance(1, patient_id="OTHER")]
    with workers.receiver(redis_url, tmp_path, port) as process:
        with associated(port) as assoc:
            assert [assoc.send_c_store(each).Status for each in contents] == [0x0000] * 3
        process.end(15)
        said = process.said()
    directory = tmp_path / "data/received/unsolicited" / study_uid() / SERIES
    kept = {path.name: data_set(path) for path in directory.iterdir()}
    sent = [data_set(write(each, tmp_path / "sent.dcm")) for each in contents]
    assert kept == {f"{uid(1)}.dcm": sent[1], f"{uid(1)}.dcm.1": sent[0]}
    assert "1 instances came again with other content" in said
    assert "OTHER" not in said


@pytest.mark.parametrize("level", ["unsolicited", "study", "series"])
def test_links_in_its_directory_are_not_followed(redis_url: str, tmp_path: Path, level: str) -> None:
    """Somebody has put a link there: the instance is refused, and nothing is written elsewhere."""
    port, elsewhere = free_port(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    parts = {"unsolicited": [], "study": [study_uid()], "series": [study_uid(), SERIES]}[level]
    link = tmp_path.joinpath("data/received/unsolicited", *parts)
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with workers.receiver(redis_url, tmp_path, port), associated(port) as assoc:
        answer = pushed(assoc, 1)
    assert (answer.Status, answer.ErrorComment) == (0xA700, "cannot write: a link is in the place of a directory")
    assert not list(elsewhere.iterdir())
    assert not list((tmp_path / "data/received").rglob("*.part"))


def test_a_stream_that_names_no_c_move_is_noticed_soon(redis_url: str, tmp_path: Path) -> None:
    """Not every remote names it: a new expectation takes effect within a second."""
    port = free_port()
    with workers.receiver(redis_url, tmp_path, port), connect(redis_url, 5) as client, associated(port) as assoc:
        assert pushed(assoc, 1).Status == 0x0000
        ExpectedSeries(client).expect("PACS_TASKS", study_uid(), SERIES, ME, 60)
        began = time.monotonic()
        #: When the early instances were sent.
        early = [began]

        def arrives() -> bool:
            now = time.monotonic()
            assert pushed(assoc, 2).Status == 0x0000
            if uid(2) in below(tmp_path, "incoming"):
                return True
            early.append(now)
            return False

        wait_until(arrives, 10, "what is expected to be known")
        assert early[-1] - began < 1
        ExpectedSeries(client).withdraw("PACS_TASKS", study_uid(), SERIES, ME)
        wait_until(lambda: pushed(assoc, 3).Status == 0 and uid(3) in below(tmp_path, "unsolicited"), 5, "the end")


def test_what_nobody_asked_for_is_refused_where_that_is_set(redis_url: str, tmp_path: Path) -> None:
    """The status is "not authorised"; nothing is stored, and the log has the number."""
    port = free_port()
    with workers.receiver(redis_url, tmp_path, port, **_REFUSE) as process:
        with associated(port) as assoc:
            for number in (1, 2):
                answer = pushed(assoc, number)
                assert (answer.Status, answer.ErrorComment) == (
                    0x0124,
                    "No job has requested this series; other series are refused",
                )
        assert everything(tmp_path) == [MARKER]
        process.end(15)
        assert "refused 2; unsolicited were 0 of those received and 2 of those refused" in process.said()


@pytest.mark.parametrize("unsolicited", ["keep", "refuse"])
def test_what_a_job_asks_for_comes(client: PacsClient, shared_redis_url: str, tmp_path: Path, unsolicited: str) -> None:
    """A job records its expectation before its request, collects everything, and removes the expectation."""
    port = free_port()
    with (
        TestPACS(instances=write_series(tmp_path / "held", 25)) as archive,
        workers.receiver(shared_redis_url, tmp_path, port, "STRICT", PACS_TASKS_UNSOLICITED=unsolicited),
        connect(shared_redis_url, 5) as redis_client,
    ):
        archive.destinations = {"STRICT": ("127.0.0.1", port)}
        request = RetrieveRequest(
            remote=archive.remote,
            study_uid=study_uid(),
            output_dir=str(tmp_path / "out"),
            method=RetrieveMethod.MOVE,
            move_aet="STRICT",
        )
        job = client.enqueue(request)
        job.wait(30)
        assert job.outcome().category is Category.SUCCESS, job.outcome()
        held = {sop: each.data_set for sop, each in archive.instances.items()}
        expected = ExpectedSeries(redis_client)
        # The job ends with the last outcome, a moment before its part does.
        wait_until(lambda: not expected.expectations("STRICT", study_uid(), SERIES), 10, "nothing to be expected")
    assert {path.stem: data_set(path) for path in (tmp_path / "out").rglob("*.dcm")} == held
    assert not list((tmp_path / "data").rglob("*.dcm"))


def test_what_a_job_asks_for_is_expected_for_as_long_as_it_comes(
    client: PacsClient, shared_redis_url: str, tmp_path: Path
) -> None:
    """It is renewed every few seconds for a minute, so that it expires soon after a worker dies."""
    port = free_port()
    with (
        TestPACS(instances=write_series(tmp_path / "held", 25)) as archive,
        workers.receiver(shared_redis_url, tmp_path, port, "SLOWLY", **_REFUSE) as process,
        connect(shared_redis_url, 5) as redis_client,
    ):

        def until() -> float:
            """When the expectation expires."""
            members = redis_client.zrange("pacs_tasks:expected:SLOWLY", 0, -1, withscores=True)
            return float(members[0][1]) if members else 0.0

        archive.destinations = {"SLOWLY": ("127.0.0.1", port)}
        # A stopped receiver accepts no instance.
        os.kill(process.pid, signal.SIGSTOP)
        try:
            job = client.enqueue(
                RetrieveRequest(
                    remote=archive.remote,
                    study_uid=study_uid(),
                    output_dir=str(tmp_path / "out"),
                    method=RetrieveMethod.MOVE,
                    move_aet="SLOWLY",
                )
            )
            first = wait_until(until, 10, "it to be expected")
            assert first - time.time() <= EXPECTED_FOR
            wait_until(lambda: until() > first, 10, "it to be expected for longer")
        finally:
            os.kill(process.pid, signal.SIGCONT)
        job.wait(30)
        assert job.outcome().category is Category.SUCCESS, job.outcome()
        wait_until(lambda: not until(), 10, "nothing to be expected any more")


@pytest.mark.parametrize("unsolicited", ["keep", "refuse"])
def test_without_redis_nothing_is_lost(tmp_path: Path, unsolicited: str) -> None:
    """Unknown instances are stored apart, or may be sent again; a recent expectation still counts."""
    port, redis_port = free_port(), free_port()
    url = f"redis://127.0.0.1:{redis_port}/0"
    with workers.receiver(url, tmp_path, port, PACS_TASKS_UNSOLICITED=unsolicited) as process:
        with associated(port) as assoc:
            answer = pushed(assoc, 1)
            assert answer.Status == (0x0000 if unsolicited == "keep" else 0xA700)
            if unsolicited == "refuse":
                assert answer.ErrorComment == "Cannot check in Redis whether it was requested; try again"
                assert everything(tmp_path) == [MARKER]
            with redis_server(tmp_path, redis_port), connect(url, 5) as client:
                ExpectedSeries(client).expect("PACS_TASKS", study_uid(), SERIES, ME, 60)
                wait_until(lambda: pushed(assoc, 2).Status == 0 and below(tmp_path, "incoming"), 15, "Redis is found")

            def gone() -> bool:
                assert pushed(assoc, 3).Status == 0x0000
                return process.said().count("cannot check what jobs expect") == 2

            wait_until(gone, 15, "Redis is missed")
            assert pushed(assoc, 4).Status == 0x0000
        assert {uid(2), uid(3), uid(4)} == set(below(tmp_path, "incoming"))
        assert "can check again what jobs expect" in process.said()
        assert "Traceback" not in process.said()


def test_a_redis_that_falls_silent_holds_nobody_up(tmp_path: Path) -> None:
    """Redis hangs: a hundred instances are stored within seconds all the same."""
    port = free_port()
    with redis_server(tmp_path) as server, workers.receiver(server.url(), tmp_path, port), associated(port) as assoc:
        assert pushed(assoc, 1, "WORKSTATION").Status == 0x0000
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            for number in range(2, 102):
                assert pushed(assoc, number, "WORKSTATION").Status == 0x0000
            took = time.monotonic() - began
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        # One second for each would be 100.
        assert took < 25
    assert len(below(tmp_path, "unsolicited")) == 101


def test_a_wrong_setting_is_one_sentence(tmp_path: Path, redis_url: str) -> None:
    """The message lists the allowed values."""
    with (
        pytest.raises(RuntimeError, match=r"A setting is wrong .unsolicited: Input should be 'keep' or 'refuse'"),
        workers.receiver(redis_url, tmp_path, free_port(), PACS_TASKS_UNSOLICITED="burn"),
    ):
        pass
