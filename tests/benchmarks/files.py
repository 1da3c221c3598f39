"""The files that are sent and retrieved, made for the run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from tests.support.dicom_files import instance, study_uid, write_series

#: What stands before the pixels takes less, in bytes.
_HEADER: Final = 1536
_BLOCK: Final = 4096
#: PixelData, OW, two reserved bytes (PS3.5 section 7.1.2); the length follows.
_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00OW\x00\x00"


@dataclass(frozen=True)
class Recipe:
    """So many instances of ``rows`` times ``rows`` pixels of 16 bits in each series, or one of several ``frames``."""

    count: int
    rows: int
    frames: int = 1
    series: int = 1

    @property
    def size(self) -> int:
        """Bytes on disk, a little more than it takes."""
        each = _HEADER + 2 * self.rows**2 * self.frames
        return self.series * self.count * -(-each // _BLOCK) * _BLOCK


CT: Final = "CT500"
SMALL_CT: Final = "SMALL2000"
THREE_HUNDRED: Final = "300"
TEN_THOUSAND: Final = "10,000"
HUNDRED_THOUSAND: Final = "100,000"
MANY_SERIES: Final = "2,000 in 40 series"
ONE_MB: Final = "1 MB"
TWO_GB: Final = "2 GB"

FULL: Final[Mapping[str, Recipe]] = {
    CT: Recipe(500, 512),
    SMALL_CT: Recipe(2000, 64),
    THREE_HUNDRED: Recipe(300, 36),
    TEN_THOUSAND: Recipe(10_000, 36),
    HUNDRED_THOUSAND: Recipe(100_000, 36),
    MANY_SERIES: Recipe(50, 36, series=40),
    ONE_MB: Recipe(1, 512, frames=2),
    TWO_GB: Recipe(1, 512, frames=4096),
}
#: The same, to see that everything works.
SMALL: Final[Mapping[str, Recipe]] = {
    CT: Recipe(12, 128),
    SMALL_CT: Recipe(16, 64),
    THREE_HUNDRED: Recipe(12, 36),
    TEN_THOUSAND: Recipe(25, 36),
    HUNDRED_THOUSAND: Recipe(250, 36),
    MANY_SERIES: Recipe(6, 36, series=4),
    ONE_MB: Recipe(1, 512, frames=2),
    TWO_GB: Recipe(1, 512, frames=16),
}


@dataclass(frozen=True)
class Files:
    """A directory of DICOM files; ``size`` is that of all of them, in bytes."""

    name: str
    directory: Path
    count: int
    size: int

    @property
    def study_uid(self) -> str:
        return study_uid()


def generate(name: str, recipe: Recipe, directory: Path) -> Files:
    """Write the files of a recipe."""
    if recipe.frames > 1:
        paths = [_write_frames(directory, recipe)]
    else:
        paths = [
            path
            for series in range(1, recipe.series + 1)
            for path in write_series(_of_series(directory, series), recipe.count, rows=recipe.rows, series=series)
        ]
    size = sum(path.stat().st_size for path in paths)
    if size > 2**30:
        # Else the disk would still be writing it while others are measured.
        os.sync()
    return Files(name, directory, len(paths), size)


def _of_series(directory: Path, series: int) -> Path:
    # DCMTK's senders look into no directory of a directory.
    return directory if series == 1 else directory / f"{series:03d}"


def _write_frames(directory: Path, recipe: Recipe) -> Path:
    """One multi-frame instance; its pixels never are in memory at once."""
    template = instance(rows=recipe.rows, sop_class_uid=MultiFrameGrayscaleWordSecondaryCaptureImageStorage)
    template.NumberOfFrames = recipe.frames
    del template.PixelData
    encoded = BytesIO()
    template.save_as(encoded, enforce_file_format=True)
    length = 2 * recipe.rows**2
    directory.mkdir()
    path = directory / "frames.dcm"
    with path.open("wb") as file:
        file.write(encoded.getvalue() + _PIXEL_DATA + (length * recipe.frames).to_bytes(4, "little"))
        for number in range(recipe.frames):
            file.write((number % 4096).to_bytes(2, "little") * (length // 2))
    return path
