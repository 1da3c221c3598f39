"""Which methods an attempt at a part uses: C-MOVE if a receiver runs that the remote knows, else C-GET.

A refusal is remembered for all parts and jobs. It decides which method comes first, and excludes none for good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pacs_tasks.dimse.retrieve.c_move import DESTINATION_UNKNOWN
from pacs_tasks.errors import ContextRejectedError, NotSendingError
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.fleet.remotes import Method, Refusals, get_of, move_to, name_of
from pacs_tasks.outcome import Status
from pacs_tasks.request import RetrieveMethod, RetrieveRequest
from pacs_tasks.tasks.engine.base import ledger, local_ae
from pacs_tasks.tasks.retrieve.by_c_move import NoReceiverError, receiver_for


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
        self._refusals = Refusals(ledger().client, name_of(request.remote), local_ae(request).ae_title)
        self._refused = self._refusals.reasons()
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
        self._refusals.record(names, reason)
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
            self._refusals.forget(known)

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
