"""C-GET: fetch instances over the association that asks for them (PS3.4 section C.4.3, PS3.7 section 9.1.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse import command, query, retrieval, status
from pacs_tasks.dimse.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.cancellation import Cancellation
from pacs_tasks.dimse.command import Command
from pacs_tasks.dimse.contexts import contexts_to_receive
from pacs_tasks.dimse.receiving import Origin, receive
from pacs_tasks.errors import ContextRejectedError, InvalidRequestError
from pacs_tasks.outcome import GetOutcome, InstanceCategory, InstanceOutcome, StatusCategory
from pacs_tasks.request import GetRequest


def get(  # noqa: PLR0917 - what it needs, then what few callers give
    request: GetRequest,
    local: LocalAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    sop_class_uids: Collection[str] = (),
    on_instance: Callable[[InstanceOutcome], None] | None = None,
) -> GetOutcome:
    """Fetch into ``request.output_dir``.

    Parameters
    ----------
    sop_class_uids
        What the peer listed: exactly these are proposed. Empty: the common storage classes.
    on_instance
        Called with each instance that came: whole on disk, or FAILED with the reason why it was not kept.

    Raises
    ------
    PeerUnavailableError, AssociationRejectedError
        As :meth:`Association.open`, and when the association is lost before the final status.
    ContextRejectedError
        If the peer offers no C-GET, or will not send any of the classes to us.
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
    with Association.open(local, request.remote, contexts, timeouts, stop) as assoc:
        return _Getting(request, assoc, directory, on_instance).run(started)


class _Getting:
    """One C-GET."""

    def __init__(
        self,
        request: GetRequest,
        assoc: Association,
        directory: Path,
        on_instance: Callable[[InstanceOutcome], None] | None,
    ) -> None:
        self._request = request
        self._assoc = assoc
        self._on_instance = on_instance
        self._origin = Origin(directory, request.remote.ae_title, str(request.remote))
        self._received: dict[str, InstanceOutcome] = {}

    def run(self, started: float) -> GetOutcome:
        assoc = self._assoc
        context_id, _ = query.accepted_context(assoc, query.STUDY_ROOT_GET)
        if len(assoc.accepted) == 1:
            raise ContextRejectedError(
                f"{assoc.remote} offers C-GET but will not send any of the SOP classes to us; "
                "retrieve by C-MOVE (--method move), or ask its administrator to allow them"
            )
        with assoc.exchange() as message_id, Cancellation(assoc, context_id, message_id):
            assoc.send(context_id, _request(message_id), retrieval.encode_identifier(self._request))
            while True:
                found_id, message = assoc.read_command("the next instance or the C-GET response")
                if message.field == command.C_STORE_RQ:
                    self._receive(found_id, message)
                    continue
                code = assoc.check_response(found_id == context_id, message, message_id, command.C_GET_RQ)
                content = assoc.read_data(context_id, "the rest of its answer") if message.has_data_set else b""
                said = status.get_status(code, message.text(command.ERROR_COMMENT))
                if said.category is not StatusCategory.PENDING:
                    break
        return GetOutcome(
            status=said,
            suboperations=retrieval.suboperations(message),
            failed_sop_instance_uids=retrieval.failed_uids(content),
            seconds=time.monotonic() - started,
            instances=tuple(self._received.values()),
        )

    def _receive(self, context_id: int, message: Command) -> None:
        pair = self._assoc.accepted_by_id[context_id]
        outcome = receive(self._assoc.stream, context_id, message, pair, self._origin)
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
