"""Which presentation contexts a :class:`~pacs_tasks.testing.TestPACS` accepts (PS3.8 section 9.3.3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import (
    NonPatientObjectStorageServiceClass,
    QueryRetrieveServiceClass,
    ServiceClass,
    StorageServiceClass,
    VerificationServiceClass,
)
from pynetdicom.service_class_n import StorageCommitmentServiceClass
from pynetdicom.sop_class import uid_to_service_class

from pacs_tasks.testing.faults import Faults

_PATIENT_ROOT: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_STUDY_ROOT: Final = ("STUDY", "SERIES", "IMAGE")
#: The levels of each information model: find, move and get (PS3.4 section C.6).
QUERY_RETRIEVE_LEVELS: Final = {
    "1.2.840.10008.5.1.4.1.2.1.1": _PATIENT_ROOT,
    "1.2.840.10008.5.1.4.1.2.1.2": _PATIENT_ROOT,
    "1.2.840.10008.5.1.4.1.2.1.3": _PATIENT_ROOT,
    "1.2.840.10008.5.1.4.1.2.2.1": _STUDY_ROOT,
    "1.2.840.10008.5.1.4.1.2.2.2": _STUDY_ROOT,
    "1.2.840.10008.5.1.4.1.2.2.3": _STUDY_ROOT,
}


def _serves(sop_class_uid: str) -> bool:
    service = uid_to_service_class(sop_class_uid)
    if service is QueryRetrieveServiceClass:
        return sop_class_uid in QUERY_RETRIEVE_LEVELS
    # The base class stands for what pynetdicom does not know: private SOP classes, and those newer than it.
    return service in {
        VerificationServiceClass,
        StorageServiceClass,
        NonPatientObjectStorageServiceClass,
        StorageCommitmentServiceClass,
        ServiceClass,
    }


def supported(proposed: Sequence[PresentationContext], faults: Faults) -> list[PresentationContext]:
    """What to accept of a proposal: all that is served and that no fault refuses, in both roles.

    Of several transfer syntaxes in one context the one named first wins.
    """
    syntaxes: dict[str, list[str]] = {}
    for cx in proposed:
        sop_class = str(cx.abstract_syntax)
        if _serves(sop_class) and sop_class not in faults.refused_sop_classes:
            wanted = (str(each) for each in cx.transfer_syntax)
            syntaxes.setdefault(sop_class, []).extend(
                each for each in wanted if each not in faults.refused_transfer_syntaxes
            )
    return [_context(sop_class, list(dict.fromkeys(some))) for sop_class, some in syntaxes.items()]


def _context(sop_class: str, transfer_syntaxes: list[str]) -> PresentationContext:
    cx = PresentationContext()
    cx.abstract_syntax = sop_class
    for syntax in transfer_syntaxes:
        cx.add_transfer_syntax(syntax)
    cx.scu_role = True
    cx.scp_role = True
    return cx
