"""The files of a round, and what a PACS must hold of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.dicom_files import UID_ROOT, data_set, study_uid, write_series

#: Rows and columns: 8 kB of pixels.
_ROWS = 64
#: The number of the first instance that :func:`write_series` writes.
_FIRST = 1_000_001


@dataclass(frozen=True)
class Files:
    """DICOM files below a directory."""

    directory: Path
    #: SOP Instance UID by path.
    uids: Mapping[str, str]

    @property
    def count(self) -> int:
        return len(self.uids)

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each data set by SOP Instance UID."""
        return {uid: hashlib.sha256(data_set(Path(path))).hexdigest() for path, uid in self.uids.items()}

    @property
    def study_uid(self) -> str:
        return study_uid()


def write(directory: Path, count: int, series: int = 1, study: int = 1, **attributes: object) -> Files:
    """Write a series; ``attributes`` as for :func:`tests.support.dicom_files.instance`."""
    told = {"rows": _ROWS, **attributes, "series": series, "study": study}
    paths = write_series(directory / f"series{series}", count, **told)
    root = f"{UID_ROOT}.{study}.{series}"
    return Files(directory, {str(path): f"{root}.{_FIRST + index}" for index, path in enumerate(paths)})


def joined(directory: Path, *some: Files) -> Files:
    """Several, which lie below one directory."""
    return Files(directory, {path: uid for each in some for path, uid in each.uids.items()})
