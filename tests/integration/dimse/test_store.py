"""C-ECHO and C-STORE to remotes of others."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import AssociationRejectedError, JobCancelledError, PeerBusyError, PeerUnavailableError
from pacs_tasks.outcome import Category, InstanceCategory, InstanceOutcome
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Rejection, Silence, TestPACS
from tests.support import dicom_files
from tests.support.sending import store
from tests.support.waiting import wait_until

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)


def _send(remote: RemoteAE, paths: list[Path], timeouts: Timeouts = PATIENT) -> list[InstanceOutcome]:
    """Send files over as many associations as their contexts need."""
    instances = [part10.read_instance(str(path)) for path in paths]
    outcomes = []
    for proposed, batch in contexts.contexts_for(instances):
        with Association.open(LOCAL, remote, proposed, timeouts) as assoc:
            outcomes += [store(assoc, instance) for instance in batch]
    return outcomes


def _opened(remote: RemoteAE, path: Path, timeouts: Timeouts = PATIENT) -> tuple[Association, part10.StoredInstance]:
    instance = part10.read_instance(str(path))
    [(proposed, _)] = contexts.contexts_for([instance])
    return Association.open(LOCAL, remote, proposed, timeouts), instance


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_echo(pacs: TestPACS) -> None:
    """C-ECHO gives success and its duration, and leaves no association open."""
    outcome = echo(LOCAL, pacs.remote, PATIENT)
    assert outcome.category is Category.SUCCESS
    assert 0 < outcome.seconds < 20
    assert pacs.calling_aets == ["CALLER"]


def test_more_than_128_contexts_take_two_associations(pacs: TestPACS, tmp_path: Path) -> None:
    """130 private classes need two associations, and all instances arrive."""
    files = []
    for number in range(1, 131):
        ds = dicom_files.instance(number, rows=2, sop_class_uid=f"{dicom_files.PRIVATE_SOP_CLASS}.{number}")
        files.append(dicom_files.write(ds, tmp_path / f"{number}.dcm"))
    assert all(outcome.category is InstanceCategory.SUCCESS for outcome in _send(pacs.remote, files))
    assert (len(pacs.instances), pacs.associations) == (130, 2)


def test_a_refused_pair_fails_alone_and_by_name(pacs: TestPACS, tmp_path: Path) -> None:
    """A rejected transfer syntax fails only its own files, with class and syntax in the reason."""
    pacs.faults = Faults(refused_transfer_syntaxes=["1.2.840.10008.1.2.4.90"])
    compressed = next(path for path in dicom_files.shipped() if path.name == "MR_small_jp2klossless.dcm")
    plain = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    refused, sent = _send(pacs.remote, [compressed, plain])
    assert sent.category is InstanceCategory.SUCCESS
    assert (refused.category, refused.error) == (InstanceCategory.FAILED, "ContextRejectedError")
    assert "MR Image Storage" in refused.reason
    assert "1.2.840.10008.1.2.4.90" in refused.reason


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (0xB000, InstanceCategory.WARNING),
        (0xB007, InstanceCategory.WARNING),
        (0xA700, InstanceCategory.FAILED),
        (0xA900, InstanceCategory.FAILED),
        (0xC123, InstanceCategory.FAILED),
        (0x0122, InstanceCategory.FAILED),
    ],
)
def test_a_status_is_an_outcome(pacs: TestPACS, tmp_path: Path, code: int, category: InstanceCategory) -> None:
    """Each status becomes an outcome with a reason, and the association continues."""
    pacs.faults = Faults(store_status={EVERY_INSTANCE: code})
    assoc, instance = _opened(pacs.remote, dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm"))
    with assoc:
        for _ in range(2):
            outcome = store(assoc, instance)
            assert outcome.category is category
            assert outcome.status is not None
            assert outcome.status.code == code
            assert f"{code:04X}" in outcome.reason
            assert assoc.reusable()
    assert len(pacs.stores) == 2


def test_one_association_carries_a_thousand(pacs: TestPACS, tmp_path: Path) -> None:
    """One association carries a thousand instances, each once and in order."""
    files = dicom_files.write_series(tmp_path, 1000, rows=2)
    outcomes = _send(pacs.remote, files)
    assert pacs.stores == [outcome.sop_instance_uid for outcome in outcomes]
    assert len(pacs.instances) == 1000
    assert pacs.associations == 1


def test_a_file_that_changed_or_vanished_fails_alone(pacs: TestPACS, tmp_path: Path) -> None:
    """The file fails before anything is sent, and the association continues."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    other = part10.read_instance(str(dicom_files.write(dicom_files.instance(2), tmp_path / "b.dcm")))
    assoc, instance = _opened(pacs.remote, path)
    with assoc:
        path.write_bytes(path.read_bytes()[:-100])
        changed = store(assoc, instance)
        path.unlink()
        gone = store(assoc, instance)
        assert store(assoc, other).category is InstanceCategory.SUCCESS
    for outcome in (changed, gone):
        assert (outcome.category, outcome.error) == (InstanceCategory.FAILED, "UnreadableInputError")
        assert str(tmp_path) not in outcome.reason
    assert pacs.stores == [other.sop_instance_uid]


