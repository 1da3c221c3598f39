"""Content that has no file where workers look, such as standard input: it is kept until the job that sends it succeeds.

The content of a job is in a directory of its id, so that whoever ends a job removes that directory and no other. What a
failed job sends stays for ``retry``, for as long as jobs are kept.
"""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pacs_tasks.errors import ConfigurationError, UnreadableInputError
from pacs_tasks.privacy import directory_mode
from pacs_tasks.settings import Settings

#: The id of a job of ours. Other services give their tasks any id, which may lead out of the spool.
_JOB_ID = re.compile("[0-9a-f]{32}")
_CHUNK = 1 << 20


def keep(config: Settings, job_id: str, name: str, content: BinaryIO) -> Path:
    """Write content to the spool, and return its file.

    Parameters
    ----------
    job_id
        The job that will send it.
    name
        The name of the file, as receipts show it.

    Raises
    ------
    ConfigurationError
        If the workers of a fleet would not see it.
    UnreadableInputError
        If it takes more than half of the free space, or cannot be written. Nothing of it is left then.
    """
    if config.redis_url is not None and config.spool_dir is None:
        raise ConfigurationError(
            "The workers of a fleet do not see what this command reads. Set PACS_TASKS_SPOOL_DIR, here and on the "
            "workers, to a directory that all of them share."
        )
    directory, mode = config.spool / job_id, directory_mode(config.group_access)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _remove_old(config)
        directory.mkdir(mode=mode)
        # The umask of a command leaves the group nothing.
        directory.chmod(mode)
        target = directory / name
        with target.open("xb") as file:
            _copy(content, file, shutil.disk_usage(directory).free // 2)
        target.chmod(mode & ~0o111)
    except OSError as error:
        remove(config, job_id)
        raise UnreadableInputError(
            f"The spool cannot be written ({error.strerror}). Check its permissions and free space, or set "
            "PACS_TASKS_SPOOL_DIR.",
            str(config.spool),
        ) from None
    except BaseException:
        remove(config, job_id)
        raise
    return target


def remove(config: Settings, job_id: str) -> None:
    """Remove what a job has sent from the spool, if it is there."""
    if _JOB_ID.fullmatch(job_id):
        with suppress(OSError):
            shutil.rmtree(config.spool / job_id)


def _copy(content: BinaryIO, file: BinaryIO, most: int) -> None:
    size = 0
    while chunk := content.read(_CHUNK):
        size += len(chunk)
        if size > most:
            raise UnreadableInputError(
                "This is more than half of the free space of the spool. Free some space, or set PACS_TASKS_SPOOL_DIR "
                "to a larger disk."
            )
        file.write(chunk)


def _remove_old(config: Settings) -> None:
    """Remove what belongs to jobs that are not kept any more."""
    for each in config.spool.iterdir():
        with suppress(OSError):
            if _JOB_ID.fullmatch(each.name) and time.time() - each.stat().st_mtime > config.keep_jobs:
                shutil.rmtree(each)
