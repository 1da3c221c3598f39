"""C-GET: the remote sends instances over the association of the request (PS3.4 section C.4.3, PS3.7 section 9.1.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse import status
from pacs_tasks.dimse.files.elements import IMPLICIT_VR_LITTLE_ENDIAN
from pacs_tasks.dimse.retrieve.delivery import CheckArrived, retrieve
from pacs_tasks.dimse.scp.c_store import Origin, Place, receive
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.contexts import contexts_to_receive
from pacs_tasks.dimse.upper_layer.negotiation import Context
from pacs_tasks.errors import ContextRejectedError, InvalidRequestError, NotSendingError
from pacs_tasks.outcome import GetOutcome, InstanceCategory, InstanceOutcome
from pacs_tasks.request import GetRequest

#: Every remote supports the default transfer syntax (PS3.5 section 10.1), and only it holds a UI value above 64 KiB.
_CONTEXT = Context(StudyRootQueryRetrieveInformationModelGet, (IMPLICIT_VR_LITTLE_ENDIAN,))


def get(
    request: GetRequest,
    local: LocalAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    sop_class_uids: Collection[str] = (),
    *,
    on_instance: Callable[[InstanceOutcome], None] | None = None,
    check_arrived: CheckArrived | None = None,
    place: Place | None = None,
    owner: str = "",
) -> GetOutcome:
    """Retrieve instances into ``request.output_dir``.

    Parameters
    ----------
    sop_class_uids
        The SOP classes that the remote listed: exactly these are proposed. Empty proposes the common storage classes.
    on_instance
        Called with each instance: complete on disk, or FAILED with the reason.
    check_arrived
        As in :func:`retrieve`.
    place
        Moves each instance to its place; if omitted, the file is named by its UIDs.
    owner
        Who retrieves, as for :func:`pacs_tasks.dimse.files.storage.unfinished_path`.

    Raises
    ------
    AssociationError, JobCancelledError
        As :meth:`Association.open` and :func:`retrieve`; if the remote does not offer C-GET, or for no SOP class.
    InvalidRequestError
        If the output directory cannot be created.
    """
    started = time.monotonic()
    origin = Origin(_created(Path(request.output_dir)), request.remote.ae_title, str(request.remote), place, owner)
    received: dict[str, InstanceOutcome] = {}
    contexts = [_CONTEXT, *contexts_to_receive(sop_class_uids)]
    with Association.open(local, request.remote, contexts, timeouts, stop) as assoc:

        def on_store(context_id: int, message: Command) -> None:
            outcome = receive(assoc.stream, context_id, message, assoc.contexts_by_id[context_id], origin)
            if outcome.category is InstanceCategory.SUCCESS:
                received[outcome.sop_instance_uid] = outcome
            if on_instance is not None:
                on_instance(outcome)

        context_id = _accepted_context(assoc)
        final = retrieve(assoc, context_id, request, status.get_status, check_arrived=check_arrived, on_store=on_store)
    return GetOutcome(**final._asdict(), seconds=time.monotonic() - started, instances=tuple(received.values()))


def _created(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(
            f"The output directory cannot be created ({error.strerror}). Name one that the worker can write to.",
            str(directory),
        ) from None
    return directory


def _accepted_context(assoc: Association) -> int:
    context = assoc.context_of(StudyRootQueryRetrieveInformationModelGet)
    if context is None:
        raise ContextRejectedError(
            f"{assoc.remote} does not offer C-GET in the Study Root model. Retrieve by C-MOVE (--method move), or ask "
            "its administrator to allow C-GET."
        )
    if len(assoc.accepted_contexts) == 1:
        raise NotSendingError(
            f"{assoc.remote} offers C-GET but will not send any of the SOP classes. Retrieve by C-MOVE (--method "
            "move), or ask its administrator to allow C-GET for these SOP classes."
        )
    return context[0]
