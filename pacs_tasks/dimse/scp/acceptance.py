"""Which presentation contexts a Storage SCP accepts (PS3.8 section 9.3.3.2)."""

from __future__ import annotations

from functools import lru_cache

from pydicom.config import IGNORE
from pydicom.uid import UID
from pynetdicom.sop_class import StorageCommitmentPushModel

from pacs_tasks.dimse.c_echo import VERIFICATION
from pacs_tasks.dimse.commitment import REPORT_SYNTAXES
from pacs_tasks.dimse.files.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.upper_layer import pdu as acse

#: Requests that a peer may have under way at once, if it asks.
MOST_OPERATIONS = 64
_LONGEST_UID = 64
#: A DICOMDIR is a file, never sent.
_NEVER_SENT = frozenset(("1.2.840.10008.1.3.10",))


def negotiate(request: acse.AssociateRequest, *, reports: bool = False) -> acse.AssociateAccept:
    """Accept Verification, and every storage class in any transfer syntax: bytes go to disk as they are.

    Parameters
    ----------
    reports
        Also let the peer report as the SCP of storage commitment, that is, with the roles reversed (PS3.7
        section D.3.3.4). One that does not say which role it wants is believed to know what it does.
    """
    _, is_scp = request.roles.get(StorageCommitmentPushModel, (False, True))
    reports = reports and is_scp
    roles = (
        {StorageCommitmentPushModel: (False, True)} if reports and StorageCommitmentPushModel in request.roles else {}
    )
    results = {cx.context_id: _answer(cx, reports) for cx in request.contexts}
    return acse.AssociateAccept(results, roles=roles, operations=_operations(request.operations))


def _operations(proposed: tuple[int, int] | None) -> tuple[int, int] | None:
    """Messages are served one after the other as they come, so the peer may have sent more of them meanwhile."""
    if proposed is None:
        return None
    invoked = proposed[0]
    return (min(invoked, MOST_OPERATIONS) if invoked else MOST_OPERATIONS, 1)


def _answer(cx: acse.ProposedContext, reports: bool) -> tuple[int, str]:
    # What is longer is no UID (PS3.5 section 9.1); a stranger's 64 KiB would stay in our tables and in our files.
    syntaxes = tuple(each for each in cx.transfer_syntaxes if len(each) <= _LONGEST_UID)
    if not syntaxes:
        return acse.TRANSFER_SYNTAXES_NOT_SUPPORTED, IMPLICIT_VR_LITTLE_ENDIAN
    if reports and cx.abstract_syntax == StorageCommitmentPushModel:
        syntax = next((each for each in REPORT_SYNTAXES if each in syntaxes), "")
        return (acse.ACCEPTED, syntax) if syntax else (acse.TRANSFER_SYNTAXES_NOT_SUPPORTED, syntaxes[0])
    known = cx.abstract_syntax == VERIFICATION
    if not known and (len(cx.abstract_syntax) > _LONGEST_UID or not is_storage_class(cx.abstract_syntax)):
        return acse.ABSTRACT_SYNTAX_NOT_SUPPORTED, syntaxes[0]
    return acse.ACCEPTED, _preferred(syntaxes)


def _preferred(syntaxes: tuple[str, ...]) -> str:
    """The peer's first choice; Explicit VR where that is Implicit VR, which forgets what private attributes are."""
    if syntaxes[0] == IMPLICIT_VR_LITTLE_ENDIAN and EXPLICIT_VR_LITTLE_ENDIAN in syntaxes:
        return EXPLICIT_VR_LITTLE_ENDIAN
    return syntaxes[0]


@lru_cache(maxsize=1024)
def is_storage_class(uid: str) -> bool:
    """Whether instances of a SOP class are stored: what the Standard names so, and all that it does not name.

    Private classes, and classes newer than our dictionary, are not in it.
    """
    known = UID(uid, IGNORE)
    if uid in _NEVER_SENT or not uid:
        return False
    if known.name == uid:
        return True
    return known.type == "SOP Class" and "Storage" in known.name and "Storage Commitment" not in known.name
