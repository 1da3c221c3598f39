"""pynetdicom's own service users, as the independent callers of a TestPACS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import build_context

from pacs_tasks.testing import TestPACS
from tests.support import dicom_files

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
PATIENT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
CT_CONTEXT = (CT, [EXPLICIT])


@contextmanager
def associated(
    pacs: TestPACS, *contexts: tuple[str, list[str] | str | None], called_aet: str = "", **options: object
) -> Iterator[Association]:
    """An association of pynetdicom's to the PACS; it may not be established."""
    ae = AE("CALLER")
    ae.acse_timeout = ae.dimse_timeout = 5
    wanted = [build_context(abstract, syntax) for abstract, syntax in contexts or ((VERIFICATION, None),)]
    assoc = ae.associate(pacs.host, pacs.port, wanted, called_aet or pacs.ae_title, **options)  # type: ignore[arg-type]
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


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
