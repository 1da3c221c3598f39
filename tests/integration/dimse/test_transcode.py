"""Instances in a transfer syntax that the remote does not accept: converted without a loss, or named."""

from __future__ import annotations

import hashlib
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    ColorPaletteStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.files.part10 import StoredInstance, read_instance
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import alternatives_for, contexts_for
from pacs_tasks.dimse.upper_layer.negotiation import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTED,
    NO_REASON,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    AssociateAccept,
    Context,
    decode_request,
    encode_accept,
)
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import Transcode
from pacs_tasks.testing import Faults, TestPACS
from tests.support import peers, scripted
from tests.support.dicom_files import names_itself, rounds, write_large
from tests.support.values import assert_same_values, read_encoded

#: Files whose pixel data pydicom's decoders refuse, as they should.
_UNREADABLE = {"JPEG-lossy.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "SC_rgb_jpeg.dcm"}
_UNCOMPRESSED = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Some shipped files are there because they break rules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _whole() -> dict[str, StoredInstance]:
    """Uncompressed instances by SOP Instance UID, without those whose data set is cut off or nameless."""
    some = (each for each in rounds()[0] if each.transfer_syntax_uid in _UNCOMPRESSED)
    return {each.sop_instance_uid: each for each in some if "truncated" not in each.path and names_itself(each)}


def _sent(
    remote: RemoteAE, instances: list[StoredInstance], transcode: Transcode = Transcode.UNCOMPRESSED
) -> dict[str, InstanceOutcome]:
    outcomes = {}
    for proposed, batch in contexts_for(instances, transcode):
        with Association.open(LocalAE(), remote, proposed, Timeouts.of(20)) as assoc:
            for instance, outcome in store_all(assoc, batch, transcode=transcode, digest=True):
                outcomes[instance.sop_instance_uid] = outcome
    return outcomes


def _only(syntax: str) -> Faults:
    compressed = {each.transfer_syntax_uid for some in rounds() for each in some} - set(_UNCOMPRESSED)
    return Faults(refused_transfer_syntaxes={*compressed, *_UNCOMPRESSED} - {syntax})


@pytest.mark.parametrize("syntax", _UNCOMPRESSED)
def test_a_remote_of_one_syntax_gets_everything(pacs: TestPACS, syntax: str) -> None:
    """Each instance arrives with the values of its file; the outcome names the syntax where it is another one."""
    pacs.faults, instances = _only(syntax), _whole()
    outcomes = _sent(pacs.remote, list(instances.values()))
    assert {each.category for each in outcomes.values()} == {InstanceCategory.SUCCESS}
    assert set(pacs.instances) == set(instances)
    for uid, instance in instances.items():
        held, outcome = pacs.instances[uid], outcomes[uid]
        converted = instance.transfer_syntax_uid != syntax
        assert (outcome.transfer_syntax_uid, outcome.sent_as) == (
            instance.transfer_syntax_uid,
            syntax if converted else "",
        )
        assert held.transfer_syntax_uid == syntax
        if converted:
            assert_same_values(dcmread(instance.path, force=True), read_encoded(held.data_set, syntax))


def test_nothing_is_converted_where_that_is_not_wanted(pacs: TestPACS) -> None:
    """With ``never`` only the own syntax is proposed, and what the remote refuses fails."""
    pacs.faults = _only(ImplicitVRLittleEndian)
    instances = _whole()
    outcomes = _sent(pacs.remote, list(instances.values()), Transcode.NEVER)
    implicit = {uid for uid, each in instances.items() if each.transfer_syntax_uid == ImplicitVRLittleEndian}
    assert set(pacs.instances) == implicit
    assert {uid for uid, each in outcomes.items() if each.category is InstanceCategory.SUCCESS} == implicit
    assert {each.error for uid, each in outcomes.items() if uid not in implicit} == {"ContextRejectedError"}


def test_what_is_refused_in_any_syntax_says_why(pacs: TestPACS) -> None:
    """Also where its own one was refused on an association before, for which there was no room for the others."""
    pacs.faults = Faults(refused_transfer_syntaxes=set(_UNCOMPRESSED) - {DeflatedExplicitVRLittleEndian})
    instance = next(each for each in _whole().values() if each.transfer_syntax_uid == DeflatedExplicitVRLittleEndian)
    [(proposed, _)] = alternatives_for([instance], Transcode.UNCOMPRESSED)
    # Another class has the association accepted.
    proposed = [*proposed, Context(ColorPaletteStorage, (DeflatedExplicitVRLittleEndian,))]
    with Association.open(LocalAE(), pacs.remote, proposed, Timeouts.of(20)) as assoc:
        [(_, outcome)] = store_all(assoc, [instance])
    assert "does not support the transfer syntax (result 4)" in outcome.reason


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (USER_REJECTION, "its application rejects it (result 1), perhaps only for now. Retry the job later"),
        (NO_REASON, "it gives no reason (result 2), so this may be only for now. Retry the job later"),
        (ABSTRACT_SYNTAX_NOT_SUPPORTED, "it does not support the SOP class (result 3). Ask its administrator to allow"),
        (TRANSFER_SYNTAXES_NOT_SUPPORTED, "it does not support the transfer syntax (result 4). Ask its administrator"),
        (9, "it names a transfer syntax that was not proposed. Check its log."),
    ],
)
def test_the_result_of_a_refused_context_is_explained(result: int, why: str) -> None:
    """PS3.8 table 9-18: the first two may be for now, the others are the remote's configuration."""
    instance = next(each for each in _whole().values() if each.transfer_syntax_uid == ImplicitVRLittleEndian)

    def refuse(sock: socket.socket) -> None:
        _, content = scripted.receive_pdu(sock)
        request = decode_request(memoryview(content))
        results = {
            cx.context_id: (ACCEPTED if cx.abstract_syntax == ColorPaletteStorage else result, cx.transfer_syntaxes[0])
            for cx in request.contexts
        }
        sock.sendall(encode_accept(AssociateAccept(results, 16_384, request.roles), request))
        scripted.let_go(sock)

    # Another class has the association accepted.
    proposed = [Context(each, (ImplicitVRLittleEndian,)) for each in (instance.sop_class_uid, ColorPaletteStorage)]
    with (
        scripted.peer(refuse) as remote,
        Association.open(LocalAE(), remote, proposed, Timeouts.of(20)) as assoc,
    ):
        [(_, outcome)] = store_all(assoc, [instance])
    assert (outcome.category, outcome.error) == (InstanceCategory.FAILED, "ContextRejectedError")
    assert why in outcome.reason


