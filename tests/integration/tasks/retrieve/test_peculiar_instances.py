"""Instances with odd UIDs, or in a presentation context of another syntax or class: what comes whole is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, MRImageStorage, RLELossless
from pynetdicom.presentation import AllStoragePresentationContexts

from pacs_tasks import Category, InstanceCategory, PacsClient, RetrieveMethod, RetrieveRequest, TransferOutcome
from pacs_tasks.testing import Faults, TestPACS
from tests.integration.conftest import Receiver
from tests.support import dicom_files
from tests.support.dicom_files import instance, study_uid

_SYNTAXES = "AvailableTransferSyntaxUID"
#: SOP Instance UIDs and Series Instance UIDs as real remotes have them.
_ODD = (
    ("1.2.3..840.9", "1.2.3.840.1"),
    ("1.2.3.840.9.", "1.2.3.840.1"),
    ("1.2.3.840.9_A", "1.2.3.840.1"),
    ("1.2.3.840.9_a", "1.2.3.840.1"),
    ("1.2.3.840.10", "LOCALIZER1.2.3.840.1"),
    ("..", "1.2.3.840.1."),
    ("1.2.3.840.11", "1.2.3.840.1"),
)


def _odd_instances() -> list[Dataset]:
    made: list[Dataset] = []
    for number, (uid, series_uid) in enumerate(_ODD, 1):
        ds = instance(number, rows=2)
        ds["SOPInstanceUID"] = DataElement("SOPInstanceUID", "UI", uid, validation_mode=IGNORE)
        ds["SeriesInstanceUID"] = DataElement("SeriesInstanceUID", "UI", series_uid, validation_mode=IGNORE)
        made.append(ds)
    return made


def _retrieved(client: PacsClient, archive: TestPACS, directory: Path, **options: object) -> TransferOutcome:
    fields = {"remote": archive.remote, "study_uid": study_uid(), "output_dir": str(directory), **options}
    job = client.enqueue(RetrieveRequest.model_validate(fields))
    job.wait(90)
    outcome = job.outcome()
    assert isinstance(outcome, TransferOutcome)
    return outcome


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("layout", ["", "{SeriesInstanceUID}/{SOPInstanceUID}", "{PatientID}/one"])
@pytest.mark.parametrize("method", [RetrieveMethod.GET, RetrieveMethod.MOVE])
def test_odd_uids_are_fetched_under_safe_names(
    client: PacsClient, receiver: Receiver, tmp_path: Path, method: RetrieveMethod, layout: str
) -> None:
    """All come, each as a file of its own below the directory, with a warning; a second retrieve finds them there."""
    destinations = {receiver.ae_title: ("127.0.0.1", receiver.port)}
    with TestPACS(instances=_odd_instances(), destinations=destinations) as archive:
        options = {"method": method, "layout": layout}
        outcome = _retrieved(client, archive, tmp_path / "out", **options)
        assert (outcome.counters.warning, outcome.counters.success) == (6, 1), outcome
        assert outcome.category is Category.WARNING
        assert all("PS3.5 section 9.1" in each.reason for each in outcome.problems)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {str(dcmread(path).SOPInstanceUID) for path in files} == {uid for uid, _ in _ODD}
        assert all(path.is_relative_to(tmp_path / "out") for path in files)
        assert len({str(path).casefold() for path in files}) == len(_ODD)
        assert _retrieved(client, archive, tmp_path / "out", **options).counters.present == len(_ODD)
        single = _retrieved(client, archive, tmp_path / "single", method=method, sop_instance_uids=("1.2.3.840.9_A",))
        assert (single.counters.total, single.counters.warning) == (1, 1)
    assert not [path for path in receiver.incoming.rglob("*.dcm") if "840" in path.name]


def test_what_comes_in_the_context_of_another_syntax_is_labelled_rightly(client: PacsClient, tmp_path: Path) -> None:
    """A native image in a compressed context and a JPEG in an uncompressed one get their own syntaxes."""
    jpeg = next(each for each in dicom_files.rounds()[0] if each.transfer_syntax_uid == JPEGLosslessSV1)
    ds = dcmread(jpeg.path)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid(), f"{study_uid()}.7"
    held = [instance(1, rows=2), ds]
    refused = {each.transfer_syntax_uid for some in dicom_files.rounds() for each in some} - {ImplicitVRLittleEndian}
    with TestPACS(instances=held, faults=Faults(any_context=True, refused_transfer_syntaxes=refused)) as archive:
        outcome = _retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    assert outcome.counters.warning == 2, outcome
    found = {str(each.SOPInstanceUID): each for each in map(dcmread, (tmp_path / "out").rglob("*.dcm"))}
    assert {uid: each.file_meta.TransferSyntaxUID for uid, each in found.items()} == {
        str(held[0].SOPInstanceUID): ExplicitVRLittleEndian,
        str(ds.SOPInstanceUID): JPEGLosslessSV1,
    }
    assert all("labelled" in each.reason for each in outcome.problems)


def test_what_comes_in_the_context_of_another_class_is_kept(client: PacsClient, tmp_path: Path) -> None:
    """The remote refuses the class of one instance, and sends it in the context of another one."""
    held = [instance(1, rows=2), instance(2, rows=2, sop_class_uid=MRImageStorage)]
    with TestPACS(instances=held, faults=Faults(any_context=True, refused_sop_classes=[MRImageStorage])) as archive:
        outcome = _retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    assert (outcome.counters.success, outcome.counters.warning) == (1, 1), outcome
    [problem] = outcome.problems
    assert problem.category is InstanceCategory.WARNING
    assert "another SOP class" in problem.reason
    assert {each.SOPClassUID for each in map(dcmread, (tmp_path / "out").rglob("*.dcm"))} == {
        each.SOPClassUID for each in held
    }


def test_instances_of_unlisted_classes_come_in_their_own_syntax(client: PacsClient, tmp_path: Path) -> None:
    """The class is guessed from the modality, so that each compressed syntax has a context of its own."""
    held = [instance(number, rows=2) for number in range(1, 4)]
    for ds, syntax in zip(held, (ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless), strict=True):
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax != ExplicitVRLittleEndian:
            ds.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
            ds["PixelData"].is_undefined_length = True
    with TestPACS(instances=held, faults=Faults(omitted_keys=["SOPClassUID"])) as archive:
        outcome = _retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
        assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 3), outcome


def test_instances_of_unlisted_classes_come_over_several_associations(client: PacsClient, tmp_path: Path) -> None:
    """The remote lists no SOP classes, and holds one instance of each: more than 128 contexts."""
    classes = sorted({str(cx.abstract_syntax) for cx in AllStoragePresentationContexts})
    held = [instance(number, rows=2, sop_class_uid=each) for number, each in enumerate(classes, 1)]
    with TestPACS(instances=held, faults=Faults(omitted_keys=["SOPClassUID"])) as archive:
        outcome = _retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, len(classes)), outcome
    assert len(classes) > 128


def test_a_private_syntax_that_is_listed_is_proposed(client: PacsClient, tmp_path: Path) -> None:
    """What the remote says that it can send comes by C-GET, also in a syntax that nobody would guess."""
    held = dicom_files.write_many(tmp_path / "held", (1, 1, 3))
    content = held[1].read_bytes()
    held[1].write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.826.0.1.3.4.5.6\0", 1))
    with TestPACS(instances=held) as archive:
        plain = _retrieved(client, archive, tmp_path / "plain", method=RetrieveMethod.GET)
        archive.faults = Faults(lists_syntaxes=True)
        listed = _retrieved(client, archive, tmp_path / "listed", method=RetrieveMethod.GET)
    assert (plain.category, plain.counters.success) == (Category.PARTIAL, 2)
    assert (listed.category, listed.counters.success) == (Category.SUCCESS, 3)


@pytest.mark.parametrize("faults", [Faults(unknown_keys=[_SYNTAXES]), Faults(abort_at_keys=[_SYNTAXES]), Faults()])
def test_a_remote_that_does_not_know_the_key_is_asked_without_it(
    client: PacsClient, tmp_path: Path, faults: Faults
) -> None:
    """Whether it refuses the key, hangs up at it, or ignores it: all comes, and few queries have it."""
    held = [each for series in (1, 2, 3) for each in dicom_files.write_many(tmp_path / f"{series}", (1, series, 2))]
    with TestPACS(instances=held, faults=faults) as archive:
        outcome = _retrieved(client, archive, tmp_path / "out", method=RetrieveMethod.GET)
        asked = [each for each in archive.identifiers if _SYNTAXES in each]
    assert (outcome.category, outcome.counters.success) == (Category.SUCCESS, 6), outcome
    assert len(asked) <= 3
