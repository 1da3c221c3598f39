"""People interfere: they cancel and retry, ask twice, ask for the same files at once, and stop a worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pacs_tasks import InstanceCategory, JobState, StoreDirectoryRequest
from tests.chaos.cases.case import WORKERS, Case, sent, written
from tests.chaos.closing import Expected, Found, check_sent, require
from tests.chaos.stage import CHILDREN, Stage

#: How many ask for the same at once.
_ASKING: Final = 4
#: Files that the processes of all workers are sending at a time.
_IN_PROGRESS: Final = WORKERS * CHILDREN


def _cancel(stage: Stage) -> Found:
    """Once or twice: what was sent stays sent and is counted, and the retry sends the rest.

    A file in progress has 2 s for its answer. One that was answered later, on a crowded machine, the PACS holds and
    nobody claims: it is sent again.
    """
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    late: set[str] = set()
    for share in sorted(stage.random.uniform(0.05, 0.7) for _ in range(stage.random.randint(1, 2))):
        known = stage.after(job, share, share)
        stage.strike(f"cancel after {known} outcomes")
        job.cancel()
        state = stage.ended(job).state
        require(state is JobState.CANCELLED, f"the job is {state}")
        done = {each.sop_instance_uid for each in job.instances() if each.category is InstanceCategory.SUCCESS}
        held = pacs.held().keys()
        require(done <= held, f"{len(done - held)} are counted as sent and the PACS does not hold them")
        unclaimed = held - done
        require(len(unclaimed) <= _IN_PROGRESS, f"{len(done)} are counted as sent, the PACS holds {len(held)}")
        late |= unclaimed
        job.retry()
        stage.note(f"retry; {len(done)} were sent, {len(unclaimed)} were answered too late")
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=len(late), told=not late))


def _two_jobs(stage: Stage) -> Found:
    pacs, files = stage.pacs(delay=stage.pace / 2), written(stage)
    stage.start_workers(WORKERS)
    jobs = [sent(stage, pacs.remote, files) for _ in range(2)]
    stage.strike("two jobs send the same files")
    return check_sent(stage, pacs, files, *jobs, expected=Expected(most_twice=0))


def _one_key(stage: Stage) -> Found:
    """By several at once, again in the middle, and again after the end: it is the same job each time."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(files.directory), files_per_task=10)
    key = f"chaos {stage.random.random()}"
    stage.begins()
    with ThreadPoolExecutor(_ASKING) as pool:
        jobs = list(pool.map(lambda _: stage.client.enqueue(request, key), range(_ASKING)))
    stage.strike(f"{_ASKING} ask for the same at once")
    stage.after(jobs[0])
    jobs.append(stage.client.enqueue(request, key))
    stage.ended(jobs[0])
    jobs.append(stage.client.enqueue(request, key))
    require(len({job.id for job in jobs}) == 1, "the same key gave several jobs")
    return check_sent(stage, pacs, files, jobs[0], expected=Expected(most_twice=0, told=True))


def _stopped(stage: Stage) -> Found:
    """One worker, or all of them and then a new one: they let their files end, and nothing goes twice."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job)
    stopped = stage.workers if stage.random.random() < 0.5 else [stage.worker_of(stage.at_work(job))]
    stage.strike(f"SIGTERM to {', '.join(worker.name for worker in stopped)} after {known} outcomes")
    for worker in stopped:
        worker.terminate()
    for worker in stopped:
        stage.wait(lambda each=worker: not each.process.running(), f"the end of {worker.name}", 30)  # type: ignore[misc]
        code = worker.process.popen.returncode
        require(code == 0, f"{worker.name} ended with {code}")
    stage.note("they have ended")
    if len(stopped) == len(stage.workers):
        stage.start_workers(1)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=0, told=True))


CASES: Final = (
    Case("cancel", "cancel in the middle, then retry", _cancel),
    Case("two-jobs", "two jobs over the same files at once", _two_jobs),
    Case("one-key", "the same job submitted several times with one key", _one_key),
    Case("sigterm", "SIGTERM to workers in the middle of a job", _stopped),
)
