"""What a peer holds after a run. A figure counts only if everything arrived."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path

from pacs_tasks import InstanceCategory, Job
from pacs_tasks.dimse.files.part10 import read_instance
from tests.benchmarks.files import Files
from tests.benchmarks.measuring import BenchError
from tests.support.peers import Directory
from tests.support.waiting import wait_until

#: What storescp says of each instance, if it is told to be verbose.
_RECEIVED = "Received Store Request"
#: Seconds in which a peer writes down the last of what it has answered.
_PATIENCE = 20.0


def instances(directory: Path) -> dict[str, int]:
    """The instances in the files below a directory: SOP Instance UID -> length of the data set, in bytes."""
    paths = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    read = (read_instance(str(path)) for path in paths)
    return {each.sop_instance_uid: each.size - each.data_offset for each in read}


@cache
def _sent(files: Files) -> dict[str, int]:
    return instances(files.directory)


def check_files(who: str, files: Files, directory: Path, *, exact: bool = True) -> None:
    """Raise :class:`BenchError` unless the directory has every instance; ``exact``: data sets of the same length."""
    held = instances(directory)
    if held != _sent(files) and (exact or held.keys() != _sent(files).keys()):
        whole = sum(held.get(uid) == length for uid, length in _sent(files).items())
        raise BenchError(f"{who} moved {whole} of {files.count} instances of {files.name}, and {len(held)} files came")


def check_uids(who: str, files: Files, uids: Collection[str]) -> None:
    """Raise :class:`BenchError` unless these are the SOP Instance UIDs of all instances."""
    if set(uids) != set(_sent(files)):
        raise BenchError(f"{who} moved other instances than those of {files.name}: {len(uids)}, not {files.count}")


def claimed(job: Job) -> set[str]:
    """The SOP Instance UIDs of all that the ledger calls sent or received."""
    done = (InstanceCategory.SUCCESS, InstanceCategory.WARNING)
    return {each.sop_instance_uid for each in job.instances() if each.category in done}


def check_claims(who: str, job: Job, held: Collection[str]) -> int:
    """Raise :class:`BenchError` unless the peer holds all that the ledger calls sent; how much that is.

    For jobs that are cancelled when enough has been seen.
    """
    claims = claimed(job)
    if missing := claims - set(held):
        raise BenchError(f"{who}: {len(missing)} of {len(claims)} instances that the ledger calls sent are not held")
    return len(claims)


def check_ignored(who: str, files: Files, peer: Directory) -> None:
    """Raise :class:`BenchError` unless a verbose ``storescp --ignore`` has said of all instances that they came."""

    def came() -> int:
        return peer.process.said().count(_RECEIVED)

    try:
        wait_until(lambda: came() >= files.count, _PATIENCE, "storescp to log what came")
    except TimeoutError:
        raise BenchError(f"{who} moved {came()} of {files.count} instances of {files.name}") from None
