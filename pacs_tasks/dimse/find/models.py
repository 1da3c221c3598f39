"""The Query/Retrieve information models (PS3.4 section C.6): Study Root and Patient Root.

Some remotes offer Patient Root alone. Where a request names no model, both are proposed, so each association shows
which one to use. Patient Root also needs the Patient ID at the levels below (section C.4.1.2.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pynetdicom.sop_class import (
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from pacs_tasks.dimse.files.elements import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ID,
    QUERY_RETRIEVE_LEVEL,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    encode_implicit,
)
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.request import Level, QueryModel

#: SOP class by query model.
SOPClasses = Mapping[QueryModel, str]
FIND: SOPClasses = {
    QueryModel.STUDY_ROOT: StudyRootQueryRetrieveInformationModelFind,
    QueryModel.PATIENT_ROOT: PatientRootQueryRetrieveInformationModelFind,
    QueryModel.WORKLIST: ModalityWorklistInformationFind,
}
MOVE: SOPClasses = {
    QueryModel.STUDY_ROOT: StudyRootQueryRetrieveInformationModelMove,
    QueryModel.PATIENT_ROOT: PatientRootQueryRetrieveInformationModelMove,
}
GET: SOPClasses = {
    QueryModel.STUDY_ROOT: StudyRootQueryRetrieveInformationModelGet,
    QueryModel.PATIENT_ROOT: PatientRootQueryRetrieveInformationModelGet,
}
_BOTH = (QueryModel.STUDY_ROOT, QueryModel.PATIENT_ROOT)
#: Every remote supports the default transfer syntax (PS3.5 section 10.1), and only it holds a UI value above 64 KiB.
DEFAULT_SYNTAX = (IMPLICIT_VR_LITTLE_ENDIAN,)


def models_of(named: QueryModel | None) -> tuple[QueryModel, ...]:
    """Return the models to propose, the preferred one first: the one that a request names, or both roots."""
    return _BOTH if named is None else (named,)


def contexts_of(
    sop_classes: SOPClasses, models: Sequence[QueryModel], syntaxes: tuple[str, ...] = DEFAULT_SYNTAX
) -> list[Context]:
    """Return the presentation contexts of a service in these models."""
    return [Context(sop_classes[model], syntaxes) for model in models]


def retrieve_contexts(sop_classes: SOPClasses, named: QueryModel | None) -> list[Context]:
    """Return the contexts of C-MOVE or C-GET, and the one in which the Patient ID is queried for Patient Root."""
    models = models_of(named)
    queries = contexts_of(FIND, [model for model in models if model is QueryModel.PATIENT_ROOT])
    return [*contexts_of(sop_classes, models), *queries]


def accepted(
    assoc: Association, sop_classes: SOPClasses, models: Sequence[QueryModel]
) -> tuple[QueryModel, int, str] | None:
    """Return the first of these models that the remote has accepted, with the id and the syntax of its context."""
    for model in models:
        context = assoc.context_of(sop_classes[model])
        if context is not None:
            return model, *context
    return None


def encode_keys(
    level: Level,
    study_uid: str,
    series_uid: str | None = None,
    sop_instance_uids: str | None = None,
    *,
    patient_id: bytes | None = None,
) -> bytes:
    """Encode the level and its unique keys, without those that are None, in Implicit VR Little Endian."""
    values: dict[int, str | bytes | None] = {
        QUERY_RETRIEVE_LEVEL: level.encode(),
        PATIENT_ID: patient_id,
        STUDY_INSTANCE_UID: study_uid,
        SERIES_INSTANCE_UID: series_uid,
        SOP_INSTANCE_UID: sop_instance_uids,
    }
    return encode_implicit({tag: value for tag, value in values.items() if value is not None})
