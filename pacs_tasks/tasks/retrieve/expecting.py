"""What a part expects at a receiver while its C-MOVE runs, so that the receiver tells it from what nobody asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet.expectations import LIFETIME, Expected
from pacs_tasks.fleet.receivers import Receiver
from pacs_tasks.tasks.engine.base import ledger
from pacs_tasks.tasks.engine.claim import Claim
from pacs_tasks.tasks.engine.heartbeat import pulse

logger = logging.getLogger(__name__)


class _Expectation:
    """One series, or a whole study, at one receiver; it lives as long as the owner of the claim gives signs of life."""

    def __init__(self, claim: Claim, receiver: Receiver, study_uid: str, series_uid: str) -> None:
        self._claim = claim
        self._expected = Expected(ledger().client)
        self._what = (receiver.ae_title, study_uid, series_uid, claim.owner)

    @property
    def seen(self) -> float:
        return self._claim.seen

    def prolong(self) -> None:
        self._expected.expect(*self._what, LIFETIME)

    def forget(self) -> None:
        self._expected.forget(*self._what)


@contextmanager
def expecting(claim: Claim, receiver: Receiver, study_uid: str, series_uid: str) -> Iterator[None]:
    """Expect a series, or with an empty ``series_uid`` its study, at a receiver during the block.

    Raises
    ------
    BrokerUnavailableError
        If Redis is away: nothing is to be asked for then, since nobody would know that it was.
    """
    expectation = _Expectation(claim, receiver, study_uid, series_uid)
    expectation.prolong()
    pulse().keep(expectation)
    try:
        yield
    finally:
        pulse().forget(expectation)
        try:
            expectation.forget()
        except (BrokerUnavailableError, redis.RedisError) as error:
            logger.debug("an expectation was not taken back (%s); it runs out", type(error).__name__)
