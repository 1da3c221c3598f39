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

from pacs_tasks.ae import TLS, RemoteAE
from pacs_tasks.testing.admission import SLICE
from pacs_tasks.testing.connections import Caller, Listener, close, context_of, let_go
from pacs_tasks.testing.faults import Faults
from pacs_tasks.testing.instances import StoredBytes
from pacs_tasks.testing.services import Services

_VERIFICATION = "1.2.840.10008.1.1"


class TestPACS(Services):
    """A PACS that keeps what it is sent, answers queries and delivers, exactly to the byte.

    C-ECHO; C-STORE of every storage class, private ones too, in every transfer syntax proposed; C-FIND in Patient Root
    and Study Root at every level; C-MOVE to known destinations; C-GET;
    storage commitment, on which it reports to known destinations.

    Parameters
    ----------
    ae_title
        Its AE title.
    directory
        Where to keep instances, as DICOM files; None keeps them in memory.
    instances
        What it holds from the start: paths of DICOM files, which stay where they are, or pydicom data sets.
    destinations
        Host and port of each AE that C-MOVE may deliver to; the attribute of this name may be changed at any time.
    faults
        What it does wrong; the attribute of this name may be replaced at any time.
    host, port
        Where to listen; port 0 takes a free one.
    tls
        Its certificate and key: it takes nothing but TLS then. With ``ca_file`` callers need a certificate that these
        authorities have signed. It delivers unencrypted all the same (C-MOVE).

    Attributes
    ----------
    stores
        SOP Instance UIDs of all C-STORE requests that came whole, in order, whatever was answered.
    calling_aets
        AE titles of all association requests, in order.
    identifiers
        Identifiers of all C-FIND, C-MOVE and C-GET requests, in order.
    transactions
        SOP Instance UIDs of each request for storage commitment, in order.
    report_statuses
        What each of its reports about them was answered, in order; None where there was no answer.
    associations
        How many associations have been accepted so far.
    most_associations
        How many of them were open at once at most.

    Examples
    --------
    >>> from pynetdicom import AE
    >>> with TestPACS(ae_title="ARCHIVE") as pacs:
    ...     assoc = AE().associate(pacs.host, pacs.port, [build_context("1.2.840.10008.1.1")])
    ...     assoc.send_c_echo().Status
    ...     assoc.release()
    0
    """

    __test__ = False  # pytest must not take it for a test

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
        """Hold these as well, as if they had just been sent from elsewhere."""
        self._hold(map(_stored, instances))

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._running is None:
            raise RuntimeError("the TestPACS has not been started: use it in a with statement")
        return int(self._running[0].server_address[1])

    @property
    def remote(self) -> RemoteAE:
        """The peer to call; over TLS it is known by its own certificate, which must be for ``host``."""
        tls = None if self._tls is None else TLS(ca_file=self._tls.certificate_file)
        return RemoteAE(ae_title=self.ae_title, host=self.host, port=self.port, tls=tls)

    @property
    def open_associations(self) -> int:
        """How many associations are open now."""
        if self._running is None:
            return 0
        return sum(assoc.is_established for assoc in self._running[0].active_associations)

    def start(self) -> None:
        """Listen; it answers when this returns."""
        self._stopping.clear()
        ae = Caller(ae_title=self.ae_title)
        ae.maximum_associations = 10_000
        ae.maximum_pdu_size = self.faults.max_pdu_size
        ae.connection_timeout = 10
        # Negotiation replaces these with what each caller proposes; pynetdicom wants at least one to listen at all.
        contexts = [build_context(_VERIFICATION)]
        context = None if self._tls is None else context_of(self._tls)
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
            reporting, self._reporting = list(self._reporting), set()
        for assoc in known:
            close(assoc)
        for each in (thread, *known, *(assoc.dul for assoc in known), *reporting):
            if each.ident is not None:
                each.join(max(0.0, deadline - time.monotonic()))
            if each.is_alive():
                raise TimeoutError(f"a thread of {self.ae_title} has not ended within {timeout} s: {each.name}")
        for assoc in known:
            let_go(assoc)

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
