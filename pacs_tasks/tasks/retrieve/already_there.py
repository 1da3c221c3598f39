"""Find the instances of a part that are already complete in the output directory, so that they are not fetched again.

With the default layout, the UIDs of an instance give its path. With another layout the path depends on the data set, so
the headers of all files of the directory are read, once per job and worker process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from pacs_tasks.dimse.files import part10, storage
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.files.whole import whole_instance
from pacs_tasks.errors import InvalidRequestError, NotDicomError, UnreadableInputError
from pacs_tasks.layout import Layout
from pacs_tasks.ledger.manifest import RetrieveLine
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import RetrieveRequest
from pacs_tasks.tasks.engine.base import ledger
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.files import files_below

log = logging.getLogger(__name__)

#: Headers that are read at most: some seconds, at 12 µs each once they are in memory. Instances beyond are fetched
#: again.
_MOST_FILES = 500_000
#: Files between two checks whether to end, which also show that the worker lives.
_BREATH = 200
#: Seconds between two such checks while another thread of this process reads the same files.
_WAIT = 1.0
#: Instances that are synced to disk and recorded together.
_GROUP = 100


_reading = threading.Lock()
#: By the id of the last job, the paths of the instances that it wants by SOP Instance UID; one may have several.
_last: dict[str, Mapping[str, Sequence[str]]] = {}


def record_present(part: Part[RetrieveLine], request: RetrieveRequest) -> None:
    """Record the instances that are complete in the output directory, synced to disk.

    A truncated file, or one that holds another instance than its name says, does not count: the instance is fetched and
    replaces it.
    """
    directory = Path(request.directory)
    layout = Layout(request.layout)
    known = None if layout.is_default else _index_of(part, directory)
    found: list[tuple[int, StoredInstance]] = []
    for index, line in list(part.left.items()):
        if part.must_end():
            break
        uid = line.sop_instance_uid
        paths = _path_by_uids(directory, line) if known is None else known.get(uid, ())
        whole = (whole_instance(path, uid) for path in paths)
        instance = next((each for each in whole if each is not None), None)
        if instance is not None:
            found.append((index, instance))
        if len(found) >= _GROUP:
            _record(part, found, layout)
            found = []
    _record(part, found, layout)


def _record(part: Part[RetrieveLine], found: Sequence[tuple[int, StoredInstance]], layout: Layout) -> None:
    # A worker may have written it and died before it had synced it.
    try:
        storage.sync([Path(instance.path) for _, instance in found], layout.depth)
    except OSError as error:
        log.warning("Instances in the output directory cannot be synced (%s) and are fetched again.", error.strerror)
        return
    for index, instance in found:
        outcome = InstanceOutcome(
            subject=instance.sop_instance_uid,
            category=InstanceCategory.PRESENT,
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            path=instance.path,
            size=instance.size,
        )
        part.record(index, outcome)


def _path_by_uids(directory: Path, line: RetrieveLine) -> Sequence[str]:
    """The path of an instance in the default layout; none if its UIDs cannot give one."""
    try:
        return (str(storage.kept_path(directory, line.study_uid, line.series_uid, line.sop_instance_uid)),)
    except InvalidRequestError:
        return ()


def _index_of(part: Part[RetrieveLine], directory: Path) -> Mapping[str, Sequence[str]]:
    while not _reading.acquire(timeout=_WAIT):
        if part.must_end():
            return {}
    try:
        if part.job_id in _last:
            return _last[part.job_id]
        read = _read(part, directory)
        if not part.must_end():
            _last.clear()
            _last[part.job_id] = read
        return read
    finally:
        _reading.release()


def _read(part: Part[RetrieveLine], directory: Path) -> Mapping[str, Sequence[str]]:
    total = ledger().progress(part.job_id).counters.total
    wanted = {line.subject for line in ledger().manifest.lines(part.job_id, 0, total)}
    found: dict[str, list[str]] = {}
    files = (path for path, _ in files_below(str(directory)) if not path.endswith(storage.UNFINISHED))
    for count, path in enumerate(islice(files, _MOST_FILES)):
        if count % _BREATH == 0 and part.must_end():
            break
        uid = _uid_of(path)
        if uid in wanted:
            found.setdefault(uid, []).append(path)
    if next(files, None) is not None and not part.must_end():
        log.warning("Job %s: only %s files of its output directory were read.", part.job_id, _MOST_FILES)
    return found


def _uid_of(path: str) -> str:
    try:
        return part10.read_instance(path).sop_instance_uid
    except (NotDicomError, UnreadableInputError):
        return ""
