"""C-FIND: what a :class:`~pacs_tasks.testing.TestPACS` answers (PS3.4 section C.4.1)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from itertools import islice
from typing import Final

from pydicom import Dataset
from pydicom.tag import Tag

from pacs_tasks.testing import match as matching
from pacs_tasks.testing.contexts import QUERY_RETRIEVE_LEVELS
from pacs_tasks.testing.faults import Faults
from pacs_tasks.testing.instances import StoredBytes

_PENDING: Final = 0xFF00
_WRONG_IDENTIFIER: Final = 0xA900
_LEVEL: Final = Tag("QueryRetrieveLevel")
_PATIENT_ID: Final = Tag("PatientID")


def responses(
    held: Collection[StoredBytes], keys: Dataset, sop_class_uid: str, faults: Faults, ae_title: str
) -> Iterator[tuple[int, Dataset | None]]:
    """Each match, as pending, or the one status with which the query fails."""
    level = matching.text(keys, _LEVEL)
    failure = _failure(keys, level, sop_class_uid, faults)
    if failure is not None:
        yield failure, None
        return
    if faults.refused_uid_lists and matching.has_uid_list(keys):
        return
    wanted = matching.without_counts(keys) if faults.no_counts else keys
    wanted = matching.without_values(wanted, faults.ignored_keys)
    matches = partial(matching.answers, held, wanted, level, ae_title, with_charset=not faults.omit_charset)
    if faults.all_or_nothing and next(islice(matches(), faults.most_matches, None), None) is not None:
        yield faults.most_matches_status, None
        return
    found = matches()
    for match in islice(found, faults.most_matches):
        yield _PENDING, match
    if faults.most_matches_status and next(found, None) is not None:
        yield faults.most_matches_status, None


def _failure(keys: Dataset, level: str, sop_class_uid: str, faults: Faults) -> int | None:
    if faults.find_status is not None:
        return faults.find_status
    status = faults.find_statuses.get(matching.text(keys, _PATIENT_ID))
    if status is not None:
        return status
    if level not in QUERY_RETRIEVE_LEVELS[sop_class_uid] or any(keyword in keys for keyword in faults.unknown_keys):
        return _WRONG_IDENTIFIER
    return faults.no_image_level if level == "IMAGE" else None
