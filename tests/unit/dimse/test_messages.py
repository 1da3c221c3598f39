"""Command sets and association requests, verified with pynetdicom."""

from __future__ import annotations

import os
import random
from io import BytesIO

import pytest
from pydicom.uid import UID
from pynetdicom.dimse_messages import N_ACTION_RQ, N_ACTION_RSP, N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from pacs_tasks.dimse.files.part10 import IMPLEMENTATION_CLASS_UID
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer import negotiation as acse

STORE: dict[int, int | str] = {
    command.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.5.1.4.1.1.2",
    command.COMMAND_FIELD: command.C_STORE_RQ,
    command.MESSAGE_ID: 7,
    command.PRIORITY: command.MEDIUM,
    command.AFFECTED_SOP_INSTANCE_UID: "1.2.3.4567",
}


def test_pynetdicom_reads_our_command_sets() -> None:
    """pynetdicom decodes our command sets, with group length, padding and data set type."""
    ds = decode(BytesIO(command.encode(dict(STORE), data_set=True)), True, True)
    assert ds.AffectedSOPClassUID == STORE[command.AFFECTED_SOP_CLASS_UID]
    assert ds.AffectedSOPInstanceUID == "1.2.3.4567"
    assert (ds.CommandField, ds.MessageID, ds.Priority, ds.CommandDataSetType) == (1, 7, 0, 1)
    assert ds.CommandGroupLength == len(command.encode(dict(STORE), data_set=True)) - 12


@pytest.mark.parametrize("data_set", [True, False])
def test_we_read_what_we_write(data_set: bool) -> None:
    """Each element survives encoding and decoding."""
    found = command.decode(command.encode({**STORE, command.ERROR_COMMENT: "odd"}, data_set=data_set))
    assert found.field == command.C_STORE_RQ
    assert found.has_data_set is data_set
    assert found.text(command.AFFECTED_SOP_INSTANCE_UID) == "1.2.3.4567"
    assert found.text(command.ERROR_COMMENT) == "odd"
    assert found.number(command.STATUS) is None


def test_garbage_command_sets_end_in_one_error() -> None:
    """Random bytes and truncated command sets are decoded or raise ValueError."""
    whole = command.encode(dict(STORE), data_set=True)
    samples = [whole[:length] for length in range(len(whole))]
    samples += [os.urandom(random.randrange(200)) for _ in range(500)]
    for content in samples:
        try:
            found = command.decode(content)
        except ValueError:
            continue
        assert found.text(command.ERROR_COMMENT) is not None


def _request() -> acse.AssociateRequest:
    contexts = (
        acse.ProposedContext(1, "1.2.3", ("1.2.840.10008.1.2",)),
        acse.ProposedContext(3, "1.2.4", ("9.1", "9.2")),
    )
    return acse.AssociateRequest("CALLED", "CALLING", contexts, 131_072, {"1.2.4": (False, True)})


def test_pynetdicom_reads_our_association_request() -> None:
    """pynetdicom decodes our AE titles, contexts, maximum length, implementation and roles."""
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(acse.encode_request(_request()))
    primitive = pdu.to_primitive()
    assert (primitive.called_ae_title, primitive.calling_ae_title) == ("CALLED", "CALLING")
    assert primitive.maximum_length_received == 131_072
    assert primitive.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    found = {
        cx.context_id: (cx.abstract_syntax, cx.transfer_syntax) for cx in primitive.presentation_context_definition_list
    }
    assert found == {1: ("1.2.3", ["1.2.840.10008.1.2"]), 3: ("1.2.4", ["9.1", "9.2"])}
    [role] = [item for item in primitive.user_information if isinstance(item, SCP_SCU_RoleSelectionNegotiation)]
    assert (role.sop_class_uid, role.scu_role, role.scp_role) == ("1.2.4", False, True)


def test_association_request_accept_and_reject_go_round() -> None:
    """We decode our own A-ASSOCIATE PDUs, and pynetdicom decodes our answers."""
    request = _request()
    assert acse.decode_request(memoryview(acse.encode_request(request))[6:]) == request
    accept = acse.AssociateAccept({1: (0, "1.2.840.10008.1.2"), 3: (4, "9.1")}, 50_000, {"1.2.4": (False, True)})
    encoded = acse.encode_accept(accept, request)
    found = acse.decode_accept(memoryview(encoded)[6:])
    assert found == acse.AssociateAccept({1: (0, "1.2.840.10008.1.2"), 3: (4, "")}, 50_000, accept.roles)
    pdu = A_ASSOCIATE_AC()
    pdu.decode(encoded)
    assert [cx.result for cx in pdu.to_primitive().presentation_context_definition_results_list] == [0, 4]
    rejection = A_ASSOCIATE_RJ()
    rejection.decode(acse.encode_reject(2, 3, 2))
    assert (rejection.result, rejection.source, rejection.reason_diagnostic) == (2, 3, 2)


