"""Those who work die: a child, a worker, all of them, the planner, and one who has not acknowledged what it did.

What was under way on each of their associations may go again, and nothing else.
"""

from __future__ import annotations

from typing import Final

from pacs_tasks import Job
from pacs_tasks.operations import QUEUE_KEYS, UNACKED
from tests.chaos.cases.case import WORKERS, Case, sent, written
from tests.chaos.closing import Expected, Found, check_sent
from tests.chaos.stage import Stage, Worker


def _child(stage: Stage) -> Found:
    """One to three times, at moments of their own."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    shares = sorted(stage.random.uniform(0.05, 0.7) for _ in range(stage.random.randint(1, 3)))
    twice = 0
    for share in shares:
        known = stage.after(job, share, share)
        pid = stage.at_work(job)
        twice += stage.freeze([pid], pacs)
        stage.strike(f"kill -9 of child {pid} of {stage.worker_of(pid).name} after {known} outcomes")
        stage.kill_child(pid)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=twice))


def _worker(stage: Stage) -> Found:
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job)
    worker = stage.worker_of(stage.at_work(job))
    twice = stage.freeze(worker.children(), pacs)
    stage.strike(f"kill -9 of {worker.name} after {known} outcomes")
    worker.kill()
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=twice))


def _all_workers(stage: Stage) -> Found:
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files)
    known = stage.after(job)
    twice = stage.freeze([pid for worker in stage.workers for pid in worker.children()], pacs)
    stage.strike(f"kill -9 of all workers after {known} outcomes")
    for worker in stage.workers:
        worker.kill()
    stage.start_workers(2)
    stage.note("new workers are ready")
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=twice))


def _planner(stage: Stage) -> Found:
    """The worker that has listed the files dies: as it begins, or when so many parts are on the queue."""
    # No part ends meanwhile, so that the messages grow in number until all are there.
    pacs, files = stage.pacs(hold_instances_after=0), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files, files_per_task=1)
    wanted = stage.random.choice([0, 1, stage.random.randint(2, stage.count - 1)])

    def published() -> int:
        waiting = sum(int(str(stage.redis.llen(queue))) for queue in QUEUE_KEYS)
        return waiting + int(str(stage.redis.hlen(UNACKED)))

    def there() -> bool:
        planned = bool(stage.client.ledger.manifest.planned(job.id))
        return planned and published() > wanted if wanted else bool(job.progress().worker)

    # Closer looks than usual: it takes a fraction of a second.
    stage.wait(there, "the planner at work", look=0.0005)
    planner = _named(stage, job.progress().worker)
    twice = stage.freeze(planner.children(), pacs)
    stage.strike(f"kill -9 of the planner {planner.name} with {published()} messages published, {wanted} wanted")
    planner.kill()
    pacs.faults(delay=stage.pace)
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=twice))


def _named(stage: Stage, hostname: str) -> Worker:
    return next(worker for worker in stage.workers if worker.name == hostname.partition("@")[0])


def _unacknowledged(stage: Stage) -> Found:
    """A worker stops while its children go on: their outcomes are recorded, and nobody acknowledges their tasks."""
    pacs, files = stage.pacs(delay=stage.pace), written(stage)
    stage.start_workers(WORKERS)
    job = sent(stage, pacs.remote, files, files_per_task=stage.random.choice([1, 5, 20]))
    known = stage.after(job)
    worker = stage.worker_of(stage.at_work(job))
    worker.pause()
    stage.wait(lambda: not _at_work(stage, job, worker), f"{worker.name} to have recorded what it has")
    stage.strike(f"kill -9 of {worker.name}, which has recorded and not acknowledged, after {known} outcomes")
    worker.kill()
    return check_sent(stage, pacs, files, job, expected=Expected(most_twice=0))


def _at_work(stage: Stage, job: Job, worker: Worker) -> bool:
    return any(host.partition("@")[0] == worker.name for host, _ in stage.claims(job).values())


CASES: Final = (
    Case("child", "kill -9 of pool children", _child),
    Case("worker", "kill -9 of a whole worker", _worker),
    Case("all-workers", "kill -9 of all workers, then new ones", _all_workers),
    Case("planner", "kill -9 of the planner while it publishes", _planner),
    Case("unacknowledged", "kill -9 between recording and acknowledging", _unacknowledged),
)
