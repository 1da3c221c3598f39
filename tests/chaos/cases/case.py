"""What a case is, and what most of them begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pacs_tasks import Job, StoreDirectoryRequest
from pacs_tasks.ae import RemoteAE
from tests.chaos.closing import Found
from tests.chaos.files import Files, write
from tests.chaos.stage import Stage

#: Workers of a round.
WORKERS: Final = 3


@dataclass(frozen=True)
class Case:
    """One kind of failure."""

    name: str
    #: What is injured, in the words of the table.
    title: str
    play: Callable[[Stage], Found]
    needs_orthanc: bool = False


def written(stage: Stage) -> Files:
    """The files of the round: one series."""
    return write(stage.directory / "files", stage.count)


def sent(stage: Stage, remote: RemoteAE, files: Files, **request: object) -> Job:
    """Enqueue a job that sends the files, in parts of a random size."""
    fields = {"files_per_task": stage.random.choice([None, 1, 10]), "timeout": 30.0, **request}
    stage.begins()
    job = stage.client.enqueue(StoreDirectoryRequest(remote=remote, directory=str(files.directory), **fields))
    stage.note(f"job {job.id}: {files.count} files, {fields['files_per_task'] or 'as usual'} to a part")
    return job
