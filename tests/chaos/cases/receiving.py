"""What receives dies, or has no room: a retrieve ends with each instance here, whole, and recorded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from pacs_tasks import (
    Category,
    InstanceCategory,
    Job,
    JobState,
    RetrieveMethod,
    RetrieveRequest,
    Selection,
    TransferOutcome,
)
from pacs_tasks.ae import RemoteAE
from tests.chaos.cases.case import WORKERS, Case
from tests.chaos.closing import Found, check_received, require
from tests.chaos.disk import Disk
from tests.chaos.files import Files, joined, write
from tests.chaos.orthanc import Orthanc
from tests.chaos.pacs import Pacs
from tests.chaos.stage import CLOSE_LOOK, Stage
from tests.support import workers
from tests.support.dicom_files import study_uid
from tests.support.ports import free_port
from tests.support.processes import Process

_RECEIVER: Final = "CHAOSRCV"
#: Series of the study, so that several parts are under way.
_SERIES: Final = 3
#: Studies of a batch.
_STUDIES: Final = 20
#: Seconds for which a disk is full.
_FULL: Final = 8.0


def _study(stage: Stage, directory: Path) -> Files:
    """The instances of the round, in several series."""
    counts = [stage.count // _SERIES] * (_SERIES - 1)
    counts.append(stage.count - sum(counts))
    return joined(directory, *(write(directory, count, series) for series, count in enumerate(counts, 1) if count))


def _archive(stage: Stage) -> tuple[Pacs, Files]:
    """A PACS that holds the study."""
    files = _study(stage, stage.directory / "pacs")
    return stage.pacs(delay=stage.pace / 2), files


class _Receiver:
    """A receiver that is killed and comes back."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.port = free_port()
        self._process: Process

    def start(self) -> None:
        stage = self._stage
        running = workers.receiver(stage.url, stage.directory, self.port, _RECEIVER)
        self._process = stage.stack.enter_context(running)

    @property
    def directory(self) -> Path:
        return self._stage.directory / "data/received"

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def check_empty(self) -> None:
        """Every instance has been taken to where the job wants it."""
        left = [path for path in self.directory.rglob("*.dcm") if path.is_file()]
        require(not left, f"{len(left)} instances were left in the receiver's storage")


def _output(stage: Stage) -> Path:
    output = stage.directory / "output"
    output.mkdir(exist_ok=True)
    return output


def _retrieved(stage: Stage, remote: RemoteAE, files: Files, method: RetrieveMethod) -> Job:
    output = str(_output(stage))
    request = RetrieveRequest(remote=remote, study_uid=files.study_uid, output_dir=output, method=method)
    stage.begins()
    job = stage.client.enqueue(request)
    stage.note(f"job {job.id}: {files.count} instances by {method}")
    return job


def _after(stage: Stage, job: Job) -> int:
    """Wait for a random moment: when so many instances lie in the output directory; they are recorded in groups."""
    wanted = max(1, round(stage.count * stage.random.uniform(0.05, 0.6)))

    def there() -> int:
        require(not job.progress().state.finished, "the job ended before it could be disturbed")
        found = sum(1 for _ in _output(stage).rglob("*.dcm"))
        return found if found >= wanted else 0

    return stage.wait(there, f"{wanted} instances", look=CLOSE_LOOK)


def _receiver_killed(stage: Stage) -> Found:
    pacs, files = _archive(stage)
    receiver = _Receiver(stage)
    receiver.start()
    pacs.deliver_to(**{_RECEIVER: ("127.0.0.1", receiver.port)})
    stage.start_workers(WORKERS)
    job = _retrieved(stage, pacs.remote, files, RetrieveMethod.MOVE)
    _kill_and_renew(stage, job, receiver)
    found = check_received(stage, pacs, files, _output(stage), job)
    receiver.check_empty()
    return found


def _receiver_killed_under_orthanc(stage: Stage) -> Found:
    receiver = _Receiver(stage)
    destinations = {_RECEIVER: ("127.0.0.1", receiver.port)}
    orthanc = Orthanc(stage.stack, stage.directory / "orthanc", destinations)
    files = _study(stage, stage.directory / "held")
    orthanc.start()
    orthanc.take(files.uids)
    receiver.start()
    stage.start_workers(WORKERS)
    job = _retrieved(stage, orthanc.remote, files, RetrieveMethod.MOVE)
    _kill_and_renew(stage, job, receiver)
    found = check_received(stage, orthanc, files, _output(stage), job)
    receiver.check_empty()
    return found


def _kill_and_renew(stage: Stage, job: Job, receiver: _Receiver) -> None:
    known = _after(stage, job)
    stage.strike(f"kill -9 of the receiver after {known} instances")
    receiver.kill()
    receiver.start()
    stage.note("a new receiver is ready")


