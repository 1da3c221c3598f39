"""Which way a part of a retrieve is asked for: C-MOVE where a receiver runs and the peer knows it, else C-GET.

What a peer refuses is remembered for all parts and jobs; it says which way is tried first, and shuts none for good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pacs_tasks.errors import ContextRejectedError, NotSendingError
from pacs_tasks.fleet.associations import name_of
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.fleet.refusals import Method, Refusals, get_of, move_to
from pacs_tasks.request import RetrieveMethod, RetrieveRequest
from pacs_tasks.tasks.engine.base import ledger, local_ae
from pacs_tasks.tasks.retrieve.by_c_move import NoReceiverError, receiver_for


class Choice:
    """The ways of one try at a part.

    Parameters
    ----------
    sop_class_uids
        Of the instances that are wanted.

    Attributes
    ----------
    why_not
        Why a way is none: as the peer has said, now or before, or since no receiver is there.
    """

    def __init__(self, request: RetrieveRequest, sop_class_uids: Collection[str]) -> None:
        self._request, self._classes = request, sop_class_uids
        self._refusals = Refusals(ledger().client, name_of(request.remote), local_ae(request).ae_title)
        self._refused = self._refusals.reasons()
        self.why_not: dict[Method, str] = {}
        self._expected: set[Method] = set()

    def receiver(self) -> Receiver:
        """The receiver that C-MOVE delivers to; it raises :class:`NoReceiverError`."""
        return receiver_for(self._request.move_aet)

    def order(self, *, get_first: bool) -> Iterator[tuple[Method, bool]]:
        """The ways, those that the peer has refused last; and whether it has."""
        if self._request.method is not RetrieveMethod.AUTO:
            yield (Method.GET if self._request.method is RetrieveMethod.GET else Method.MOVE), False
            return
        ways = [Method.GET, Method.MOVE] if get_first else [Method.MOVE, Method.GET]
        for way in ways:
            why = self._known_refusal(way)
            if why:
                self.why_not[way] = why
        refused = list(self.why_not)
        yield from ((way, False) for way in ways if way not in refused)
        yield from ((way, True) for way in refused)

    def _known_refusal(self, way: Method) -> str:
        whats = [Method.MOVE.value]
        if way is Method.MOVE:
            try:
                whats.append(move_to(self.receiver().ae_title))
            except NoReceiverError as error:
                self.out(way, error)
                return str(error)
        else:
            whats = [Method.GET.value]
            if all(get_of(each) in self._refused for each in self._classes):
                whats += map(get_of, self._classes)
        return next((self._refused[what] for what in whats if what in self._refused), "")

    def out(self, way: Method, error: Exception) -> None:
        """A way turned out to be none."""
        self.why_not.setdefault(way, str(error))
        if isinstance(error, NoReceiverError) and error.expected:
            self._expected.add(way)

    def refused(self, way: Method, error: ContextRejectedError) -> None:
        """The peer does not offer a way, or not for these classes."""
        if isinstance(error, NotSendingError):
            self._note(way, [get_of(each) for each in self._classes], "it will not send these SOP classes to us")
        else:
            self._note(way, [way.value], f"it does not offer {way}")

    def unknown(self, receiver: Receiver) -> None:
        """The peer does not know a receiver."""
        why = f"it does not know the move destination {receiver.ae_title} (A801)"
        self._note(Method.MOVE, [move_to(receiver.ae_title)], why)

    def _note(self, way: Method, whats: list[str], why: str) -> None:
        self._refusals.record(whats, why)
        self.why_not[way] = why

    def works(self, way: Method) -> None:
        """Instances have come by this way."""
        self.why_not.pop(way, None)
        mine = [way.value, *map(get_of, self._classes)] if way is Method.GET else [way.value]
        if way is Method.MOVE:
            mine.append(move_to(self.receiver().ae_title))
        known = self._refused.keys() & mine
        if known:
            self._refusals.forget(known)

    def remarks(self) -> list[str]:
        """Why it was not another way; nothing where a site just has no receiver."""
        return [f"{way} was no way: {why}" for way, why in self.why_not.items() if way not in self._expected]

    def no_way(self, *, again: bool) -> Exception:
        """The error where neither is one, with both reasons and what to do.

        ``again``: there was one before. So a receiver that has gone may be back.
        """
        kind: type[Exception] = ContextRejectedError
        move, get = (self.why_not[way].partition(";")[0] for way in (Method.MOVE, Method.GET))
        try:
            receiver = self.receiver()
            help_ = f"ask its administrator to add {receiver.ae_title} with the host and port of its receiver"
        except NoReceiverError:
            kind = NoReceiverError if again else kind
            help_ = "start a receiver that it knows (`pacs-tasks receiver`)"
        return kind(
            f"there is no way to retrieve from {self._request.remote}: by C-MOVE, {move}; by C-GET, {get}; "
            f"{help_}, or ask to be allowed C-GET"
        )