def test_garbage_association_pdus_end_in_one_error() -> None:
    """PDUs that are truncated, or changed in one byte, are decoded or raise ValueError."""
    request = acse.encode_request(_request())[6:]
    accept = acse.encode_accept(acse.AssociateAccept({1: (0, "1.2.840.10008.1.2")}), _request())[6:]
    for read, whole in ((acse.decode_request, request), (acse.decode_accept, accept)):
        for place in range(len(whole)):
            for content in (whole[:place], whole[:place] + b"\xff" + whole[place + 1 :]):
                try:
                    read(memoryview(content))
                except ValueError:
                    continue


ACTION: dict[int, int | str] = {
    command.REQUESTED_SOP_CLASS_UID: "1.2.840.10008.1.20.1",
    command.COMMAND_FIELD: command.N_ACTION_RQ,
    command.MESSAGE_ID: 9,
    command.REQUESTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
    command.ACTION_TYPE_ID: 1,
}
EVENT_ANSWER: dict[int, int | str] = {
    command.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.1.20.1",
    command.COMMAND_FIELD: command.N_EVENT_REPORT_RQ | command.RESPONSE,
    command.MESSAGE_ID_RESPONDED_TO: 9,
    command.STATUS: 0x0115,
    command.AFFECTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
    command.EVENT_TYPE_ID: 2,
}


def test_pynetdicom_reads_our_normalised_messages() -> None:
    """N-ACTION requests and N-EVENT-REPORT responses have the elements of PS3.7 sections E.1 and 10.3."""
    asked = N_ACTION_RQ()
    asked.command_set = decode(BytesIO(command.encode(dict(ACTION), data_set=True)), True, True)
    found = asked.message_to_primitive()
    assert isinstance(found, N_ACTION)
    assert found.RequestedSOPClassUID == ACTION[command.REQUESTED_SOP_CLASS_UID]
    assert found.RequestedSOPInstanceUID == ACTION[command.REQUESTED_SOP_INSTANCE_UID]
    assert (found.MessageID, found.ActionTypeID) == (9, 1)
    answered = N_EVENT_REPORT_RSP()
    answered.command_set = decode(BytesIO(command.encode(dict(EVENT_ANSWER), data_set=False)), True, True)
    told = answered.message_to_primitive()
    assert isinstance(told, N_EVENT_REPORT)
    assert told.AffectedSOPInstanceUID == EVENT_ANSWER[command.AFFECTED_SOP_INSTANCE_UID]
    assert (told.MessageIDBeingRespondedTo, told.Status, told.EventTypeID) == (9, 0x0115, 2)


def test_we_read_pynetdicoms_normalised_messages() -> None:
    """We decode pynetdicom's N-EVENT-REPORT requests and N-ACTION responses."""
    event = N_EVENT_REPORT()
    event.MessageID, event.EventTypeID = 3, 2
    event.AffectedSOPClassUID, event.AffectedSOPInstanceUID = UID("1.2.840.10008.1.20.1"), UID("1.2.840.10008.1.20.1.1")
    event.EventInformation = BytesIO(b"\0\0")
    message = N_EVENT_REPORT_RQ()
    message.primitive_to_message(event)
    found = command.decode(encode(message.command_set, True, True) or b"")
    assert found.field == command.N_EVENT_REPORT_RQ
    assert (found.number(command.MESSAGE_ID), found.number(command.EVENT_TYPE_ID)) == (3, 2)
    assert found.text(command.AFFECTED_SOP_INSTANCE_UID) == "1.2.840.10008.1.20.1.1"
    assert found.has_data_set
    action = N_ACTION()
    action.MessageIDBeingRespondedTo, action.Status, action.ActionTypeID = 4, 0x0213, 1
    answer = N_ACTION_RSP()
    answer.primitive_to_message(action)
    told = command.decode(encode(answer.command_set, True, True) or b"")
    assert told.field == command.N_ACTION_RQ | command.RESPONSE
    assert (told.number(command.MESSAGE_ID_RESPONDED_TO), told.number(command.STATUS)) == (4, 0x0213)
    assert told.number(command.ACTION_TYPE_ID) == 1
