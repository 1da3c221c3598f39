"""Directories with files in a transfer syntax that the PACS refuses: dry run, outcome and receipts say so."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pacs_tasks import (
    Category,
    PacsClient,
    PreflightOutcome,
    PreflightRequest,
    StoreDirectoryRequest,
    Transcode,
    TransferOutcome,
)
from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files
from tests.support.processes import Process
from tests.support.values import read_encoded

_IMPLICIT_ALONE = Faults(refused_transfer_syntaxes={ExplicitVRLittleEndian, JPEGLosslessSV1})


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three files in Explicit VR, one in Implicit VR, one that is compressed."""
    dicom_files.write_series(tmp_path / "explicit", 3, rows=2)
    implicit = dicom_files.instance(9, rows=2, transfer_syntax_uid=ImplicitVRLittleEndian)
    dicom_files.write(implicit, tmp_path / "implicit.dcm")
    jpeg = next(each for each in dicom_files.rounds()[0] if each.transfer_syntax_uid == JPEGLosslessSV1)
    (tmp_path / "jpeg.dcm").write_bytes(Path(jpeg.path).read_bytes())
    return tmp_path


def test_a_job_converts_and_says_so(client: PacsClient, pacs: TestPACS, mixed: Path) -> None:
    """Three files are converted, as the dry run has predicted; the receipt of each names the syntax."""
    pacs.faults = _IMPLICIT_ALONE
    dry = client.enqueue(PreflightRequest(remote=pacs.remote, directory=str(mixed)))
    dry.wait(60)
    predicted = dry.outcome()
    assert isinstance(predicted, PreflightOutcome)
    assert {(each.transfer_syntax_uid, each.accepted, each.sent_as) for each in predicted.pairs} == {
        (ExplicitVRLittleEndian, False, ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, True, ""),
        (JPEGLosslessSV1, False, ""),
    }
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(mixed)))
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.category, outcome.counters.success, outcome.counters.converted) == (Category.PARTIAL, 4, 3)
    [compressed] = outcome.problems
    assert "--transcode decompress" in compressed.reason
    receipts = {Path(each.path).name: each for each in job.receipts()}
    assert {name: (each.category, each.transfer_syntax_uid, each.sent_as) for name, each in receipts.items()} == {
        "000001.dcm": ("success", ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        "000002.dcm": ("success", ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        "000003.dcm": ("success", ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        "implicit.dcm": ("success", ImplicitVRLittleEndian, ""),
        "jpeg.dcm": ("failed", JPEGLosslessSV1, ""),
    }
    assert {each.transfer_syntax_uid for each in pacs.instances.values()} == {ImplicitVRLittleEndian}


def test_what_the_remote_accepts_as_it_is_is_not_converted(client: PacsClient, pacs: TestPACS, tmp_path: Path) -> None:
    """Not even over the association of a part before, on which its syntax was offered beside others."""
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
    for number in range(16):
        instance = dicom_files.instance(number, rows=2, transfer_syntax_uid=syntaxes[number % 3])
        dicom_files.write(instance, tmp_path / f"{number:02}.dcm")
    job = client.enqueue(StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path), files_per_task=1))
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.counters.success, outcome.counters.converted) == (16, 0)
    assert {each.transfer_syntax_uid for each in pacs.instances.values()} == set(syntaxes)


def test_a_job_that_must_not_convert_fails_the_files(client: PacsClient, pacs: TestPACS, mixed: Path) -> None:
    """With ``never`` only the file in Implicit VR arrives."""
    pacs.faults = _IMPLICIT_ALONE
    request = StoreDirectoryRequest(remote=pacs.remote, directory=str(mixed), transcode=Transcode.NEVER)
    job = client.enqueue(request)
    job.wait(60)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    assert (outcome.counters.success, outcome.counters.failed, outcome.counters.converted) == (1, 4, 0)
    assert len(pacs.instances) == 1


#: Files that pydicom ships, in RLE, JPEG-LS, JPEG 2000 and JPEG Lossless: three of one image, and two of another.
_COMPRESSED = (
    "MR_small_RLE.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_jp2klossless.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
)


def test_a_job_decompresses_on_request(
    client: PacsClient, pacs: TestPACS, shared_worker: Process, tmp_path: Path
) -> None:
    """They arrive with the pixels of the uncompressed file, or with equal ones where there is none.

    Only a process beside the worker has loaded numpy.
    """
    shipped = {path.name: path for path in dicom_files.shipped()}
    pacs.faults = Faults(refused_transfer_syntaxes={RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless})
    pixels = {}
    for name in _COMPRESSED:
        # Each in a job of its own: some have one UID.
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.dcm").write_bytes(shipped[name].read_bytes())
        job = client.enqueue(
            StoreDirectoryRequest(remote=pacs.remote, directory=str(tmp_path / name), transcode=Transcode.DECOMPRESS)
        )
        job.wait(60)
        outcome = job.outcome()
        assert isinstance(outcome, TransferOutcome)
        assert (outcome.category, outcome.counters.converted) == (Category.SUCCESS, 1), name
        [receipt] = job.receipts()
        assert receipt.sent_as == ExplicitVRLittleEndian
        assert receipt.reason == "It was sent decompressed. No pixel value was lost."
        held = pacs.instances[receipt.sop_instance_uid]
        pixels[name] = read_encoded(held.data_set, held.transfer_syntax_uid).PixelData
    assert [pixels[name] for name in _COMPRESSED[:3]] == [dcmread(shipped["MR_small.dcm"]).PixelData] * 3
    assert pixels["SC_rgb_rle.dcm"] == pixels["SC_rgb_jpeg_gdcm.dcm"]
    with_numpy = [line for pid, line in _programs(shared_worker) if "numpy" in Path(f"/proc/{pid}/maps").read_text()]
    assert with_numpy
    assert all("pacs_tasks.dimse.files.decompress" in line for line in with_numpy)


def _programs(leader: Process) -> list[tuple[int, str]]:
    """The id and the command line of each process of a group, on Linux."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getpgid(int(each.name)) == leader.pid:
                found.append((int(each.name), (each / "cmdline").read_text()))
    return found
