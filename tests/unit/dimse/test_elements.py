"""The quick readers of UIDs give the same results as walking the data set."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.elements import (
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    Encoding,
    MalformedError,
    read_uids,
    walk,
)
from tests.support import dicom_files

WANTED = (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
DEFLATED = "1.2.840.10008.1.2.1.99"


def _walked(data: bytes, syntax: str) -> dict[int, str] | None:
    """Read UIDs by walking each element; ``None`` if the data set is malformed."""
    found: dict[int, str] = {}
    try:
        for element in walk(data, Encoding.of(syntax)):
            if element.tag > max(WANTED):
                break
            if element.tag in WANTED and element.length is not None:
                if element.position + element.length > len(data):
                    return None
                value = data[element.position : element.position + element.length]
                found[element.tag] = value.decode("ascii", "replace").strip("\0 ")
                if len(found) == len(WANTED):
                    break
    except MalformedError:
        return None
    return found


def _read(data: bytes, syntax: str) -> dict[int, str] | None:
    try:
        return read_uids(data, syntax, WANTED)
    except MalformedError:
        return None


INSTANCES = [part10.read_instance(str(path)) for path in dicom_files.sendable()]


def _check_everywhere(data: bytes, syntax: str, seed: int) -> None:
    """Compare both readers for a complete, a truncated and a damaged data set."""
    assert _read(data, syntax) == _walked(data, syntax)
    rng = random.Random(seed)
    for _ in range(60):
        place = rng.randrange(min(len(data), 3000))
        for changed in (data[:place], data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]):
            assert _read(changed, syntax) == _walked(changed, syntax), place


@pytest.mark.parametrize(
    "instance",
    [each for each in INSTANCES if each.transfer_syntax_uid != DEFLATED],
    ids=lambda instance: Path(instance.path).name,
)
def test_uids_are_those_that_walking_finds(instance: part10.StoredInstance) -> None:
    """Both readers agree for every shipped file."""
    data = Path(instance.path).read_bytes()[instance.data_offset :][:8192]
    _check_everywhere(data, instance.transfer_syntax_uid, instance.size)


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_uids_are_found_behind_sequences_of_any_length(syntax: str, undefined: bool) -> None:
    """UIDs are found after sequences that contain the study and series of other instances."""
    ds = dicom_files.instance(transfer_syntax_uid=syntax, rows=2)
    other = Dataset()
    other.StudyInstanceUID, other.SeriesInstanceUID = "1.2.3", "1.2.4"
    ds.RelatedSeriesSequence = Sequence([other, other])
    ds.ReferencedStudySequence = Sequence([Dataset()])
    for sequence in (ds["RelatedSeriesSequence"], ds["ReferencedStudySequence"]):
        sequence.is_undefined_length = undefined
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    data = dicom_files.split(buffer.getvalue())
    found = read_uids(data, syntax, WANTED)
    assert found[STUDY_INSTANCE_UID] == dicom_files.study_uid()
    assert found[SERIES_INSTANCE_UID] == f"{dicom_files.study_uid()}.1"
    _check_everywhere(data, syntax, len(data))