def test_compressed_instances_are_decompressed_only_on_request(pacs: TestPACS) -> None:
    """By default they fail with the option that would help; on request all come, but for those that are damaged."""
    pacs.faults = _only(ExplicitVRLittleEndian)
    compressed = [each for each in rounds()[0] if each.transfer_syntax_uid not in _UNCOMPRESSED]
    refused = _sent(pacs.remote, compressed)
    assert not pacs.instances
    assert {each.category for each in refused.values()} == {InstanceCategory.FAILED}
    assert any("--transcode decompress" in each.reason for each in refused.values())
    outcomes = _sent(pacs.remote, compressed, Transcode.DECOMPRESS)
    done = {uid for uid, each in outcomes.items() if each.category is InstanceCategory.SUCCESS}
    assert done == set(pacs.instances)
    for uid, outcome in outcomes.items():
        if uid in done:
            assert outcome.sent_as == ExplicitVRLittleEndian
            assert "decompressed" in outcome.reason
        else:
            assert outcome.error == "UnreadableInputError"
            assert "they are damaged or not what they claim to be" in outcome.reason
    assert {Path(each.path).name for each in compressed if each.sop_instance_uid not in done} <= _UNREADABLE


def test_a_large_instance_is_converted_block_by_block(pacs: TestPACS, tmp_path: Path) -> None:
    """Words change places across the borders of blocks; what is sent is what the digest covers."""
    path = write_large(tmp_path / "large.dcm", 3_000_002)
    with path.open("r+b") as file:
        file.seek(-3_000_002, 2)
        file.write(bytes(each % 251 for each in range(3_000_002)))
    pacs.faults = _only(ExplicitVRBigEndian)
    instance = read_instance(str(path))
    [outcome] = _sent(pacs.remote, [instance]).values()
    held = pacs.instances[instance.sop_instance_uid].data_set
    assert outcome.sha256 == hashlib.sha256(held).hexdigest()
    assert_same_values(dcmread(path), read_encoded(held, ExplicitVRBigEndian))


@contextmanager
def _peer(name: str, directory: Path) -> Iterator[peers.Peer]:
    """A PACS of others that accepts Implicit VR Little Endian alone."""
    if name == "storescp":
        with peers.storescp(directory, "IMPLICIT", "+xi") as storescp:
            yield storescp
    elif name == "dcmqrscp":
        with peers.dcmqrscp(directory, "IMPLICIT", peers.NOWHERE, "+xi") as dcmqrscp:
            yield dcmqrscp
    else:
        syntaxes = [str(ImplicitVRLittleEndian)]
        with peers.orthanc(directory, "IMPLICIT", AcceptedTransferSyntaxes=syntaxes) as orthanc:
            yield orthanc


def _files(peer: peers.Peer) -> list[bytes]:
    if isinstance(peer, peers.Orthanc):
        return [peer.file(each) for each in peer.instances().values()]
    assert isinstance(peer, peers.Directory)
    return [each.read_bytes() for each in peer.files()]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("storescp", marks=pytest.mark.dcmtk),
        pytest.param("dcmqrscp", marks=pytest.mark.dcmtk),
        pytest.param("orthanc", marks=pytest.mark.orthanc),
    ],
)
def test_archives_of_others_that_take_implicit_alone_get_everything(name: str, tmp_path: Path) -> None:
    """PS3.5 section 10.1: Implicit VR Little Endian is offered for each class whose instances are not lossy."""
    # DCMTK knows no colour palettes.
    instances = {uid: each for uid, each in _whole().items() if each.sop_class_uid != ColorPaletteStorage}
    with _peer(name, tmp_path) as peer:
        outcomes = _sent(peer.remote, list(instances.values()))
        assert {each.category for each in outcomes.values()} <= {InstanceCategory.SUCCESS, InstanceCategory.WARNING}
        found = {str(ds.SOPInstanceUID): ds for ds in (dcmread(BytesIO(each)) for each in _files(peer))}
    assert set(found) == set(instances)
    for uid, ds in found.items():
        assert ds.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert_same_values(dcmread(instances[uid].path, force=True), ds)
