"""C-ECHO: verify that a remote responds and accepts our association (PS3.4 annex A, PS3.7 section 9.1.5)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.outcome import EchoOutcome, OfferedService

VERIFICATION = str(Verification)
#: Any remote should accept it, so it shows whether the remote accepts our association.
VERIFICATION_CONTEXT = Context(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))
#: The services that pacs-tasks uses, each with a SOP class that stands for it.
SERVICES: Mapping[str, str] = MappingProxyType(
    {
        "C-STORE": str(CTImageStorage),
        "C-FIND": str(StudyRootQueryRetrieveInformationModelFind),
        "C-MOVE": str(StudyRootQueryRetrieveInformationModelMove),
        "C-GET": str(StudyRootQueryRetrieveInformationModelGet),
        "worklist": str(ModalityWorklistInformationFind),
        "storage commitment": str(StorageCommitmentPushModel),
    }
)


def echo(
    local: LocalAE,
    remote: RemoteAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    *,
    services: bool = False,
) -> EchoOutcome:
    """Open an association, send a C-ECHO request and release.

    Parameters
    ----------
    services
        Also propose a context for each of :data:`SERVICES`, to report which the remote accepts.

    Raises
    ------
    PeerUnavailableError, AssociationRejectedError
        As :meth:`Association.open`.
    ContextRejectedError
        If the remote accepts the association but not Verification.
    """
    started = time.monotonic()
    wanted = SERVICES if services else {}
    contexts = [VERIFICATION_CONTEXT, *(Context(uid, (IMPLICIT_VR_LITTLE_ENDIAN,)) for uid in wanted.values())]
    with Association.open(local, remote, contexts, timeouts, stop) as assoc:
        verification = assoc.context_of(VERIFICATION)
        if verification is None:
            raise ContextRejectedError(
                f"{remote} accepted the association but not C-ECHO. Ask its administrator to allow Verification for "
                f"{local.ae_title}."
            )
        context_id, _ = verification
        with assoc.exchange(command.C_ECHO_RQ) as message_id:
            assoc.request(context_id, command.C_ECHO_RQ, message_id)
            response, code = assoc.receive_response(context_id, message_id, command.C_ECHO_RQ)
        seconds = time.monotonic() - started
    return EchoOutcome(
        status=status.echo_status(code, response.text(command.ERROR_COMMENT)),
        seconds=seconds,
        services=tuple(
            OfferedService(name=name, accepted=assoc.context_of(uid) is not None) for name, uid in wanted.items()
        ),
        max_pdu=assoc.max_length if services else None,
    )
