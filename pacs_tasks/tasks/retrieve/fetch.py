"""Fetch a part to the output directory: by C-MOVE if a receiver runs that the remote knows, else by C-GET.

A refusal is remembered for all parts and jobs. It decides which method comes first, and excludes none for good. It is
forgotten after an hour, so that a change at the PACS is noticed, and at once when the method works.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pacs_tasks.dimse.retrieve import c_get
from pacs_tasks.dimse.retrieve.c_move import DESTINATION_UNKNOWN, refuses_destination
from pacs_tasks.dimse.upper_layer.contexts import guesses
from pacs_tasks.errors import AssociationError, ContextRejectedError, NotSendingError, PeerStalledError
from pacs_tasks.fleet.leases import name_of
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.fleet.senders import Stranger
from pacs_tasks.layout import Layout
from pacs_tasks.ledger.keys import Marks
from pacs_tasks.ledger.manifest import RetrieveLine
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, MoveOutcome, Status
from pacs_tasks.request import GetRequest, Level, RetrieveMethod, RetrieveRequest
from pacs_tasks.tasks.engine.associations import leased
from pacs_tasks.tasks.engine.base import ledger, local_ae, timeouts
from pacs_tasks.tasks.engine.part import Part
from pacs_tasks.tasks.engine.permissions import limits_in, output_directory
from pacs_tasks.tasks.retrieve.arrivals import Arrivals, owner_of
from pacs_tasks.tasks.retrieve.attempt import Answer, Attempt, RequestOnce, UIDs, lists_of
from pacs_tasks.tasks.retrieve.by_c_move import Move, NoReceiverError, accepts_connections, receiver_for
from pacs_tasks.tasks.retrieve.queries import QuerySession, value

if TYPE_CHECKING:
    import redis

#: Seconds to remember a refusal.
REFUSED_FOR = 3600


class Method(StrEnum):
    """The DIMSE service that brings the instances."""

    MOVE = "C-MOVE"
    GET = "C-GET"


def move_to(receiver_ae_title: str) -> str:
    """Name the refusal of a remote that does not know a receiver."""
    return f"{Method.MOVE} to {receiver_ae_title}"


def get_of(sop_class_uid: str) -> str:
    """Name the refusal of a remote that does not send a SOP class to us."""
    return f"{Method.GET} of {sop_class_uid}"


def refusals_of(client: redis.Redis, remote: str, calling_aet: str) -> Marks:
    """Give what a remote has refused: a :class:`Method`, :func:`move_to` a receiver, or :func:`get_of` a SOP class.

    The value of each is the reason. A remote may refuse one calling AE title and accept another.
    """
    return Marks(client, f"pacs_tasks:ways:{remote} for {calling_aet}")


class MethodChoice:
    """The methods of one attempt at a part.

    Parameters
    ----------
    sop_class_uids
        Of the instances that are wanted.

    Attributes
    ----------
    excluded
        Why a method cannot be used: the remote has refused it, now or before, or no receiver is there.
    """

    def __init__(self, request: RetrieveRequest, sop_class_uids: Collection[str]) -> None:
        self._request, self._classes = request, sop_class_uids
        self._refusals = refusals_of(ledger().client, name_of(request.remote), local_ae(request).ae_title)
        self._refused = self._refusals.live()
        self.excluded: dict[Method, str] = {}
        #: Methods that the site has simply not set up.
        self._not_set_up: set[Method] = set()

    def receiver(self) -> Receiver:
        """The receiver to which C-MOVE delivers.

        Raises
        ------
        NoReceiverError
            If there is none.
        """
        return receiver_for(self._request.move_aet)

    def order(self, *, get_first: bool) -> Iterator[tuple[Method, bool]]:
        """Yield each method and whether the remote has refused it, refused ones last."""
        if self._request.method is not RetrieveMethod.AUTO:
            yield (Method.GET if self._request.method is RetrieveMethod.GET else Method.MOVE), False
            return
        methods = [Method.GET, Method.MOVE] if get_first else [Method.MOVE, Method.GET]
        for method in methods:
            reason = self._known_refusal(method)
            if reason:
                self.excluded[method] = reason
        refused = list(self.excluded)
        yield from ((method, False) for method in methods if method not in refused)
        yield from ((method, True) for method in refused)

    def _known_refusal(self, method: Method) -> str:
        names = [method.value]
        if method is Method.MOVE:
            try:
                names.append(move_to(self.receiver().ae_title))
            except NoReceiverError as error:
                self.exclude(method, error)
                return _clause(error)
        elif all(get_of(each) in self._refused for each in self._classes):
            names += map(get_of, self._classes)
        return next((self._refused[name] for name in names if name in self._refused), "")

    def exclude(self, method: Method, error: Exception) -> None:
        """Note that a method turned out to be impossible."""
        self.excluded.setdefault(method, _clause(error))
        if isinstance(error, NoReceiverError) and error.expected:
            self._not_set_up.add(method)

    def record_refusal(self, method: Method, error: ContextRejectedError) -> None:
        """Record that the remote does not offer a method, or not for these SOP classes."""
        if isinstance(error, NotSendingError):
            self._record(method, [get_of(each) for each in self._classes], "it will not send these SOP classes to us")
        else:
            self._record(method, [method.value], f"it does not offer {method}")

    def record_unknown_destination(self, receiver: Receiver, status: Status) -> None:
        """Record that the remote does not know a receiver, or probably so."""
        probably = "" if status.code == DESTINATION_UNKNOWN else "probably "
        reason = f"it {probably}does not know the move destination {receiver.ae_title} ({status.code:04X})"
        self._record(Method.MOVE, [move_to(receiver.ae_title)], reason)

    def _record(self, method: Method, names: list[str], reason: str) -> None:
        self._refusals.renew(names, REFUSED_FOR, reason)
        self.excluded[method] = reason

    def record_success(self, method: Method) -> None:
        """Record that instances have come by this method."""
        self.excluded.pop(method, None)
        if method is Method.GET:
            names = [method.value, *map(get_of, self._classes)]
        else:
            names = [method.value, move_to(self.receiver().ae_title)]
        known = self._refused.keys() & names
        if known:
            self._refusals.remove(known)

    def remarks(self) -> list[str]:
        """Why it was not another method; nothing if the site just has no receiver."""
        return [remark(*each) for each in self.excluded.items() if each[0] not in self._not_set_up]

    def no_method(self, *, retried: bool) -> Exception:
        """The error if no method is possible, with the reason for each and the remedy.

        ``retried``: an earlier attempt had a method, so a receiver that has gone may come back.
        """
        remote = self._request.remote
        reasons = f"for C-MOVE, {self.excluded[Method.MOVE]}; for C-GET, {self.excluded[Method.GET]}"
        try:
            receiver = self.receiver()
        except NoReceiverError:
            error: type[Exception] = NoReceiverError if retried else ContextRejectedError
            return error(
                f"Neither C-MOVE nor C-GET can retrieve from {remote}: {reasons}. "
                "Start a receiver that it knows (`pacs-tasks receiver`), or ask to be allowed C-GET."
            )
        return ContextRejectedError(
            f"Neither C-MOVE nor C-GET can retrieve from {remote}: {reasons}. Ask its administrator to add "
            f"{receiver.ae_title} with the host and port of its receiver, or to allow C-GET."
        )


def remark(method: Method, reason: str) -> str:
    """Say why a method could not be used."""
    return f"{method} was not possible: {reason}"


def _clause(error: Exception) -> str:
    """What happened, without the remedy, as a part of another sentence."""
    text = str(error).partition(". ")[0].removesuffix(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


#: UIDs in one request. Orthanc and dcmqrscp accept 1,200. As one value of VR UI, 1,008 of the longest would be too many
#: for a remote that keeps identifiers in an explicit VR; databases accept 1,000 values in a list.
_LONGEST_LIST = 500
_MODALITY = "00080060"


class Fetch(Attempt):
    """One attempt to fetch what is left of a part."""

    def __init__(self, part: Part[RetrieveLine], request: RetrieveRequest, *, whole_series: bool) -> None:
        super().__init__(part, request, whole_series=whole_series)
        self._directory = output_directory(request.directory)
        layout = Layout(request.layout, request.remote.charset, owner_of(part), self._directory)
        self._arrivals = Arrivals(part, Path(request.directory), layout, request.remote, self._counted_before())
        # What is missing is requested by name. If nothing at all came, attempts alternate: a remote may serve only
        # whole series, or only lists. At a pace, the short lists come first.
        nothing_yet = len(part.left) == part.size
        short = self._part.pacing.list_size(_LONGEST_LIST) < min(part.size, _LONGEST_LIST)
        self._whole = self._counted or (whole_series and nothing_yet and self._tries % 2 == short)
        self._arrivals.whole = self._whole
        #: As listed; not every remote lists them.
        self._listed = {line.sop_class_uid for line in part.left.values()}
        # What did not come is requested again in any syntax.
        self._syntaxes = {} if self._tries else _listed_syntaxes(part.left.values())
        self._choice = MethodChoice(request, guesses(self._listed)[0])
        #: The receiver to which C-MOVE was to deliver.
        self._receiver: Receiver | None = None
        #: It was away when the remote was to deliver to it.
        self._receiver_gone = False
        #: Who else sent instances of the series meanwhile.
        self._strangers: dict[Stranger, None] = {}
        #: Methods by which something has come.
        self._worked: set[Method] = set()
        #: How many instances beyond the promise, and that came again, are in the record of the study.
        self._recorded = (0, 0)

    def _counted_before(self) -> set[str]:
        """SOP Instance UIDs that have taken lines of this part, if the remote has only counted its instances."""
        if not self._counted:
            return set()
        mine = self._part.indices
        sent = Instances(ledger(), self._part.job_id).transferred()
        return {outcome.sop_instance_uid for index, outcome in sent if index in mine}

    def run(self) -> Answer:
        """Request the instances by the method that the request names, or by each that may work.

        Raises
        ------
        NoReceiverError
            If the method must be C-MOVE and no receiver is available.
        ContextRejectedError
            If the remote offers none of the methods.
        """
        answer: Answer | None = None
        automatic = self._request.method is RetrieveMethod.AUTO
        for method, refused in self._choice.order(get_first=self._tries % 2 == 1):
            if answer is not None and self._is_last_method(next_refused=refused):
                break
            try:
                latest = self._request_by(method)
            except (NoReceiverError, ContextRejectedError) as error:
                if not automatic:
                    raise
                self._choice.exclude(method, error)
                continue
            if not automatic or not latest.destination_unknown:
                answer = latest
        if answer is None:
            raise self._choice.no_method(retried=self._tries > 0)
        return answer

    def _is_last_method(self, *, next_refused: bool) -> bool:
        """Whether the method that was just answered is the last one of this attempt."""
        return next_refused or not self._tries or not self._part.left or self._part.must_end()

    def _request_by(self, method: Method) -> Answer:
        self._arrivals.before_recording = partial(self._record_method, method)
        try:
            return self._request_by_move() if method is Method.MOVE else self._request_by_get()
        except ContextRejectedError as error:
            self._choice.record_refusal(method, error)
            raise
        except PeerStalledError as error:
            return Answer(error.message)

    def _request_by_move(self) -> Answer:
        receiver = self._receiver = self._choice.receiver()

        def request_once(uids: UIDs) -> MoveOutcome:
            self._part.pacing.before_request(len(uids) or len(self._part.left))
            named, before = (self._study_uid, self._series_uid, uids), (self._arrivals.number, self._arrivals.bytes)
            move = Move(self._part, self._request, self._arrivals, receiver, named)
            outcome = move.run()
            self._part.pacing.after_request(self._arrivals.number - before[0], self._arrivals.bytes - before[1])
            self._strangers |= dict.fromkeys(move.strangers)
            unknown = refuses_destination(outcome, uids)
            # A remote may answer the same if it cannot reach the receiver, which may be back by the end of the attempt.
            self._receiver_gone |= unknown and not accepts_connections(receiver)
            self._destination_unknown = unknown and not self._receiver_gone
            return outcome

        answer = self._request_all(request_once)
        self._destination_unknown = False
        if answer.destination_unknown and answer.status is not None:
            self._choice.record_unknown_destination(receiver, answer.status)
            self._receiver = None
        return answer

    def _request_by_get(self) -> Answer:
        """Request by C-GET, and what has not come again with further classes, where there are some to try.

        One association does not carry all classes.
        """
        answer, refusal = None, None
        for classes in guesses(self._listed, self._modality() if "" in self._listed else ""):
            if answer is not None and (not self._part.left or self._part.must_end()):
                break
            try:
                answer = self._request_all(partial(self._get, classes), waits_between=False)
            except NotSendingError as error:
                refusal = error
        if answer is None:
            raise refusal or NotSendingError(f"{self._request.remote} sends nothing by C-GET. Retrieve by C-MOVE.")
        return answer

    def _modality(self) -> str:
        """The Modality of the series; empty if the remote does not say."""
        keys = {"StudyInstanceUID": self._study_uid, "SeriesInstanceUID": self._series_uid, "Modality": ""}
        with suppress(AssociationError), QuerySession(self._request, self._part.claim) as session:
            _, found = session.find(Level.SERIES, keys, lambda match: value(match, _MODALITY))
            return found[0] if found and self._series_uid else ""
        return ""

    def _get(self, classes: Sequence[str], uids: UIDs) -> MoveOutcome:
        """Fetch by C-GET straight into the output directory."""
        request, arrivals = self._request, self._arrivals
        get_request = GetRequest(
            remote=request.remote,
            output_dir=request.directory,
            query_model=request.query_model,
            study_uid=self._study_uid,
            series_uid=self._series_uid or None,
            sop_instance_uids=uids,
            priority=request.priority,
        )

        def add(outcome: InstanceOutcome) -> None:
            lease.moved(1, outcome.size)
            arrivals.add(outcome)
            self._part.pacing.arrived(outcome.size)

        try:
            with leased(request, self._part.job_id, self._part.must_end, one_of_many=True) as lease:
                reception = c_get.Reception(
                    on_instance=add,
                    check_arrived=arrivals.so_far,
                    place=arrivals.place,
                    owner=owner_of(self._part),
                    rare=self._tries > 0,
                    limits=limits_in(get_request.output_dir),
                    listed=self._syntaxes,
                    # Before what has come is recorded: that may end the job.
                    on_refused=self._record_refused,
                    directory=self._directory,
                )
                return c_get.get(
                    get_request, local_ae(request), timeouts(request), lease.stop, classes, reception=reception
                )
        finally:
            arrivals.record()

    def _record_refused(self, number: int) -> None:
        ledger().studies.record_notes(self._part.job_id, self._study_uid, refused=number)

    def _request_all(self, request_once: RequestOnce, *, waits_between: bool = True) -> Answer:
        """Request the whole series or study, or what is missing by lists of UIDs."""
        size = self._part.pacing.list_size(_LONGEST_LIST, waits_between=waits_between)
        lists: list[UIDs] = [()] if self._whole else lists_of(self._arrivals.missing(), size)
        return self._request_lists(lists, request_once, halve=True)

    @property
    def _number(self) -> int:
        return self._arrivals.number

    def _missing_of(self, uids: UIDs) -> Sequence[str]:
        return [uid for uid in uids if self._arrivals.wants(uid)]

    def _record_method(self, method: Method) -> None:
        """Have the outcome of the study name the method by which instances have come."""
        study = self._part.job_id, self._study_uid
        if method not in self._worked:
            self._worked.add(method)
            self._choice.record_success(method)
            ledger().studies.record_method(*study, method, "; ".join(self._choice.remarks()))
        (more, again), now = self._recorded, (self._arrivals.extra, self._arrivals.again)
        ledger().studies.record_notes(*study, more=now[0] - more, again=now[1] - again)
        self._recorded = now

    def worth_another_try(self, answer: Answer) -> bool:
        gone = self._receiver is not None and (self._receiver_gone or not accepts_connections(self._receiver))
        return gone or super().worth_another_try(answer)

    def record_missing(self, answer: Answer) -> None:
        """Record by name what the remote listed and did not deliver; of what it only counted, record how many."""
        what = "The remote lists this instance but did not deliver it"
        if self._counted:
            what = f"{len(self._part.left)} of {self._part.size} instances did not come"
        refusals = "".join(f" {remark(*each)}." for each in self._choice.excluded.items())
        others = "".join(map(_unexpected, self._strangers))
        reason = f"{what} ({answer.text}).{refusals}{others} Retry the job."
        self._fail_rest(InstanceCategory.MISSING, reason, answer.status)


def _unexpected(stranger: Stranger) -> str:
    """Say who sent instances in the place of the PACS, and how to accept them."""
    return (
        f" Instances of it came from {stranger}, were not expected from there, and are unsolicited. If that is the "
        f"same PACS, set {' and '.join(stranger.settings)} in its [remotes.NAME] table on the workers."
    )


def _listed_syntaxes(lines: Iterable[RetrieveLine]) -> Mapping[str, Collection[str]]:
    """Give the transfer syntaxes that the remote lists of each class of which it lists those of every instance."""
    found: dict[str, set[str]] = {}
    unknown = set()
    for line in lines:
        if line.transfer_syntax_uids:
            found.setdefault(line.sop_class_uid, set()).update(line.transfer_syntax_uids.split("\\"))
        else:
            unknown.add(line.sop_class_uid)
    return {sop_class_uid: syntaxes for sop_class_uid, syntaxes in found.items() if sop_class_uid not in unknown}
