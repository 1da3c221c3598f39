"""What is too long, out of turn or without meaning on an open association: it ends there, on either side."""

from __future__ import annotations

import struct

from pacs_tasks.dimse.c_echo import VERIFICATION
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse
from tests.support import messages, peculiar
from tests.support.messages import CT, EXPLICIT, IMPLICIT

UID = "1.2.3"
DATA_SET = peculiar.data_set(b"1.2.3\0")
STORE = messages.message(messages.store_request(UID), DATA_SET)
ECHO: dict[int, int | str] = {
    command.AFFECTED_SOP_CLASS_UID: VERIFICATION,
    command.COMMAND_FIELD: command.C_ECHO_RQ,
    command.MESSAGE_ID: 7,
}
#: What we accept of it: 1 and 5, not 3.
REQUEST = messages.association_request(
    16_384, (CT, EXPLICIT), ("1.2.840.10008.5.1.4.1.2.2.1", IMPLICIT), (CT, IMPLICIT)
)

#: What ends an accepted association.
OUT_OF_TURN = {
    "type 0": messages.pdu(0, b"abcd"),
    "type 8": messages.pdu(8, b"abcd"),
    "type 255": messages.pdu(255, b""),
    "a length of 4 GB": b"\4\0\xff\xff\xff\xff" + bytes(100),
    "a length above the maximum": struct.pack(">BxL", 4, (1 << 20) + 1),
    "an association request": REQUEST,
    "an acceptance": acse.encode_accept(acse.AssociateAccept({}), acse.AssociateRequest("A", "B", ())),
    "a rejection": acse.encode_reject(1, 1, 1),
    "an agreement to a release": messages.RELEASED,
    "a P-DATA-TF without a PDV": messages.pdu(4, b""),
    "a PDV that is too long": messages.pdu(4, struct.pack(">LBB", 100, 1, 3) + b"x"),
    "a PDV that is too short": messages.pdu(4, struct.pack(">LBB", 1, 1, 3)),
    "a PDV that is too short for its instance": messages.message(messages.store_request(UID))
    + messages.pdu(4, struct.pack(">LBB", len(DATA_SET) - 3, 1, 2) + DATA_SET),
    "a context that was not proposed": messages.message(messages.store_request(UID), DATA_SET, 7),
    "a context with an even id": messages.message(messages.store_request(UID), DATA_SET, 2),
    "context 0": messages.message(command.encode(ECHO, data_set=False), None, 0),
    "a context that was refused": messages.message(command.encode(ECHO, data_set=False), None, 3),
    "a data set without a command set": messages.p_data(messages.pdv(2, DATA_SET)),
    "a command set in two contexts": messages.p_data(messages.pdv(1, b"\0" * 8), messages.pdv(3, b"\0" * 8, 5)),
    "a data set in another context": messages.message(messages.store_request(UID))
    + messages.p_data(messages.pdv(2, DATA_SET, 5)),
    "two command sets": messages.message(messages.store_request(UID)) * 2,
    "a command set without end": messages.p_data(messages.pdv(1, bytes(60_000))) * 2,
    "a command set that is cut off": messages.message(messages.store_request(UID)[:-3]),
    "a response": messages.message(messages.response(command.C_STORE_RQ, 0)),
    "a message without a command": messages.message(command.encode({command.MESSAGE_ID: 1}, data_set=False)),
}


def long_uid(number: int) -> str:
    """A UID of 64 characters."""
    return f"2.25.{number + 1}" + "7" * (59 - len(str(number + 1)))


def long_lists() -> tuple[acse.ProposedContext, ...]:
    """128 contexts with forty transfer syntaxes of 64 characters each."""
    return tuple(
        acse.ProposedContext(
            2 * number + 1, long_uid(number), tuple(long_uid(1_000 * number + each) for each in range(40))
        )
        for number in range(128)
    )
