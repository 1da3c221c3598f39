"""Who sends an instance: what an association proves about its requestor, and the Move Originator of a C-STORE."""

from __future__ import annotations

from typing import NamedTuple

from pacs_tasks.ae import is_loopback, plain_address
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.wire import Wire

LOOPBACK = frozenset(("127.0.0.1", "::1"))


class Sender(NamedTuple):
    """The requestor of an association.

    ``local`` means that it runs on this machine: it comes from the loopback address, or from the very address of this
    machine that it called. ``certificate`` holds the marks of its verified certificate, nothing where it showed none.
    """

    address: str
    calling_aet: str
    local: bool = False
    certificate: tuple[str, ...] = ()


class Originator(NamedTuple):
    """The AE that requested the C-MOVE, and the message id of that request (PS3.7 sections 9.1.1.1.6, 9.1.1.1.7)."""

    ae_title: str
    message_id: int | None = None


def sender_of(wire: Wire, calling_aet: str) -> Sender:
    """Give the requestor of an accepted association."""
    theirs, ours = (plain_address(each) for each in wire.addresses())
    own = theirs == ours and not is_loopback(theirs) if theirs else False
    return Sender(theirs, calling_aet, theirs in LOOPBACK or own, wire.certificate_marks())


def originator_of(request: Command) -> Originator | None:
    """Give the Move Originator of a C-STORE request; not every remote names it."""
    ae_title = request.text(command.MOVE_ORIGINATOR_AE_TITLE)
    if not ae_title:
        return None
    return Originator(ae_title, request.number(command.MOVE_ORIGINATOR_MESSAGE_ID))