def test_an_odd_data_set_fails_alone(pacs: TestPACS, tmp_path: Path) -> None:
    """A data set of odd length is not sent, because DCMTK would abort, and the reason explains it."""
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-1])
    [outcome] = _send(pacs.remote, [path])
    assert (outcome.category, outcome.error) == (InstanceCategory.FAILED, "UnreadableInputError")
    assert "odd number of bytes" in outcome.reason
    assert pacs.stores == []


@pytest.mark.parametrize(
    ("rejection", "says"),
    [
        (Rejection(1, 1, 7), "--pacs-ae-title"),
        (Rejection(1, 1, 3), "--ae-title"),
        (Rejection(1, 1, 1), "no reason given"),
        (Rejection(1, 1, 2), "application context"),
        (Rejection(1, 2, 2), "protocol version not supported"),
    ],
)
def test_a_permanent_rejection_says_what_to_check(pacs: TestPACS, rejection: Rejection, says: str) -> None:
    """The message of a permanent rejection names the next step."""
    pacs.faults = Faults(rejection=rejection)
    with pytest.raises(AssociationRejectedError, match=says) as caught:
        echo(LOCAL, pacs.remote, PATIENT)
    assert str(pacs.remote) in caught.value.message


@pytest.mark.parametrize("rejection", [Rejection(2, 3, 2), Rejection(2, 3, 1), Rejection(1, 3, 2), Rejection(2, 1, 1)])
def test_a_transient_rejection_is_a_reason_to_wait(pacs: TestPACS, rejection: Rejection) -> None:
    """Congestion and limits are transient, even if the remote calls them permanent."""
    pacs.faults = Faults(rejection=rejection)
    with pytest.raises(PeerBusyError, match="for now"):
        echo(LOCAL, pacs.remote, PATIENT)


@pytest.mark.parametrize(
    ("silence", "waited", "limits"),
    [
        (Silence.CONNECTED, "association request", Timeouts(connect=20, acse=1, dimse=20)),
        (Silence.ASSOCIATED, "C-STORE response", Timeouts(connect=20, acse=20, dimse=1)),
    ],
)
def test_a_silent_peer_ends_in_time(
    pacs: TestPACS, tmp_path: Path, silence: Silence, waited: str, limits: Timeouts
) -> None:
    """For each missing response the error names the remote and the limit."""
    pacs.faults = Faults(silence=silence)
    path = dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm")
    with pytest.raises(PeerUnavailableError, match=waited) as caught:
        _send(pacs.remote, [path], limits)
    assert str(pacs.remote) in caught.value.message