def _batch(stage: Stage) -> Found:
    """Studies of one or two series, in one job: it ends with one outcome for each."""
    directory = stage.directory / "pacs"
    shares = [stage.count // _STUDIES + (number < stage.count % _STUDIES) for number in range(_STUDIES)]
    files = joined(
        directory,
        *(
            write(directory / f"study{study}", count, series, study)
            for study, share in enumerate(shares, 1)
            for series, count in ((1, share - share // 3), (2, share // 3))
            if count
        ),
    )
    pacs, receiver = stage.pacs(delay=stage.pace / 2), _Receiver(stage)
    receiver.start()
    pacs.deliver_to(**{_RECEIVER: ("127.0.0.1", receiver.port)})
    stage.start_workers(WORKERS)
    wanted = tuple(Selection(study_uid=study_uid(study), row=study + 1) for study in range(1, _STUDIES + 1))
    stage.begins()
    job = stage.client.enqueue(
        RetrieveRequest(
            remote=pacs.remote, selections=wanted, output_dir=str(_output(stage)), method=RetrieveMethod.MOVE
        )
    )
    stage.note(f"job {job.id}: {files.count} instances of {_STUDIES} studies")
    _kill_and_renew(stage, job, receiver)
    known = stage.after(job, 0.3, 0.7)
    worker = stage.worker_of(stage.at_work(job))
    stage.strike(f"kill -9 of {worker.name} after {known} outcomes")
    worker.kill()
    stage.ended(job)
    _check_studies(job, wanted)
    found = check_received(stage, pacs, files, _output(stage), job)
    receiver.check_empty()
    return found


def _check_studies(job: Job, wanted: Sequence[Selection]) -> None:
    outcome = job.outcome()
    require(isinstance(outcome, TransferOutcome), "the job has another outcome than a retrieve")
    told = [(each.study_uid, each.category, each.rows) for each in cast(TransferOutcome, outcome).studies]
    expected = [(each.study_uid, Category.SUCCESS, (each.row,)) for each in wanted]
    require(sorted(told) == sorted(expected), f"the studies are told as {told}")


def _receiver_full(stage: Stage) -> Found:
    """It refuses what it cannot keep, and the job asks again until it can."""
    pacs, files = _archive(stage)
    receiver = _Receiver(stage)
    receiver.directory.mkdir(parents=True)
    disk = Disk(stage.stack, receiver.directory, lambda: [receiver.pid])
    receiver.start()
    pacs.deliver_to(**{_RECEIVER: ("127.0.0.1", receiver.port)})
    stage.start_workers(WORKERS)
    job = _retrieved(stage, pacs.remote, files, RetrieveMethod.MOVE)
    known = _after(stage, job)
    stage.strike(f"the receiver's disk is full ({_how(disk)}) after {known} instances, for {_FULL:.0f} s")
    disk.fill()
    stage.pass_time(_FULL)
    disk.make_room()
    stage.note("there is room again")
    found = check_received(stage, pacs, files, _output(stage), job)
    receiver.check_empty()
    return found


def _worker_full(stage: Stage) -> Found:
    """What could not be written fails with that reason, and a retry brings it once there is room."""
    pacs, files = _archive(stage)
    disk = Disk(stage.stack, _output(stage), lambda: [pid for each in stage.workers for pid in each.children()])
    stage.start_workers(WORKERS)
    job = _retrieved(stage, pacs.remote, files, RetrieveMethod.GET)
    known = _after(stage, job)
    stage.strike(f"the disk of the output directory is full ({_how(disk)}) after {known} instances")
    disk.fill()
    progress = stage.ended(job)
    require(progress.state is JobState.DONE, f"the job is {progress.state}")
    here = (InstanceCategory.SUCCESS, InstanceCategory.PRESENT)
    lost = [each for each in job.instances() if each.category not in here]
    untold = [
        each.reason for each in lost if each.category is not InstanceCategory.FAILED or not _names_disk(each.reason)
    ]
    require(lost and not untold, f"{len(lost)} failed, not all for want of room: {untold[:1]}")
    stage.note(f"{len(lost)} have failed for want of room")
    disk.make_room()
    job.retry()
    return check_received(stage, pacs, files, _output(stage), job)


def _names_disk(reason: str) -> bool:
    return "could not be kept" in reason or "cannot write" in reason


def _how(disk: Disk) -> str:
    return "a full file system" if disk.mounted else "a limit on file sizes"


CASES: Final = (
    Case("receiver", "kill -9 of the receiver in a C-MOVE, then a new one", _receiver_killed),
    Case("receiver-orthanc", "the same, from Orthanc", _receiver_killed_under_orthanc, needs_orthanc=True),
    Case("batch", "kill -9 of the receiver and of a worker in a retrieve of 20 studies, then a new receiver", _batch),
    Case("disk-receiver", "the receiver's disk full for 8 s in a C-MOVE", _receiver_full),
    Case("disk-worker", "the output directory's disk full in a C-GET, then retry", _worker_full),
)
