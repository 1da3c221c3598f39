"""Files are sent unchanged: every shipped instance, and unusual ones, to each remote of others.

A tap reads the wire without our code. Remotes that store bytes unchanged (storescp, pynetdicom, TestPACS) are checked
as well. Orthanc and dcmqrscp re-encode instances, so they are only checked for having them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.request import Transcode
from pacs_tasks.testing import Faults, TestPACS
from tests.support import dicom_files, messages, peculiar, peers
from tests.support.sending import store
from tests.support.tap import tapped

LOCAL = LocalAE(ae_title="CALLER")
PATIENT = Timeouts.of(20)


@dataclass(frozen=True)
class Peer:
    """A Storage SCP of others.

    Attributes
    ----------
    held
        Its data sets by SOP Instance UID; ``None`` if it re-encodes them.
    never
        Files at which it aborts or falls silent, whoever sends them.
    """

    remote: RemoteAE
    held: Callable[[], Mapping[str, bytes | None]]
    never: frozenset[str] = field(default_factory=frozenset)


def _kept_by(directory: peers.Directory) -> dict[str, bytes]:
    return {part10.read_instance(str(path)).sop_instance_uid: dicom_files.data_set(path) for path in directory.files()}


@contextmanager
def _storescp(directory: Path, *options: str) -> Iterator[Peer]:
    with peers.storescp(directory, "STORESCP", *options) as running:
        yield Peer(running.remote, lambda: _kept_by(running))


@contextmanager
def _dcmqrscp(directory: Path) -> Iterator[Peer]:
    with peers.dcmqrscp(directory) as running:
        # It aborts at truncated pixel data.
        yield Peer(running.remote, lambda: dict.fromkeys(_kept_by(running)), frozenset(("MR_truncated.dcm",)))


@contextmanager
def _orthanc(directory: Path) -> Iterator[Peer]:
    # Its DCMTK cannot read the pixel data of these two; it then waits until the caller hangs up.
    never = frozenset(("SC_rgb_jpeg.dcm", "MR_truncated.dcm"))
    with peers.orthanc(directory) as running:
        yield Peer(running.remote, lambda: dict.fromkeys(running.instances()), never)


@contextmanager
def _testpacs(directory: Path) -> Iterator[Peer]:
    with TestPACS() as running:
        yield Peer(running.remote, lambda: {uid: each.data_set for uid, each in running.instances.items()})


@contextmanager
def _pynetdicom(directory: Path, max_length: int = 16_382) -> Iterator[Peer]:
    """Run pynetdicom's own application entity."""
    held: dict[str, bytes] = {}

    def keep(event: Event) -> int:
        request: Any = event.request
        held[str(request.AffectedSOPInstanceUID)] = event.encoded_dataset(include_meta=False)
        return 0x0000

    ae = AE("PYNETDICOM")
    ae.maximum_pdu_size = max_length
    for pair in {(each.sop_class_uid, each.transfer_syntax_uid) for some in dicom_files.rounds() for each in some}:
        ae.add_supported_context(*pair)
    for syntax in (messages.IMPLICIT, peculiar.BIG_ENDIAN, messages.EXPLICIT):
        ae.add_supported_context(messages.CT, syntax)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert server is not None
    try:
        yield Peer(RemoteAE(ae_title="PYNETDICOM", port=server.server_address[1]), lambda: held)
    finally:
        server.shutdown()
        ae.shutdown()


Running = Callable[[Path], AbstractContextManager[Peer]]
EVERY_PEER = pytest.mark.parametrize(
    "running",
    [
        pytest.param(_storescp, marks=pytest.mark.dcmtk, id="storescp"),
        pytest.param(_dcmqrscp, marks=pytest.mark.dcmtk, id="dcmqrscp"),
        pytest.param(_orthanc, marks=pytest.mark.orthanc, id="orthanc"),
        pytest.param(_testpacs, id="testpacs"),
        pytest.param(_pynetdicom, id="pynetdicom"),
    ],
)


def _send(remote: RemoteAE, instances: list[StoredInstance]) -> list[InstanceOutcome]:
    outcomes = []
    for proposed, batch in contexts.contexts_for(instances, Transcode.NEVER):
        with Association.open(LOCAL, remote, proposed, PATIENT) as assoc:
            outcomes += [store(assoc, instance, transcode=Transcode.NEVER) for instance in batch]
    return outcomes