def test_an_abort_loses_the_association_and_no_more(pacs: TestPACS, tmp_path: Path) -> None:
    """After an abort earlier responses stand, and another association works."""
    files = dicom_files.write_series(tmp_path, 3, rows=2)
    pacs.faults = Faults(abort_at_store=2)
    instances = [part10.read_instance(str(path)) for path in files]
    assoc, _ = _opened(pacs.remote, files[0])
    assert store(assoc, instances[0]).category is InstanceCategory.SUCCESS
    with pytest.raises(PeerUnavailableError, match="abort"):
        store(assoc, instances[1])
    assert not assoc.reusable()
    with pytest.raises(PeerUnavailableError):
        store(assoc, instances[1])
    assert all(outcome.category is InstanceCategory.SUCCESS for outcome in _send(pacs.remote, files[1:]))


def test_stop_ends_the_wait_for_a_response(pacs: TestPACS, tmp_path: Path) -> None:
    """A cancelled job does not wait for a silent remote."""
    pacs.faults = Faults(silence=Silence.ASSOCIATED)
    assoc, instance = _opened(pacs.remote, dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm"))
    asked = count()
    assoc.stop = lambda: next(asked) > 1
    with pytest.raises(JobCancelledError):
        store(assoc, instance)
    assert not assoc.reusable()


def test_covers_tells_what_was_proposed(pacs: TestPACS, tmp_path: Path) -> None:
    """Rejected pairs count as covered, because proposing them again would not help."""
    pacs.faults = Faults(refused_sop_classes=["1.2.840.10008.5.1.4.1.1.2"])
    assoc, instance = _opened(pacs.remote, dicom_files.write(dicom_files.instance(), tmp_path / "a.dcm"))
    with assoc:
        pair = (instance.sop_class_uid, instance.transfer_syntax_uid)
        assert assoc.covers([pair])
        assert not assoc.covers([pair, ("1.2.3", "1.2.840.10008.1.2")])
        assert pair not in assoc.accepted_contexts
        assert store(assoc, instance).error == "ContextRejectedError"


def test_an_association_fits_what_another_one_would_not_accept_either(pacs: TestPACS) -> None:
    """Of several syntaxes in a context the remote accepts one, and says nothing about the others."""
    explicit, implicit, refused = ExplicitVRLittleEndian, ImplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.4"
    pacs.faults = Faults(refused_sop_classes=[refused])
    proposed = [Context(CTImageStorage, (explicit, implicit)), Context(refused, (explicit,))]
    with Association.open(LOCAL, pacs.remote, proposed, PATIENT) as assoc:
        [accepted] = [syntax for sop_class, syntax in assoc.accepted_contexts if sop_class == CTImageStorage]
        other = explicit if accepted == implicit else implicit
        assert assoc.fits(
            [*proposed, Context(CTImageStorage, (accepted,)), Context(CTImageStorage, (implicit, explicit))]
        )
        assert not assoc.fits([Context(CTImageStorage, (other,))])
        assert not assoc.fits([Context(refused, (implicit,))])
        assert not assoc.fits([*proposed, Context("1.2.3", (implicit,))])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_no_descriptor_is_left_behind(pacs: TestPACS, tmp_path: Path) -> None:
    """Failed and successful associations close their descriptors."""
    [path] = dicom_files.write_series(tmp_path, 1, rows=512)
    _send(pacs.remote, [path])
    before = _open_files()
    for faults in (Faults(), Faults(rejection=Rejection(1, 1, 7)), Faults(abort_at_store=1)):
        pacs.faults = faults
        for _ in range(5):
            try:
                _send(pacs.remote, [path])
            except (PeerUnavailableError, AssociationRejectedError):
                continue
    # The PACS runs in this process and may close its side of the last connection a little later.
    wait_until(lambda: _open_files() <= before + 3, 10, f"open files, {before} before: {_open_files()}")
