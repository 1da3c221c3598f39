"""Receive one C-STORE request: write the instance to disk and respond (PS3.4 section B.2.3). C-GET uses it too."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import MalformedError
from pacs_tasks.dimse.files.storage import IncomingFile, OtherInstanceError
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command, MessageStream
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome

log = logging.getLogger(__name__)

SUCCESS = 0x0000
#: Refused: Not Authorized (PS3.7 section 9.1.1.1.9 and annex C).
NOT_AUTHORISED = 0x0124
_SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
_DOES_NOT_MATCH = 0xA900
_CANNOT_UNDERSTAND = 0xC000
_REST = "the rest of an instance"


@dataclass(frozen=True)
class Refusal:
    """The reason for which an instance is not kept, as sent to the remote."""

    #: Any status but success.
    code: int
    #: At most 64 characters: Error Comment is of VR LO (PS3.7 section C.4.2).
    comment: str


@dataclass(frozen=True)
class Arrival:
    """An instance that is complete on disk, under a temporary path."""

    #: Study and series UID are empty if it has none.
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    #: Its temporary path.
    path: Path
    #: Whether a C-MOVE caused the sending: the remote gave a Move Originator Application Entity Title, (0000,1030),
    #: which is optional (PS3.7 section 9.1.1.1.6).
    moved: bool


@dataclass(frozen=True)
class Placed:
    """An instance that the caller has already moved to its final path."""

    path: Path


#: Gives the final path of an instance below the directory, or moves it there itself, or refuses it.
Place = Callable[[Arrival], Path | Placed | Refusal]


@dataclass(frozen=True)
class Origin:
    """The sender of instances, which ``remote`` names in logs, and their destination.

    Without ``place`` each instance goes to ``<directory>/<study>/<series>/<instance>.dcm``.
    """

    directory: Path
    calling_aet: str
    remote: str
    place: Place | None = None
    #: Who writes, in the names of unfinished files.
    owner: str = ""


def receive(
    stream: MessageStream, context_id: int, request: Command, pair: tuple[str, str], origin: Origin
) -> InstanceOutcome:
    """Write the data set of a C-STORE request to disk as it arrives, and respond.

    The response is success only once the file has its final path. An instance that cannot be written is received to its
    end and refused.

    Parameters
    ----------
    pair
        SOP class and transfer syntax of the presentation context.

    Raises
    ------
    PeerUnavailableError
        If the association is lost. No file is left behind.
    """
    sop_class_uid = request.text(command.AFFECTED_SOP_CLASS_UID)
    sop_instance_uid = request.text(command.AFFECTED_SOP_INSTANCE_UID)
    sop_class, syntax = pair
    size, path, refusal = 0, "", None
    if sop_class != sop_class_uid:
        _drain(stream, context_id, request)
        refusal = Refusal(_SOP_CLASS_NOT_SUPPORTED, "not the SOP class of the presentation context")
    elif not request.has_data_set:
        refusal = Refusal(_CANNOT_UNDERSTAND, "the request has no data set")
    else:
        moved = bool(request.text(command.MOVE_ORIGINATOR_AE_TITLE))
        size, path, refusal = _to_disk(stream, context_id, origin, (sop_class_uid, sop_instance_uid, syntax), moved)
    stream.send(context_id, _response(request, refusal))
    final = None
    if refusal is not None:
        # Unauthorised instances may arrive by the thousand, and `place` counts them.
        level = logging.DEBUG if refusal.code == NOT_AUTHORISED else logging.WARNING
        log.log(level, "An instance from %s was refused (%04X): %s.", origin.remote, refusal.code, refusal.comment)
        final = status.store_status(refusal.code, refusal.comment)
    return InstanceOutcome(
        subject=sop_instance_uid,
        category=InstanceCategory.FAILED if refusal else InstanceCategory.SUCCESS,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=syntax,
        path=path,
        status=final,
        reason=refusal.comment if refusal else "",
        size=size,
    )


def _to_disk(
    stream: MessageStream, context_id: int, origin: Origin, uids: tuple[str, str, str], moved: bool
) -> tuple[int, str, Refusal | None]:
    """Give the size and the path of the file, or the refusal."""
    refusal = None
    with contextlib.ExitStack() as stack:
        file = None
        try:
            file = IncomingFile(
                origin.directory,
                sop_class_uid=uids[0],
                sop_instance_uid=uids[1],
                transfer_syntax_uid=uids[2],
                calling_aet=origin.calling_aet,
                owner=origin.owner,
            )
            # It does nothing after the file has its final path.
            stack.callback(file.discard)
        except OSError as error:
            refusal = _unwritable(error)
        for chunk in stream.receive_data(context_id, _REST):
            if file is not None and refusal is None:
                try:
                    file.write(chunk)
                except OSError as error:
                    refusal = _unwritable(error)
                    file.discard()
        if file is None or refusal is not None:
            return 0, "", refusal
        placed = _placed(file, origin, uids[1], moved)
        return (0, "", placed) if isinstance(placed, Refusal) else (file.size, str(placed), None)


def _placed(file: IncomingFile, origin: Origin, sop_instance_uid: str, moved: bool) -> Path | Refusal:
    """Move a complete file to its final path; give that path or the refusal."""
    try:
        study_uid, series_uid = file.belongs_to()
        place = (
            origin.place(Arrival(study_uid, series_uid, sop_instance_uid, file.path, moved)) if origin.place else None
        )
        if isinstance(place, Refusal):
            return place
        return file.moved(place.path) if isinstance(place, Placed) else file.finish(place)
    except OSError as error:
        return _unwritable(error)
    except MalformedError:
        return Refusal(_CANNOT_UNDERSTAND, "the data set is unreadable or names no SOP instance")
    except OtherInstanceError:
        return Refusal(_DOES_NOT_MATCH, "the data set is of another SOP instance than the request")
    except InvalidRequestError:
        return Refusal(_CANNOT_UNDERSTAND, "a UID of the instance breaks PS3.5 section 9.1")


def _drain(stream: MessageStream, context_id: int, request: Command) -> None:
    if request.has_data_set:
        for _ in stream.receive_data(context_id, _REST):
            pass


def _unwritable(error: OSError) -> Refusal:
    full = error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
    what = "no space left on the receiver's disk" if full else f"cannot write: {error.strerror or 'I/O error'}"
    return Refusal(OUT_OF_RESOURCES, what[:64])


def _response(request: Command, refusal: Refusal | None) -> bytes:
    return command.encode(
        {
            command.AFFECTED_SOP_CLASS_UID: request.text(command.AFFECTED_SOP_CLASS_UID),
            command.COMMAND_FIELD: command.C_STORE_RQ | command.RESPONSE,
            command.MESSAGE_ID_RESPONDED_TO: request.number(command.MESSAGE_ID) or 0,
            command.STATUS: refusal.code if refusal else SUCCESS,
            command.ERROR_COMMENT: refusal.comment if refusal else "",
            command.AFFECTED_SOP_INSTANCE_UID: request.text(command.AFFECTED_SOP_INSTANCE_UID),
        },
        data_set=False,
    )
