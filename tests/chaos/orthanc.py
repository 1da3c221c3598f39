"""Orthanc, as a PACS that is killed and comes back."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from pacs_tasks.ae import RemoteAE
from tests.support import peers
from tests.support.ports import free_port

AE_TITLE: Final = "ORTHANC"


class Orthanc:
    """The suite's side of it.

    Parameters
    ----------
    destinations
        Host and port of each AE that C-MOVE may name.
    """

    def __init__(self, stack: ExitStack, directory: Path, destinations: peers.Destinations = peers.NOWHERE) -> None:
        self._stack, self._directory, self._destinations = stack, directory, destinations
        self._ports = free_port(), free_port()
        self._running: peers.Orthanc
        directory.mkdir()

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def remote(self) -> RemoteAE:
        return RemoteAE(ae_title=AE_TITLE, host="127.0.0.1", port=self.port)

    def start(self) -> None:
        """Start it, or start it again with what it holds."""
        self._running = self._stack.enter_context(
            peers.orthanc(self._directory, AE_TITLE, self._destinations, ports=self._ports)
        )

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        self._running.process.kill()

    def take(self, paths: Iterable[str]) -> None:
        """Hold these files from the start."""
        for path in paths:
            self._running.add(Path(path))

    def held(self) -> Mapping[str, str]:
        """The SHA-256 of each data set that it holds, by SOP Instance UID."""
        found = self._running.instances()
        return {uid: hashlib.sha256(self._running.data_set(each)).hexdigest() for uid, each in found.items()}

    def stores(self) -> Counter[str] | None:
        """Orthanc does not count the requests for an instance that it holds already."""
        return None
