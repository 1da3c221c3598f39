"""C-ECHO: is the peer there, and does it accept us? (PS3.4 annex A, PS3.7 section 9.1.5)"""

from __future__ import annotations

import time

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import ContextRejectedError
from pacs_tasks.outcome import EchoOutcome

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
#: What any peer should accept: enough to see that it takes our association.
VERIFICATION_CONTEXT = Context(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))


def echo(local: LocalAE, remote: RemoteAE, timeouts: Timeouts, stop: StopCheck | None = None) -> EchoOutcome:
    """Open an association, ask for an echo, release.

    Raises
    ------
    PeerUnavailableError, AssociationRejectedError
        As :meth:`Association.open`.
    ContextRejectedError
        If the peer accepts the association and refuses Verification.
    """
    started = time.monotonic()
    with Association.open(local, remote, [VERIFICATION_CONTEXT], timeouts, stop) as assoc:
        if not assoc.accepted_contexts:
            raise ContextRejectedError(
                f"{remote} accepts the association and refuses C-ECHO; ask its administrator to allow "
                f"Verification for {local.ae_title}"
            )
        (context_id,) = assoc.accepted_contexts.values()
        with assoc.exchange() as message_id:
            assoc.send(
                context_id,
                command.encode(
                    {
                        command.AFFECTED_SOP_CLASS_UID: VERIFICATION,
                        command.COMMAND_FIELD: command.C_ECHO_RQ,
                        command.MESSAGE_ID: message_id,
                    },
                    data_set=False,
                ),
            )
            answer, code = assoc.receive_response(context_id, message_id, command.C_ECHO_RQ)
        seconds = time.monotonic() - started
    return EchoOutcome(status=status.echo_status(code, answer.text(command.ERROR_COMMENT)), seconds=seconds)
