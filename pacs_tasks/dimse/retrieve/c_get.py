"""C-GET: the remote sends instances over the association of the request (PS3.4 section C.4.3, PS3.7 section 9.1.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.files.final_name import Placed
from pacs_tasks.dimse.files.storage import kept_path
from pacs_tasks.dimse.find import models
from pacs_tasks.dimse.retrieve.delivery import CheckArrived, OnStore, retrieve
from pacs_tasks.dimse.scp.c_store import Arrival, Origin, Place, Refusal, receive
from pacs_tasks.dimse.scp.limits import NO_LIMITS, Intake, Limits
from pacs_tasks.dimse.upper_layer.association import Association, StopCheck, Timeouts
from pacs_tasks.dimse.upper_layer.command import Command
from pacs_tasks.dimse.upper_layer.contexts import contexts_to_receive
from pacs_tasks.dimse.upper_layer.negotiation import MAX_CONTEXTS
from pacs_tasks.errors import AssociationError, ContextRejectedError, InvalidRequestError, NotSendingError
from pacs_tasks.outcome import GetOutcome, InstanceCategory, InstanceOutcome
from pacs_tasks.request import GetRequest, QueryModel

#: Instances that a remote may send without a request. Some answer a list of UIDs with the whole series.
MOST_UNREQUESTED = 10_000
_UNREQUESTED = Refusal(0xA900, "the C-GET did not request this instance", counted=True)


@dataclass(frozen=True)
class Reception:
    """How the instances of a C-GET are received.

    Attributes
    ----------
    on_instance
        Called with each instance: complete on disk, or FAILED with the reason.
    check_arrived
        As in :func:`retrieve`.
    place
        Moves each instance to its place; if omitted, the file is named by its UIDs.
    owner
        Who retrieves, as for :func:`pacs_tasks.dimse.files.storage.unfinished_path`.
    rare, listed
        As for :func:`pacs_tasks.dimse.upper_layer.contexts.contexts_to_receive`.
    limits
        What the remote may bring.
    on_refused
        Called at the end, also if that is an error, with the number of instances that were not requested.
    directory
        Where the output directory is without links; if omitted, it is made and resolved.
    """

    on_instance: Callable[[InstanceOutcome], None] | None = None
    check_arrived: CheckArrived | None = None
    place: Place | None = None
    owner: str = ""
    rare: bool = True
    limits: Limits = NO_LIMITS
    listed: Mapping[str, Collection[str]] | None = None
    on_refused: Callable[[int], None] | None = None
    directory: Path | None = None


def get(
    request: GetRequest,
    local: LocalAE,
    timeouts: Timeouts,
    stop: StopCheck | None = None,
    sop_class_uids: Collection[str] = (),
    *,
    reception: Reception | None = None,
) -> GetOutcome:
    """Retrieve instances into ``request.output_dir``.

    Parameters
    ----------
    sop_class_uids
        The SOP classes that the remote listed: exactly these are proposed. Empty proposes the common storage classes.

    Raises
    ------
    AssociationError, JobCancelledError
        As :meth:`Association.open` and :func:`retrieve`; if the remote does not offer C-GET, or for no SOP class.
    InvalidRequestError
        If the output directory cannot be created.
    """
    started, reception = time.monotonic(), reception or Reception()
    arrivals = _Arrivals(request, reception)
    storage = contexts_to_receive(sop_class_uids, rare=reception.rare, listed=reception.listed)

    def associate(model: QueryModel) -> Association:
        # Each context counts for the syntaxes of instances, so the models are not proposed together.
        contexts = [*models.retrieve_contexts(models.GET, model), *storage]
        return Association.open(local, request.remote, contexts[:MAX_CONTEXTS], timeouts, stop)

    try:
        model, assoc = _accepted(associate, request)
        with assoc:
            context_id, store = _accepted_context(assoc, model), arrivals.store_over(assoc)
            final = retrieve(assoc, context_id, request, model, check_arrived=reception.check_arrived, on_store=store)
    finally:
        if reception.on_refused is not None:
            reception.on_refused(arrivals.refused)
    instances, seconds = tuple(arrivals.received.values()), time.monotonic() - started
    return GetOutcome(**final._asdict(), seconds=seconds, instances=instances, refused=arrivals.refused)


class _Arrivals:
    """Stores what arrives by a C-GET, and refuses what it did not request.

    That is of another study or series, or not in its list of UIDs. A9xx is the status that PS3.4 table B.2-1 has for a
    data set that is not what it should be; 0122 says that a SOP class is not supported, which a remote may take for
    good.

    Attributes
    ----------
    received
        What is complete on disk, by SOP Instance UID.
    refused
        How many instances were not requested.
    """

    def __init__(self, request: GetRequest, reception: Reception) -> None:
        self._request, self._reception = request, reception
        self._directory = reception.directory or _created(Path(request.output_dir))
        self._uids = frozenset(request.sop_instance_uids)
        self.received: dict[str, InstanceOutcome] = {}
        self.refused = 0
        # The SOP Instance UIDs that have come, and how often one has come again.
        self._seen: set[str] = set()
        self._repeats = 0

    def store_over(self, assoc: Association) -> OnStore:
        """Give what receives the instances that come over an association."""
        request, reception = self._request, self._reception
        origin = Origin(
            self._directory,
            request.remote.ae_title,
            str(request.remote),
            self._place,
            reception.owner,
            study_uid=request.study_uid,
            series_uid=request.series_uid or "",
            intake=Intake(reception.limits, assoc.wire),
            strict=True,
        )
        return partial(self._store, assoc, origin)

    def _store(self, assoc: Association, origin: Origin, context_id: int, message: Command) -> bool:
        """Receive the instance of a C-STORE request, and answer it; return whether it is a new one that was requested.

        Raises
        ------
        AssociationError
            If the remote sends more and more that nobody requested, or the same again and again.
        """
        before = self.refused
        outcome = receive(assoc.stream, context_id, message, assoc.contexts_by_id[context_id], origin)
        if self.refused > MOST_UNREQUESTED:
            raise AssociationError(
                f"{assoc.remote} sent more than {MOST_UNREQUESTED} instances by C-GET that were not requested, so the "
                "association was aborted. Ask its administrator, or retrieve by C-MOVE (--method move)."
            )
        if self.refused > before:
            return False
        if outcome.category is not InstanceCategory.FAILED:
            self.received[outcome.sop_instance_uid] = outcome
        if self._reception.on_instance is not None:
            self._reception.on_instance(outcome)
        if outcome.sop_instance_uid not in self._seen:
            self._seen.add(outcome.sop_instance_uid)
            return True
        self._repeats += 1
        # Some remotes send everything twice.
        if self._repeats > MOST_UNREQUESTED + len(self._seen):
            raise AssociationError(
                f"{assoc.remote} sent the same instances again and again by C-GET, so the association was aborted. Ask "
                "its administrator, or retrieve by C-MOVE (--method move)."
            )
        return False

    def _place(self, arrival: Arrival) -> Path | Placed | Refusal:
        """Give the place of an instance, or refuse it."""
        if not self._requested(arrival):
            self.refused += 1
            return _UNREQUESTED
        if self._reception.place is not None:
            return self._reception.place(arrival)
        return kept_path(self._directory, arrival.study_uid, arrival.series_uid, arrival.sop_instance_uid)

    def _requested(self, arrival: Arrival) -> bool:
        request = self._request
        # A data set without these UIDs contradicts nothing, and goes to a directory of its own.
        return (
            arrival.study_uid in {"", request.study_uid}
            and arrival.series_uid in {"", request.series_uid or arrival.series_uid}
            and (not self._uids or arrival.sop_instance_uid in self._uids)
        )


def _created(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(
            f"The output directory cannot be created ({error.strerror}). Name one that the worker can write to.",
            str(directory),
        ) from None
    return directory.resolve()


def _accepted(associate: Callable[[QueryModel], Association], request: GetRequest) -> tuple[QueryModel, Association]:
    """Return the first model that the remote accepts, else the last one, with an association."""
    *preferred, last = models.models_of(request.query_model)
    for model in preferred:
        assoc = associate(model)
        if assoc.context_of(models.GET[model]) is not None:
            return model, assoc
        assoc.release()
    return last, associate(last)


def _accepted_context(assoc: Association, model: QueryModel) -> int:
    context = assoc.context_of(models.GET[model])
    if context is None:
        raise ContextRejectedError(
            f"{assoc.remote} does not offer C-GET. Retrieve by C-MOVE (--method move), or ask its administrator to "
            "allow C-GET."
        )
    if {uid for uid, _ in assoc.accepted_contexts} <= {*models.GET.values(), *models.FIND.values()}:
        raise NotSendingError(
            f"{assoc.remote} offers C-GET but will not send any of the SOP classes. Retrieve by C-MOVE (--method "
            "move), or ask its administrator to allow C-GET for these SOP classes."
        )
    return context[0]
