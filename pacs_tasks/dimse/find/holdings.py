"""Which instances of a series does a peer hold? C-FIND at IMAGE level, for their UIDs alone (PS3.4 section C.4.1).

Asked for nothing else, a peer answers from its index: with more keys, some read each file for it.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Collection

from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    MalformedError,
    read_uids,
)
from pacs_tasks.dimse.find import query
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.outcome import Status, StatusCategory
from pacs_tasks.request import Level, QueryModel

log = logging.getLogger(__name__)

_QUERY_RETRIEVE_LEVEL = 0x0008_0052
_SOP_CLASS = query.FIND[QueryModel.STUDY_ROOT]
#: Every peer has the default transfer syntax (PS3.5 section 10.1), and only it holds a UI value above 64 KiB.
CONTEXT = Context(_SOP_CLASS, (IMPLICIT_VR_LITTLE_ENDIAN,))


def held(
    assoc: Association, study_uid: str, series_uid: str, asked: Collection[str], *, by_name: bool
) -> tuple[Status, set[str]]:
    """Ask which instances of a series the peer lists; the final status, and those of ``asked`` that it listed.

    Parameters
    ----------
    study_uid, series_uid
        Hierarchical search needs both (PS3.4 section C.4.1.2.1); empty ones leave it to the peer what to make of it.
    by_name
        Ask for these instances by a list of their UIDs (PS3.4 section C.2.2.2.2), else for all of the series.

    Raises
    ------
    PeerUnavailableError
        If the association is lost before the final status.
    ContextRejectedError
        If the peer does not offer the query.
    """
    context_id, _ = query.accepted_context(assoc, _SOP_CLASS)
    found: set[str] = set()
    with assoc.exchange() as message_id:
        named = "\\".join(sorted(asked)) if by_name else ""
        assoc.send(context_id, _request(message_id), _identifier(study_uid, series_uid, named))
        while True:
            answer, code = assoc.receive_response(context_id, message_id, command.C_FIND_RQ)
            content = assoc.receive_data(context_id, "the rest of a match") if answer.has_data_set else b""
            said = status.find_status(code, answer.text(command.ERROR_COMMENT))
            if said.category is not StatusCategory.PENDING:
                return said, found
            uid = _uid_of(content)
            # Only what was asked for counts, whatever else the peer may list.
            if uid in asked:
                found.add(uid)


def _request(message_id: int) -> bytes:
    return command.encode(
        {
            command.AFFECTED_SOP_CLASS_UID: _SOP_CLASS,
            command.COMMAND_FIELD: command.C_FIND_RQ,
            command.MESSAGE_ID: message_id,
            command.PRIORITY: command.MEDIUM,
        },
        data_set=True,
    )


def _identifier(study_uid: str, series_uid: str, sop_instance_uids: str) -> bytes:
    values = {
        SOP_INSTANCE_UID: sop_instance_uids,
        _QUERY_RETRIEVE_LEVEL: str(Level.IMAGE),
        STUDY_INSTANCE_UID: study_uid,
        SERIES_INSTANCE_UID: series_uid,
    }
    parts = []
    for tag, value in sorted(values.items()):
        text = value.encode("ascii", "replace")
        if len(text) % 2:
            text += b" " if tag == _QUERY_RETRIEVE_LEVEL else b"\0"
        parts.append(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(text)) + text)
    return b"".join(parts)


def _uid_of(match: bytes) -> str:
    try:
        return read_uids(match, IMPLICIT_VR_LITTLE_ENDIAN, (SOP_INSTANCE_UID,)).get(SOP_INSTANCE_UID, "")
    except MalformedError:
        log.warning("a match could not be read and does not count")
        return ""
