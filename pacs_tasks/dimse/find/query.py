"""The SOP classes of queries and retrieval (PS3.4 sections C.6, K.6), and the answer of a peer that offers none."""

from __future__ import annotations

from collections.abc import Mapping

from pacs_tasks.ae import RemoteAE
from pacs_tasks.dimse.files.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.request import QueryModel

FIND: Mapping[QueryModel, str] = {
    QueryModel.PATIENT_ROOT: "1.2.840.10008.5.1.4.1.2.1.1",
    QueryModel.STUDY_ROOT: "1.2.840.10008.5.1.4.1.2.2.1",
    QueryModel.WORKLIST: "1.2.840.10008.5.1.4.31",
}
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"

_NAMES: Mapping[str, str] = {
    FIND[QueryModel.PATIENT_ROOT]: "C-FIND in the Patient Root model",
    FIND[QueryModel.STUDY_ROOT]: "C-FIND in the Study Root model",
    FIND[QueryModel.WORKLIST]: "a modality worklist",
    STUDY_ROOT_MOVE: "C-MOVE in the Study Root model",
    STUDY_ROOT_GET: "C-GET in the Study Root model",
}
_INSTEAD: Mapping[str, str] = {
    FIND[QueryModel.PATIENT_ROOT]: "ask at STUDY level in the Study Root model, or ask its administrator to allow it",
    FIND[QueryModel.STUDY_ROOT]: (
        "ask at PATIENT level, which uses the other model (at any level: --root patient, or query_model 'patient'), "
        "or ask its administrator to allow it"
    ),
    FIND[QueryModel.WORKLIST]: (
        "worklists are often kept by another system than images: ask the one of the RIS, or ask its administrator to "
        "allow it"
    ),
    STUDY_ROOT_MOVE: "retrieve by C-GET (--method get), or ask its administrator to allow it",
    STUDY_ROOT_GET: "retrieve by C-MOVE (--method move), or ask its administrator to allow it",
}


def find_context(sop_class_uid: str) -> Context:
    """Explicit VR first: only it tells what a private attribute is."""
    return Context(sop_class_uid, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))


def retrieve_context(sop_class_uid: str) -> Context:
    """Every peer has the default syntax (PS3.5 section 10.1), and only it holds a UI value above 64 KiB."""
    return Context(sop_class_uid, (IMPLICIT_VR_LITTLE_ENDIAN,))


def accepted_context(assoc: Association, sop_class_uid: str) -> tuple[int, str]:
    """Give the context id and the transfer syntax in which the peer offers this service.

    Raises
    ------
    ContextRejectedError
        If it does not.
    """
    for (abstract_syntax, syntax), context_id in assoc.accepted_contexts.items():
        if abstract_syntax == sop_class_uid:
            return context_id, syntax
    raise refused(assoc.remote, sop_class_uid)


def refused(remote: RemoteAE, sop_class_uid: str) -> ContextRejectedError:
    """The error to raise when the peer refuses this service."""
    return ContextRejectedError(f"{remote} does not offer {_NAMES[sop_class_uid]}; {_INSTEAD[sop_class_uid]}")
