"""C-GET: fetch instances over the association that asks for them (PS3.4 section C.4.3, PS3.7 section 9.1.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.find import query
from pacs_tasks.dimse.retrieve import suboperations as retrieval
from pacs_tasks.dimse.retrieve.delivery import AllHereError, Delivery, Look, unfinished
from pacs_tasks.dimse.scp.c_store import Origin, Place, receive
from pacs_tasks.dimse.upper_layer import command
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.contexts import contexts_to_receive
from pacs_tasks.errors import InvalidRequestError, NotSendingError
from pacs_tasks.outcome import GetOutcome, InstanceCategory, InstanceOutcome, StatusCategory, Suboperations
from pacs_tasks.request import GetRequest


def get(  # noqa: PLR0917 - what it needs, then what few callers give
    request: GetRequest,
    local: LocalAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    sop_class_uids: Collection[str] = (),
    on_instance: Callable[[InstanceOutcome], None] | None = None,
    look: Look | None = None,
    place: Place | None = None,
) -> GetOutcome:
    """Fetch into ``request.output_dir``.

    Parameters
    ----------
    sop_class_uids
        What the peer listed: exactly these are proposed. Empty: the common storage classes.
    on_instance
        Called with each instance that came: whole on disk, or FAILED with the reason why it was not kept.
    look
        Tells what of the promise is here. Once that is all, the final response is not waited for long.
    place
        Puts each instance in its place; left out, it is called after its UIDs.

    Raises
    ------
    PeerUnavailableError, AssociationRejectedError
        As :meth:`Association.open`, and when the association is lost before the final status.
    PeerStalledError
        As :class:`Delivery`.
    ContextRejectedError
        If the peer offers no C-GET.
    NotSendingError
        If it will not send any of the classes to us.
    InvalidRequestError
        If the output directory cannot be made.
    JobCancelledError
        If ``stop`` said so and the peer did not answer C-CANCEL; where it did, the outcome says so.
    """
    started = time.monotonic()
    directory = Path(request.output_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(
            f"the output directory cannot be made ({error.strerror}); name one that may be written", str(directory)
        ) from None
    contexts = [query.retrieve_context(query.STUDY_ROOT_GET), *contexts_to_receive(sop_class_uids)]
    origin = Origin(directory, request.remote.ae_title, str(request.remote), place)
    with Association.open(local, request.remote, contexts, timeouts, stop) as assoc:
        return _Getting(request, assoc, origin, on_instance).run(started, look)


class _Getting:
    """One C-GET."""

    def __init__(
        self,
        request: GetRequest,
        assoc: Association,
        origin: Origin,
        on_instance: Callable[[InstanceOutcome], None] | None,
    ) -> None:
        self._request = request
        self._assoc = assoc
        self._on_instance = on_instance
        self._origin = origin
        self._received: dict[str, InstanceOutcome] = {}

    def run(self, started: float, look: Look | None) -> GetOutcome:
        assoc = self._assoc
        context_id, _ = query.accepted_context(assoc, query.STUDY_ROOT_GET)
        if len(assoc.accepted_contexts) == 1:
            raise NotSendingError(
                f"{assoc.remote} offers C-GET but will not send any of the SOP classes to us; "
                "retrieve by C-MOVE (--method move), or ask its administrator to allow them"
            )
        said, counts = unfinished(assoc.remote), Suboperations()
        failed: tuple[str, ...] = ()
        with (
            suppress(AllHereError),
            assoc.exchange() as message_id,
            Delivery(assoc, context_id, message_id, look) as delivery,
        ):
            assoc.send(context_id, _request(message_id), retrieval.encode_identifier(self._request))
            while True:
                found_id, message = assoc.receive_command("the next instance or the C-GET response")
                if message.field == command.C_STORE_RQ:
                    self._receive(found_id, message, delivery)
                    continue
                code = assoc.check_response(found_id == context_id, message, message_id, command.C_GET_RQ)
                content = assoc.receive_data(context_id, "the rest of its answer") if message.has_data_set else b""
                counts = retrieval.suboperations(message)
                answer = status.get_status(code, message.text(command.ERROR_COMMENT))
                if answer.category is not StatusCategory.PENDING:
                    said, failed = answer, retrieval.failed_uids(content)
                    break
                delivery.counted(counts)
        return GetOutcome(
            status=said,
            suboperations=counts,
            failed_sop_instance_uids=failed,
            seconds=time.monotonic() - started,
            instances=tuple(self._received.values()),
        )

    def _receive(self, context_id: int, message: Command, delivery: Delivery) -> None:
        pair = self._assoc.contexts_by_id[context_id]
        delivery.receiving = True
        outcome = receive(self._assoc.stream, context_id, message, pair, self._origin)
        delivery.received()
        if outcome.category is InstanceCategory.SUCCESS:
            self._received[outcome.sop_instance_uid] = outcome
        if self._on_instance is not None:
            self._on_instance(outcome)


def _request(message_id: int) -> bytes:
    return command.encode(
        {
            command.AFFECTED_SOP_CLASS_UID: query.STUDY_ROOT_GET,
            command.COMMAND_FIELD: command.C_GET_RQ,
            command.MESSAGE_ID: message_id,
            command.PRIORITY: command.MEDIUM,
        },
        data_set=True,
    )
