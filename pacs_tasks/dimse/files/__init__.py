"""DICOM files (PS3.10) as bytes: read, verified and written without decoding values."""

import sys
from types import ModuleType
from typing import cast

#: What pydicom imports with itself wherever it finds it: numpy and its decoders.
_DECODERS = ("numpy", "pylibjpeg", "PIL", "gdcm", "jpeg_ls")


def hide_decoders() -> None:
    """Have pydicom start without numpy and decoders, in a program of ours that imports neither.

    They cost 0.2 s and 18 MB. :mod:`pacs_tasks.dimse.files.decoder` starts a process that has them.
    """
    for name in _DECODERS:
        # Python's way to say that there is no such module.
        sys.modules.setdefault(name, cast(ModuleType, None))
