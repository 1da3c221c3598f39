"""What an A-ASSOCIATE-RJ means (PS3.8 section 9.3.4), as a sentence with a next step."""

from __future__ import annotations

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.errors import AssociationError, AssociationRejectedError, PeerBusyError

_PERMANENT = 1
_SERVICE_USER, _ACSE_PROVIDER, _PRESENTATION_PROVIDER = 1, 2, 3


def rejected(content: bytes, local: LocalAE, remote: RemoteAE) -> AssociationError:
    """Give the error for the content of an A-ASSOCIATE-RJ.

    A rejection is permanent when the peer says so and its reason is not one that passes: some call "local limit
    exceeded" permanent.
    """
    result, source, reason = content[1:4] if len(content) >= 4 else (_PERMANENT, _SERVICE_USER, 1)
    why = _reason(source, reason, local, remote)
    if result == _PERMANENT and source != _PRESENTATION_PROVIDER:
        return AssociationRejectedError(f"{remote} refuses the association: {why}")
    return PeerBusyError(f"{remote} refuses the association for now: {why}")


def _reason(source: int, reason: int, local: LocalAE, remote: RemoteAE) -> str:
    ask = "its administrator can tell more"
    known = {
        (_SERVICE_USER, 2): f"it does not support DICOM's application context; check that it is a PACS, or {ask}",
        (_SERVICE_USER, 3): (
            f"it does not recognise our calling AE title {local.ae_title!r}; check --ae-title, or ask its "
            "administrator to add this AE title with the address of this machine"
        ),
        (_SERVICE_USER, 7): f"it does not answer to the called AE title {remote.ae_title!r}; check --pacs-ae-title",
        (_ACSE_PROVIDER, 2): f"it does not support this version of the protocol; {ask}",
        (_PRESENTATION_PROVIDER, 1): "temporary congestion; try again later",
        (_PRESENTATION_PROVIDER, 2): (
            "local limit exceeded, it has too many associations open; try again later, or with fewer workers"
        ),
    }
    return known.get((source, reason), f"no reason given; check --ae-title and --pacs-ae-title, or {ask}")
