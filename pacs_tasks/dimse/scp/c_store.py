"""Receive one C-STORE request: write the instance to disk and respond (PS3.4 section B.2.3). C-GET uses it too."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pacs_tasks.ae import is_loopback, plain_address
from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import MalformedError
from pacs_tasks.dimse.files.final_name import Placed
from pacs_tasks.dimse.files.label import MislabelledError
from pacs_tasks.dimse.files.storage import IncomingFile, OtherInstanceError, breaks_rules
from pacs_tasks.dimse.scp.admission import Sparing
from pacs_tasks.dimse.scp.limits import NO_LIMITS, Intake, LimitError
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command, MessageStream
from pacs_tasks.dimse.upper_layer.wire import Wire
from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome

log = logging.getLogger(__name__)
_sparing = Sparing(log)

SUCCESS = 0x0000
#: Refused: Not Authorized (PS3.7 section 9.1.1.1.9 and annex C).
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES = 0xA700
_DOES_NOT_MATCH = 0xA900
_CANNOT_UNDERSTAND = 0xC000
_REST = "the rest of an instance"
_LOOPBACK = frozenset(("127.0.0.1", "::1"))


@dataclass(frozen=True)
class Refusal:
    """The reason for which an instance is not kept, as sent to the remote."""

    #: Any status but success.
    code: int
    #: At most 64 characters: Error Comment is of VR LO (PS3.7 section C.4.2).
    comment: str
    #: Such instances may come by the thousand, and ``place`` counts them.
    counted: bool = False


class Sender(NamedTuple):
    """The requestor of an association.

    ``local`` means that it runs on this machine: it comes from the loopback address, or from the very address of this
    machine that it called. ``certificate`` holds the marks of its verified certificate, nothing where it showed none.
    """

    address: str
    calling_aet: str
    local: bool = False
    certificate: tuple[str, ...] = ()


def sender_of(wire: Wire, calling_aet: str) -> Sender:
    """Give the requestor of an accepted association."""
    theirs, ours = (plain_address(each) for each in wire.addresses())
    own = theirs == ours and not is_loopback(theirs) if theirs else False
    return Sender(theirs, calling_aet, theirs in _LOOPBACK or own, wire.certificate_marks())


class Originator(NamedTuple):
    """The AE that requested the C-MOVE, and the message id of that request (PS3.7 sections 9.1.1.1.6, 9.1.1.1.7)."""

    ae_title: str
    message_id: int | None = None


def _originator_of(request: Command) -> Originator | None:
    """Give the Move Originator of a C-STORE request; not every remote names it."""
    ae_title = request.text(command.MOVE_ORIGINATOR_AE_TITLE)
    return Originator(ae_title, request.number(command.MOVE_ORIGINATOR_MESSAGE_ID)) if ae_title else None


@dataclass(frozen=True)
class Arrival:
    """An instance that is complete on disk, under a temporary path."""

    #: Study and series UID are empty if it has none.
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    #: Its temporary path.
    path: Path
    #: Who called us to send it; nothing where we called.
    sender: Sender | None = None
    #: It is optional.
    originator: Originator | None = None


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
    #: Study and series that were requested, for instances that cannot be read so far.
    study_uid: str = ""
    series_uid: str = ""
    #: What the association may bring; None is anything.
    intake: Intake | None = None
    #: Who called us; nothing where we called.
    sender: Sender | None = None
    #: Whether the directory must not have a link in its path: it had none when it was resolved.
    strict: bool = False

    def warning(self, message: str, *values: object) -> None:
        """Log a warning about an instance. Senders decide how many there are, so the log gets a few a minute."""
        _sparing.warning(self.sender.address if self.sender else self.remote, message, self.remote, *values)


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
    sop_class, syntax = pair
    sop_class_uid = request.text(command.AFFECTED_SOP_CLASS_UID) or sop_class
    sop_instance_uid = request.text(command.AFFECTED_SOP_INSTANCE_UID)
    kept: _Kept | Refusal = Refusal(_CANNOT_UNDERSTAND, "the request has no data set")
    if request.has_data_set:
        uids = sop_class_uid, sop_instance_uid, syntax
        kept = _to_disk(stream, context_id, origin, uids, _originator_of(request))
    code, comment = (kept.code, kept.comment) if isinstance(kept, Refusal) else (SUCCESS, "")
    more = {command.ERROR_COMMENT: comment, command.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid}
    stream.respond(context_id, request, code, more)
    outcome = partial(
        InstanceOutcome, subject=sop_instance_uid, sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid
    )
    if isinstance(kept, Refusal):
        if not kept.counted:
            origin.warning("An instance from %s was refused (%04X): %s.", kept.code, kept.comment)
        final = status.store_status(kept.code, kept.comment)
        return outcome(category=InstanceCategory.FAILED, transfer_syntax_uid=syntax, status=final, reason=kept.comment)
    remarks = kept.remarks
    if sop_class != sop_class_uid:
        remarks += ("it came in a presentation context of another SOP class",)
    if remarks:
        origin.warning("An instance from %s was kept although %s.", " and ".join(remarks))
    return outcome(
        category=InstanceCategory.WARNING if remarks else InstanceCategory.SUCCESS,
        transfer_syntax_uid=kept.transfer_syntax_uid,
        path=str(kept.path),
        reason=f"It was kept although {' and '.join(remarks)}." if remarks else "",
        size=kept.size,
    )


class _Kept(NamedTuple):
    """An instance that has its final path, and what is wrong with it."""

    path: Path
    size: int
    transfer_syntax_uid: str
    remarks: tuple[str, ...]


def _to_disk(
    stream: MessageStream, context_id: int, origin: Origin, uids: tuple[str, str, str], originator: Originator | None
) -> _Kept | Refusal:
    """Write an instance, and give what was kept or the refusal."""
    intake = origin.intake or Intake(NO_LIMITS, stream.wire)
    intake.begin()
    with contextlib.ExitStack() as stack:
        file: IncomingFile | Refusal
        try:
            file = IncomingFile(
                origin.directory,
                sop_class_uid=uids[0],
                sop_instance_uid=uids[1],
                transfer_syntax_uid=uids[2],
                calling_aet=origin.calling_aet,
                owner=origin.owner,
                strict=origin.strict,
            )
            # It does nothing after the file has its final path.
            stack.callback(file.discard)
        except OSError as error:
            file = _unwritable(error)
        for chunk in stream.receive_data(context_id, _REST):
            if isinstance(file, Refusal):
                intake.drain(len(chunk))
                continue
            try:
                intake.take(len(chunk))
                file.write(chunk)
            except (OSError, LimitError) as error:
                file.discard()
                file = _unwritable(error)
        return file if isinstance(file, Refusal) else _placed(file, origin, uids[1], originator)


def _placed(
    file: IncomingFile, origin: Origin, sop_instance_uid: str, originator: Originator | None
) -> _Kept | Refusal:
    """Move a complete file to its final path; give what was kept or the refusal."""
    try:
        study_uid, series_uid = file.belongs_to(origin.study_uid, origin.series_uid)
        if breaks_rules(study_uid, series_uid, sop_instance_uid):
            file.remarks.append("a UID breaks PS3.5 section 9.1")
        arrival = Arrival(study_uid, series_uid, sop_instance_uid, file.path, origin.sender, originator)
        place = origin.place(arrival) if origin.place else None
        if isinstance(place, Refusal):
            return place
        if isinstance(place, Placed):
            path = file.moved(place.path)
            file.remarks += [place.remark] if place.remark else []
        else:
            path = file.finish(place)
        return _Kept(path, file.size, file.transfer_syntax_uid, tuple(file.remarks))
    except OSError as error:
        return _unwritable(error)
    except (InvalidRequestError, MalformedError, OtherInstanceError) as error:
        return _REFUSALS[type(error)]


_REFUSALS: Mapping[type[Exception], Refusal] = {
    InvalidRequestError: Refusal(_CANNOT_UNDERSTAND, "a UID of the instance breaks PS3.5 section 9.1"),
    MalformedError: Refusal(_CANNOT_UNDERSTAND, "the data set is unreadable or names no SOP instance"),
    MislabelledError: Refusal(_CANNOT_UNDERSTAND, "compressed pixel data in an uncompressed transfer syntax"),
    OtherInstanceError: Refusal(_DOES_NOT_MATCH, "the data set is of another SOP instance than the request"),
}


def _unwritable(error: OSError | LimitError) -> Refusal:
    if isinstance(error, LimitError):
        return Refusal(OUT_OF_RESOURCES, str(error))
    full = error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
    what = "no space left on the receiver's disk" if full else f"cannot write: {error.strerror or 'I/O error'}"
    return Refusal(OUT_OF_RESOURCES, what[:64])
