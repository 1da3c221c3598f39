"""TestPACS: one PACS on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from pydicom import Dataset
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from pacs_tasks.ae import TLS, RemoteAE
from pacs_tasks.testing.association import SLICE, Caller, Listener, close, disconnect, tls_context
from pacs_tasks.testing.faults import Faults
from pacs_tasks.testing.instances import StoredBytes
from pacs_tasks.testing.services import Services


class TestPACS(Services):
    """A PACS that keeps received instances, responds to queries and delivers, exactly to the byte.

    It supports C-ECHO; C-STORE of every storage class, private ones included, in every transfer syntax; C-FIND in
    Patient Root and Study Root at every level; C-MOVE to known destinations; C-GET; and storage commitment, about which
    it reports to known destinations.

    Parameters
    ----------
    ae_title
        Its AE title.
    directory
        The directory for instances, as DICOM files; None keeps them in memory.
    instances
        The instances that it holds from the start: paths of DICOM files, which stay where they are, or pydicom data
        sets.
    destinations
        Host and port of each AE to which C-MOVE may deliver; the attribute may be changed at any time.
    faults
        What goes wrong; the attribute may be replaced at any time.
    host, port
        The address to listen on; port 0 chooses a free port.
    tls
        Its certificate and key; it then accepts only TLS. With ``ca_file``, callers need a certificate that these
        authorities have signed. C-MOVE still delivers without TLS.

    Attributes
    ----------
    stores
        SOP Instance UIDs of all complete C-STORE requests, in order, whatever the response.
    calling_aets
        AE titles of all association requests, in order.
    identifiers
        Identifiers of all C-FIND, C-MOVE and C-GET requests, in order.
    transactions
        SOP Instance UIDs of each request for storage commitment, in order.
    report_statuses
        The status of the response to each of its reports, in order; None where there was no response.
    associations
        The number of associations that it has accepted.
    most_associations
        The largest number of associations that were open at once.

    Examples
    --------
    >>> from pynetdicom import AE
    >>> with TestPACS(ae_title="ARCHIVE") as pacs:
    ...     assoc = AE().associate(pacs.host, pacs.port, [build_context(Verification)])
    ...     assoc.send_c_echo().Status
    ...     assoc.release()
    0
    """

    __test__ = False  # So that pytest does not collect it.

    def __init__(
        self,
        ae_title: str = "TESTPACS",
        directory: str | PathLike[str] | None = None,
        *,
        instances: Iterable[str | PathLike[str] | Dataset] = (),
        destinations: Mapping[str, tuple[str, int]] = MappingProxyType({}),
        faults: Faults | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: TLS | None = None,
    ) -> None:
        super().__init__(ae_title, directory, map(_stored, instances), destinations, faults or Faults())
        self.host = host
        self._wanted_port = port
        self._tls = tls
        self._running: tuple[Listener, threading.Thread] | None = None

    def hold(self, *instances: str | PathLike[str] | Dataset) -> None:
        """Hold these instances as well, as if they had just been received."""
        self._hold(map(_stored, instances))

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._running is None:
            raise RuntimeError("The TestPACS has not been started. Use it in a with statement.")
        return int(self._running[0].server_address[1])

    @property
    def remote(self) -> RemoteAE:
        """Its address as a remote; over TLS, its own certificate identifies it and must be valid for ``host``."""
        tls = None if self._tls is None else TLS(ca_file=self._tls.certificate_file)
        return RemoteAE(ae_title=self.ae_title, host=self.host, port=self.port, tls=tls)

    @property
    def open_associations(self) -> int:
        """The number of associations that are open now."""
        if self._running is None:
            return 0
        return sum(assoc.is_established for assoc in self._running[0].active_associations)

    def start(self) -> None:
        """Start to listen; it accepts associations when this returns."""
        self._stopping.clear()
        ae = Caller(ae_title=self.ae_title)
        ae.maximum_associations = 10_000
        ae.maximum_pdu_size = self.faults.max_pdu_size
        ae.connection_timeout = 10
        # pynetdicom requires one context to listen; each negotiation replaces it.
        contexts = [build_context(Verification)]
        context = None if self._tls is None else tls_context(self._tls)
        address = (self.host, self._wanted_port)
        listener = Listener(ae, address, self.ae_title, contexts, context, evt_handlers=self._handlers)
        thread = threading.Thread(
            target=listener.serve_forever, args=(SLICE,), name=f"TestPACS {self.ae_title}", daemon=True
        )
        thread.start()
        self._running = listener, thread

    def stop(self, timeout: float = 10.0) -> None:
        """Close every connection and end every thread.

        Raises
        ------
        TimeoutError
            If a thread is left after ``timeout`` seconds.
        """
        if self._running is None:
            return
        deadline = time.monotonic() + timeout
        (listener, thread), self._running = self._running, None
        self._stopping.set()
        listener.shutdown()
        with self._lock:
            known, self._known = list(self._known), set()
        for assoc in known:
            disconnect(assoc)
        try:
            self._join([thread, *known, *(assoc.dul for assoc in known)], deadline)
            # Only the threads above start these.
            with self._lock:
                reporting, self._reporting = list(self._reporting), set()
            self._join(reporting, deadline)
        finally:
            for assoc in known:
                close(assoc)

    def _join(self, threads: Iterable[threading.Thread], deadline: float) -> None:
        for each in threads:
            if each.ident is not None:
                each.join(max(0.0, deadline - time.monotonic()))
            if each.is_alive():
                raise TimeoutError(f"A thread of {self.ae_title} has not ended in time: {each.name}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _stored(instance: str | PathLike[str] | Dataset) -> StoredBytes:
    return (
        StoredBytes.from_dataset(instance) if isinstance(instance, Dataset) else StoredBytes.from_file(Path(instance))
    )
