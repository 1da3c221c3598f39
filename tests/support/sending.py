"""Our own C-STORE of one instance."""

from __future__ import annotations

from pathlib import Path

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_store import store_all
from pacs_tasks.dimse.files import part10
from pacs_tasks.dimse.files.part10 import StoredInstance
from pacs_tasks.dimse.upper_layer import contexts
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.outcome import InstanceOutcome
from pacs_tasks.request import Transcode

LOCAL = LocalAE(ae_title="CALLER")


def store(
    assoc: Association, instance: StoredInstance, *, transcode: Transcode = Transcode.UNCOMPRESSED
) -> InstanceOutcome:
    """Send one instance."""
    ((_, outcome),) = store_all(assoc, [instance], transcode=transcode)
    return outcome


def send(remote: RemoteAE, path: Path, timeouts: Timeouts) -> InstanceOutcome:
    """Send a file, and release."""
    instance = part10.read_instance(str(path))
    [(proposed, _)] = contexts.contexts_for([instance])
    with Association.open(LOCAL, remote, proposed, timeouts) as assoc:
        return store(assoc, instance)