def _check(peer: Peer, instances: list[StoredInstance], piece: int = 1 << 18) -> list[InstanceOutcome]:
    """Send, compare, and give the outcomes of accepted instances."""
    with tapped(peer.remote.port, piece) as tap:
        outcomes = _send(tap.to(peer.remote), instances)
        sent: dict[str, bytes] = {}
        for conversation in tap.finished():
            sent |= messages.data_sets(bytes(conversation.asked))
            assert conversation.asked.endswith(messages.RELEASE)
            assert conversation.answered.endswith(messages.RELEASED)
    refused = {each.sop_instance_uid for each in outcomes if each.error == "ContextRejectedError"}
    by_uid = {each.sop_instance_uid: each for each in instances if each.sop_instance_uid not in refused}
    assert sent == {uid: dicom_files.as_sent(each) for uid, each in by_uid.items()}
    taken = [each for each in outcomes if each.category is InstanceCategory.SUCCESS]
    held = peer.held()
    for outcome in taken:
        kept = held[outcome.sop_instance_uid]
        assert kept is None or kept == sent[outcome.sop_instance_uid], outcome.subject
    for outcome in outcomes:
        assert outcome.category is InstanceCategory.SUCCESS or outcome.reason, outcome.subject
    return taken


@EVERY_PEER
def test_every_shipped_instance_goes_out_as_it_is(running: Running, tmp_path: Path) -> None:
    """Files in twelve transfer syntaxes, even truncated ones or without UIDs, are sent unchanged."""
    taken = []
    with running(tmp_path) as peer:
        for some in dicom_files.rounds():
            instances = [each for each in some if Path(each.path).name not in peer.never]
            taken += _check(peer, [each for each in instances if dicom_files.as_sent(each) is not None])
    # dcmqrscp accepts uncompressed instances only; the others accept nearly all.
    number = sum(map(len, dicom_files.rounds()))
    assert len(taken) >= (110 if running is _dcmqrscp else number - 25), len(taken)
    assert len({each.transfer_syntax_uid for each in taken}) >= (3 if running is _dcmqrscp else 11)


@EVERY_PEER
def test_unusual_instances_go_out_as_they_are(running: Running, tmp_path: Path) -> None:
    """Odd and empty values, UIDs of every length and padding, and sizes around PDU limits arrive unchanged.

    They do so even if each segment carries one byte, in both directions.
    """
    instances = peculiar.unusual(tmp_path / "unusual")
    with running(tmp_path) as peer:
        assert len(_check(peer, instances, piece=1)) == len(instances)
        instances += peculiar.at_the_edges(tmp_path / "edges")
        assert len(_check(peer, instances)) == len(instances)


def _storescp_4096(directory: Path) -> AbstractContextManager[Peer]:
    return _storescp(directory, "-pdu", "4096")


def _storescp_131072(directory: Path) -> AbstractContextManager[Peer]:
    return _storescp(directory, "-pdu", "131072")


@contextmanager
def _taking(directory: Path, max_length: int) -> Iterator[Peer]:
    with TestPACS(faults=Faults(max_pdu_size=max_length)) as running:
        yield Peer(running.remote, lambda: {uid: each.data_set for uid, each in running.instances.items()})


@pytest.mark.parametrize(
    "running",
    [
        pytest.param(_storescp_4096, marks=pytest.mark.dcmtk, id="storescp-4096"),
        pytest.param(_storescp_131072, marks=pytest.mark.dcmtk, id="storescp-131072"),
        *(
            pytest.param(lambda path, most=most: _taking(path, most), id=f"testpacs-{most}")
            for most in (0, 128, 129, 4_096, 16_384, 131_072, 1 << 20)
        ),
        *(
            pytest.param(lambda path, most=most: _pynetdicom(path, most), id=f"pynetdicom-{most}")
            for most in (0, 4_096, 16_384, 131_072)
        ),
    ],
)
def test_no_peer_gets_more_than_it_takes(running: Running, tmp_path: Path) -> None:
    """No PDU exceeds the maximum of the remote, as the tap measures, for instances below, at and above it."""
    instances = peculiar.at_the_edges(tmp_path / "edges")
    large = dicom_files.write(dicom_files.instance(rows=512), tmp_path / "large.dcm")
    instances.append(part10.read_instance(str(large)))
    with running(tmp_path) as peer:
        assert len(_check(peer, instances)) == len(instances)
