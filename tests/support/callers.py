"""pynetdicom's own service users, as the independent callers of a TestPACS."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import build_context

from pacs_tasks.testing import TestPACS
from pacs_tasks.testing.association import Caller, close, send_at_once
from tests.support import dicom_files

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
CT_CONTEXT = (CT, [EXPLICIT])


class _Checkpoint(threading.Event):
    """Where pynetdicom's thread beside an association pauses; it cannot be closed while that thread reads."""

    def __init__(self, reading: threading.Lock) -> None:
        super().__init__()
        self._reading = reading
        self.set()

    def clear(self) -> None:
        with self._reading:
            super().clear()


def _take_turns(event: Event) -> None:
    """Keep that thread from taking the answer that a caller waits for.

    A caller closes the checkpoint and looks at a flag that says whether the thread stands there. In pynetdicom 3.0.4
    the flag is still up when the thread has just passed, and then it reads beside the caller. Here it reads under a
    lock and only while the checkpoint is open; the caller closes the checkpoint under the same lock before it sends.
    """
    assoc = event.assoc
    reading = threading.Lock()
    checkpoint = _Checkpoint(reading)
    read = assoc.dimse.get_msg

    def get_msg(block: bool = False) -> object:
        if block:
            return read(block=True)
        with reading:
            return read(block=False) if checkpoint.is_set() else (None, None)

    assoc._reactor_checkpoint = checkpoint
    vars(assoc.dimse)["get_msg"] = get_msg


#: For every association that pynetdicom asks for: the thread beside it starts after this event.
GUARDED: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, send_at_once), (evt.EVT_ESTABLISHED, _take_turns)]


@contextmanager
def associated(
    pacs: TestPACS, *contexts: tuple[str, list[str] | str | None], called_aet: str = "", **options: object
) -> Iterator[Association]:
    """An association of pynetdicom's to the PACS; it may not be established."""
    ae = Caller("CALLER")
    ae.acse_timeout = ae.dimse_timeout = 5
    wanted = [build_context(abstract, syntax) for abstract, syntax in contexts or ((VERIFICATION, None),)]
    handlers = [*GUARDED, *options.pop("evt_handlers", [])]  # type: ignore[misc]
    assoc = ae.associate(
        pacs.host,
        pacs.port,
        wanted,
        called_aet or pacs.ae_title,
        evt_handlers=handlers,
        **options,  # type: ignore[arg-type]
    )
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        assoc.kill()
        close(assoc)


def find(pacs: TestPACS, keys: dict[str, str], level: str = "STUDY", model: str = STUDY_FIND) -> list[Dataset]:
    """The matches of a query that must end with success."""
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    with associated(pacs, (model, None)) as assoc:
        answers = list(assoc.send_c_find(identifier, model))
    assert answers[-1][0].Status == 0x0000
    return [match for status, match in answers if status.Status == 0xFF00 and match is not None]


def retrieve_keys(study: int = 1) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", dicom_files.study_uid(study)
    return keys


def encoded_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return dicom_files.split(buffer.getvalue())


def series(count: int, **attributes: object) -> list[Dataset]:
    return [dicom_files.instance(number, **attributes) for number in range(1, count + 1)]  # type: ignore[arg-type]


def get(
    pacs: TestPACS, roles: Sequence[SCP_SCU_RoleSelectionNegotiation]
) -> tuple[Dataset, Dataset | None, list[bytes]]:
    """C-GET study 1: the final status, its identifier, and the bytes that came."""
    came: list[bytes] = []

    def on_store(event: Event) -> int:
        came.append(event.encoded_dataset(include_meta=False))
        return 0x0000

    handlers = [(evt.EVT_C_STORE, on_store)]
    with associated(pacs, (STUDY_GET, None), CT_CONTEXT, ext_neg=list(roles), evt_handlers=handlers) as assoc:
        *_, (status, identifier) = assoc.send_c_get(retrieve_keys(), STUDY_GET)
    return status, identifier, came
