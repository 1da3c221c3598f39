"""How long remotes take to answer files: whether another association is worthwhile, and when a remote is too silent."""

from __future__ import annotations

import math

from pacs_tasks.fleet.leases import name_of
from pacs_tasks.ledger.outcomes import Instances
from pacs_tasks.request import TransferRequest
from pacs_tasks.tasks.engine.base import ledger, timeouts

#: A file at which an association was lost gets so many times the usual time of an answer, and at least so many seconds.
_PATIENCE, LEAST_PATIENCE = 10.0, 5.0
#: A remote that has answered so often, and never taken longer than a part of the limit, is not waited for that long:
#: it does not digest the file. Each file gets a second for so many bytes in any case.
_KNOWN, _USUAL_SHARE, _LIMIT_SHARE, _SLOWEST_RATE = 20, 0.03, 0.6, 1 << 20
#: Remotes of which one process remembers how fast they answer.
_MOST_REMOTES = 1_000
#: Files that tell what is usual.
_SAMPLES = 200
#: Seconds of a round trip, or of each of so many answers, with which a remote is worth helpers. On a line of 20 ms two
#: cores are busy with as many associations as there are parts.
FAR, _FEW = 0.04, 5
#: How many times as long as the fastest ones of their size answers may take: else the remote, or this process, is busy.
#: Each counts so much in that average. The fastest ones grow with each answer, since lines and remotes change.
_BUSY, _LATE, _FORGET = 1.25, 0.1, 1.003


class Answers:
    """How long a remote takes to answer, as this process has seen it.

    Attributes
    ----------
    number
        Files that it has answered.
    slowest
        The most seconds that one took.
    """

    def __init__(self) -> None:
        self.number, self.slowest = 0, 0.0
        #: The fewest seconds that a file took, by the binary logarithm of its size.
        self._fastest: dict[int, float] = {}
        #: How many times as long as that they take of late.
        self._stretch = 1.0

    def note(self, seconds: float, size: int | None) -> None:
        """Note an answer to a file of so many bytes; None if it says nothing of the speed of the remote."""
        self.number, self.slowest = self.number + 1, max(self.slowest, seconds)
        # The clock of this machine may have been set.
        if size is not None and seconds > 0:
            kind = size.bit_length()
            self._fastest[kind] = min(_FORGET * self._fastest.get(kind, math.inf), seconds)
            self._stretch += _LATE * (seconds / self._fastest[kind] - self._stretch)

    def allow_another(self, round_trip: float) -> bool:
        """Whether another association is worthwhile: one waits for the line or the remote, and neither is busy."""
        far = round_trip >= FAR or (self.number >= _FEW and min(self._fastest.values(), default=0.0) >= FAR)
        return far and self._stretch <= _BUSY


#: By remote.
_answers: dict[str, Answers] = {}


def answers_of(remote: str) -> Answers:
    if remote not in _answers and len(_answers) >= _MOST_REMOTES:
        _answers.clear()
    return _answers.setdefault(remote, Answers())


def first_patience(request: TransferRequest, largest: int) -> float | None:
    """Seconds that a remote may stay silent at files of which none has given trouble yet; None for the usual limit.

    A remote that answers everything else at once does not answer at all after half a minute of silence.
    """
    answers = answers_of(name_of(request.remote))
    limit = timeouts(request).dimse
    if answers.number < _KNOWN or answers.slowest > _USUAL_SHARE * limit:
        return None
    return _LIMIT_SHARE * limit + largest / _SLOWEST_RATE


def patience_at_lost(job_id: str, size: int) -> float | None:
    """Seconds in which the remote answers a file of this size, by far; nothing if it has not answered any."""
    sent = [each for _, each in Instances(ledger(), job_id).receipts(0, _SAMPLES) if each.begun]
    if not sent:
        return None
    seconds = sum(each.ended - each.begun for each in sent)
    usual = max(seconds / len(sent), seconds / max(1, sum(each.size for each in sent)) * size)
    return max(LEAST_PATIENCE, _PATIENCE * usual)
