"""Check whether an instance on disk is complete. Its lengths must lead to exactly the end of the file.

A file that was truncated between two elements looks like a shorter one. So an image must have its pixel data, and any
other object the last element that its class requires. Where neither shows the end, a file that fills whole disk blocks
counts as a truncated copy: at worst it is fetched again needlessly. Missing padding and private elements behind these
cannot be detected.
"""

from __future__ import annotations

import zlib
from io import FileIO

from pydicom.config import IGNORE
from pydicom.uid import UID

from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.elements import (
    DEFLATED,
    LONGEST_UID,
    PIXEL_DATA,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Element,
    uid_of,
)
from pacs_tasks.dimse.files.part10 import StoredInstance, walk_file
from pacs_tasks.dimse.files.regular import read_regular
from pacs_tasks.errors import PacsTasksError

_ROWS = 0x0028_0010
#: Float, double float and other pixel data, and the URL that may replace them (PS3.3 sections C.7.6.3, C.7.6.24).
_PIXELS = frozenset((0x7FE0_0008, 0x7FE0_0009, PIXEL_DATA, 0x0028_7FE0))
#: SOP classes by the beginning of their UIDs, with a required element at the end of the instance (PS3.3 annex A).
_AT_THE_END = (
    ("1.2.840.10008.5.1.4.1.1.4.2", 0x5600_0020),  # MR Spectroscopy: Spectroscopy Data
    ("1.2.840.10008.5.1.4.1.1.9.", 0x5400_0100),  # Waveforms: Waveform Sequence
    ("1.2.840.10008.5.1.4.1.1.88.", 0x0040_A730),  # Structured reports: Content Sequence
    ("1.2.840.10008.5.1.4.1.1.104.", 0x0042_0012),  # Encapsulated documents: MIME Type, after the document
    ("1.2.840.10008.5.1.4.1.1.481.2", PIXEL_DATA),  # RT Dose
    ("1.2.840.10008.5.1.4.1.1.481.3", 0x3006_0080),  # RT Structure Set: RT ROI Observations Sequence
    ("1.2.840.10008.5.1.4.1.1.30", PIXEL_DATA),  # Parametric Map
    ("1.2.840.10008.5.1.4.1.1.66.4", PIXEL_DATA),  # Segmentation
    ("1.2.840.10008.5.1.4.1.1.66.7", PIXEL_DATA),  # Label Map Segmentation
)
#: Copies are truncated at the end of a disk block.
_BLOCK = 512
_CHUNK = 1 << 18
#: A byte makes a deflated data set even (PS3.5 section A.5); some writers leave a gzip trailer as well.
_TRAILER = 8 + 1


def whole_instance(path: str, sop_instance_uid: str) -> StoredInstance | None:
    """Give the instance at ``path`` if it is this one and complete, and ``None`` if it is anything else.

    A file truncated within an element, or before a last element that is known, never counts as complete.
    """
    try:
        with read_regular(path) as file:
            instance = part10.read_descriptor(file.fileno(), path)
            is_whole = _deflated_is_whole if instance.transfer_syntax_uid in DEFLATED else _is_whole
            same = instance.sop_instance_uid == sop_instance_uid
            return instance if same and is_whole(file, instance) else None
    except (OSError, ValueError, PacsTasksError, zlib.error):
        return None


def _is_whole(file: FileIO, instance: StoredInstance) -> bool:
    tags: set[int] = set()
    for element in walk_file(file, instance):
        tags.add(element.tag)
        if element.tag == SOP_INSTANCE_UID and _uid_at(file, element) != instance.sop_instance_uid:
            return False
    return SOP_INSTANCE_UID in tags and _has_its_end(instance, tags)


def _has_its_end(instance: StoredInstance, tags: set[int]) -> bool:
    """Whether the last element that the class requires is there."""
    if tags & _PIXELS:
        return True
    if _ROWS in tags or _is_image(instance.sop_class_uid):
        return False
    last = next((tag for begins, tag in _AT_THE_END if instance.sop_class_uid.startswith(begins)), None)
    needed = {STUDY_INSTANCE_UID, SERIES_INSTANCE_UID} if last is None else {last}
    return needed <= tags and instance.size % _BLOCK != 0


def _uid_at(file: FileIO, element: Element) -> str:
    if element.length is None or element.length > LONGEST_UID:
        return ""
    file.seek(element.position)
    return uid_of(file.read(element.length))


def _is_image(sop_class_uid: str) -> bool:
    name = UID(sop_class_uid, IGNORE).name
    return name.endswith("Storage") and "Image" in name


def _deflated_is_whole(file: FileIO, instance: StoredInstance) -> bool:
    """Whether the end marker of the stream is there (RFC 1951), and no more behind it than a trailer."""
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    file.seek(instance.data_offset)
    while not inflating.eof and (chunk := file.read(_CHUNK)):
        inflated = b""
        # Where the output had just the size of a chunk, some of it, or the end alone, may still wait in zlib.
        while (chunk or inflated) and not inflating.eof:
            inflated = inflating.decompress(chunk, _CHUNK)
            chunk = inflating.unconsumed_tail
    return inflating.eof and len(inflating.unused_data) + instance.size - file.tell() <= _TRAILER
