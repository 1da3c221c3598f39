"""C-GET: the remote sends instances over the association of the request (PS3.4 section C.4.3, PS3.7 section 9.1.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from pacs_tasks.ae import LocalAE
from pacs_tasks.dimse.files.final_name import Placed
from pacs_tasks.dimse.files.storage import kept_path
from pacs_tasks.dimse.find import models
from pacs_tasks.dimse.retrieve.delivery import CheckArrived, retrieve
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
    rare: bool = True,
    limits: Limits = NO_LIMITS,
    listed: Mapping[str, Collection[str]] | None = None,
    on_refused: Callable[[int], None] | None = None,
    directory: Path | None = None,
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
    rare, listed
        As for :func:`pacs_tasks.dimse.upper_layer.contexts.contexts_to_receive`.
    limits
        What the remote may bring.
    on_refused
        Called at the end, also if that is an error, with the number of instances that were not requested.
    directory
        Where the output directory is without links; if omitted, it is made and resolved.

    Raises
    ------
    AssociationError, JobCancelledError
        As :meth:`Association.open` and :func:`retrieve`; if the remote does not offer C-GET, or for no SOP class.
    InvalidRequestError
        If the output directory cannot be created.
    """
    started = time.monotonic()
    directory = directory or _created(Path(request.output_dir))
    unrequested = Unrequested(request, directory, place)
    origin = Origin(
        directory,
        request.remote.ae_title,
        str(request.remote),
        unrequested.place,
        owner,
        study_uid=request.study_uid,
        series_uid=request.series_uid or "",
        strict=True,
    )

    def associate(model: QueryModel) -> Association:
        # Each context counts for the syntaxes of instances, so the models are not proposed together.
        storage = contexts_to_receive(sop_class_uids, rare=rare, listed=listed)
        contexts = [*models.retrieve_contexts(models.GET, model), *storage]
        return Association.open(local, request.remote, contexts[:MAX_CONTEXTS], timeouts, stop)

    try:
        model, assoc = _accepted(associate, request)
        with assoc:
            arrivals = _Arrivals(assoc, replace(origin, intake=Intake(limits, assoc.wire)), unrequested, on_instance)
            final = retrieve(
                assoc,
                _accepted_context(assoc, model),
                request,
                model,
                check_arrived=check_arrived,
                on_store=arrivals.store,
            )
    finally:
        if on_refused is not None:
            on_refused(unrequested.count)
    return GetOutcome(
        **final._asdict(),
        seconds=time.monotonic() - started,
        instances=tuple(arrivals.received.values()),
        refused=unrequested.count,
    )


class _Arrivals:
    """Stores what arrives over the association of a C-GET.

    Attributes
    ----------
    received
        What is complete on disk, by SOP Instance UID.
    """

    def __init__(
        self,
        assoc: Association,
        origin: Origin,
        unrequested: Unrequested,
        on_instance: Callable[[InstanceOutcome], None] | None,
    ) -> None:
        self._assoc, self._origin, self._unrequested, self._on_instance = assoc, origin, unrequested, on_instance
        self.received: dict[str, InstanceOutcome] = {}
        # The SOP Instance UIDs that have come, and how often one has come again.
        self._seen: set[str] = set()
        self._repeats = 0

    def store(self, context_id: int, message: Command) -> bool:
        """Receive the instance of a C-STORE request, and answer it; return whether it is a new one that was requested.

        Raises
        ------
        AssociationError
            If the remote sends more and more that nobody requested, or the same again and again.
        """
        before = self._unrequested.count
        context = self._assoc.contexts_by_id[context_id]
        outcome = receive(self._assoc.stream, context_id, message, context, self._origin)
        if self._unrequested.count > before:
            self._unrequested.check()
            return False
        if outcome.category is not InstanceCategory.FAILED:
            self.received[outcome.sop_instance_uid] = outcome
        if self._on_instance is not None:
            self._on_instance(outcome)
        if outcome.sop_instance_uid not in self._seen:
            self._seen.add(outcome.sop_instance_uid)
            return True
        self._repeats += 1
        # Some remotes send everything twice.
        if self._repeats > MOST_UNREQUESTED + len(self._seen):
            raise AssociationError(
                f"{self._assoc.remote} sent the same instances again and again by C-GET, so the association was "
                "aborted. Ask its administrator, or retrieve by C-MOVE (--method move)."
            )
        return False


class Unrequested:
    """Refuses instances that a C-GET did not request: of another study or series, or not in its list of UIDs.

    A9xx is the status that PS3.4 table B.2-1 has for a data set that is not what it should be; 0122 says that a SOP
    class is not supported, which a remote may take for good.

    Attributes
    ----------
    count
        How many were refused.
    """

    def __init__(self, request: GetRequest, directory: Path, place: Place | None) -> None:
        self._request, self._directory, self._place = request, directory, place
        self._uids = frozenset(request.sop_instance_uids)
        self.count = 0

    def place(self, arrival: Arrival) -> Path | Placed | Refusal:
        """Give the place of an instance, or refuse it."""
        if not self._requested(arrival):
            self.count += 1
            return _UNREQUESTED
        if self._place is not None:
            return self._place(arrival)
        uids = arrival.study_uid, arrival.series_uid, arrival.sop_instance_uid
        return kept_path(self._directory, *uids)

    def _requested(self, arrival: Arrival) -> bool:
        request = self._request
        # A data set without these UIDs contradicts nothing, and goes to a directory of its own.
        return (
            arrival.study_uid in {"", request.study_uid}
            and arrival.series_uid in {"", request.series_uid or arrival.series_uid}
            and (not self._uids or arrival.sop_instance_uid in self._uids)
        )

    def check(self) -> None:
        """Raise if a remote sends more and more that nobody requested.

        Raises
        ------
        AssociationError
            The caller ends the association.
        """
        if self.count > MOST_UNREQUESTED:
            raise AssociationError(
                f"{self._request.remote} sent more than {MOST_UNREQUESTED} instances by C-GET that were not requested, "
                "so the association was aborted. Ask its administrator, or retrieve by C-MOVE (--method move)."
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
