"""Where the receiver puts an instance: what a job expects is apart from what nobody asked for."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

import redis

from pacs_tasks.connection import connect
from pacs_tasks.dimse.files.storage import instance_path
from pacs_tasks.dimse.scp.c_store import NOT_AUTHORISED, OUT_OF_RESOURCES, Arrival, Refusal
from pacs_tasks.errors import BrokerUnavailableError
from pacs_tasks.fleet.receivers import EXPECTED_FOR, INCOMING, UNSOLICITED, ExpectedSeries
from pacs_tasks.settings import Settings, Unsolicited

logger = logging.getLogger("pacs_tasks.receiver")

_NOBODY_ASKED = Refusal(NOT_AUTHORISED, "nobody asked for this series; this receiver takes no others")
#: Every sender may try this again (PS3.4 table B.2-1).
_NOBODY_KNOWS = Refusal(OUT_OF_RESOURCES, "its Redis does not say whether it was asked for; try again")
#: Seconds for which it is believed that a series is expected.
_BELIEVED = 1.0
#: Seconds for which it is believed that a series is not, where its sender names no C-MOVE: such a stream is seldom
#: anything else than what nobody asked for, and one question for each instance would slow it down.
_DISBELIEVED = 0.5
#: Seconds that Redis has for an answer. One that is away is left alone for a second and for four times as long as it
#: kept us waiting, so that receiving keeps four fifths of its speed.
_QUICK = 1.0
_PAUSE = 1.0
_PAUSES = 4
#: Answers that are remembered; strangers choose how many there are.
_MOST_REMEMBERED = 1000


class Expectations:
    """What is expected at this receiver; Redis is asked as seldom as its answers may be believed. Safe in threads."""

    def __init__(self, redis_url: str, timeout: float, receiver_ae_title: str) -> None:
        self._url, self._timeout, self._ae_title = redis_url, min(timeout, _QUICK), receiver_ae_title
        #: Study and series to the answer, and when it was given.
        self._said: dict[tuple[str, str], tuple[bool, float]] = {}
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._expected: ExpectedSeries | None = None
        self._deaf_until = 0.0
        self._lost = False

    def has(self, arrival: Arrival) -> bool | None:
        """Whether a job expects this instance; None where nobody can tell, since Redis is away.

        While it is away, what was expected a moment ago is still believed to be.
        """
        named = arrival.study_uid, arrival.series_uid
        known = self._believed(named, arrival.moved)
        if known is not None:
            return known
        # One after the other: where Redis is silent, the first finds out for all.
        with self._lock:
            known = self._believed(named, arrival.moved)
            return self._ask(named) if known is None else known

    def _believed(self, named: tuple[str, str], moved: bool) -> bool | None:
        said, at = self._said.get(named, (False, float("-inf")))
        age = time.monotonic() - at
        if said:
            return True if age < _BELIEVED else None
        return False if age < _DISBELIEVED and not moved else None

    def _ask(self, named: tuple[str, str]) -> bool | None:
        began = time.monotonic()
        if began >= self._deaf_until:
            try:
                said = self._connected().is_expected(self._ae_title, *named)
            except (BrokerUnavailableError, redis.RedisError) as error:
                now = time.monotonic()
                self._deaf_until = now + _PAUSE + _PAUSES * (now - began)
                self._tell(error)
            else:
                self._tell(None)
                if len(self._said) >= _MOST_REMEMBERED:
                    self._said.clear()
                self._said[named] = said, time.monotonic()
                return said
        said, at = self._said.get(named, (False, 0.0))
        return True if said and began - at < EXPECTED_FOR else None

    def _connected(self) -> ExpectedSeries:
        if self._expected is None:
            self._client = connect(self._url, self._timeout)
            self._expected = ExpectedSeries(self._client)
        return self._expected

    def _tell(self, error: Exception | None) -> None:
        """Say once that Redis is away, and once that it is back."""
        if error is not None and not self._lost:
            logger.warning("nobody can tell what jobs expect: %s", error)
        elif error is None and self._lost:
            logger.info("what jobs expect is known again")
        self._lost = error is not None

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                with contextlib.suppress(redis.RedisError, OSError):
                    self._client.close()


class Places:
    """Gives each instance its place below the receiver's directory, or refuses it."""

    def __init__(self, config: Settings, expectations: Expectations) -> None:
        self._incoming, self._unsolicited = config.received / INCOMING, config.received / UNSOLICITED
        self._refuses = config.unsolicited is Unsolicited.REFUSE
        self._expectations = expectations

    def place(self, arrival: Arrival) -> Path | Refusal:
        """As :data:`pacs_tasks.dimse.scp.c_store.Place`."""
        expected = self._expectations.has(arrival)
        if not expected and self._refuses:
            return _NOBODY_KNOWS if expected is None else _NOBODY_ASKED
        # What nobody can tell is kept: the job that may have asked for it will ask again.
        below = self._incoming if expected else self._unsolicited
        return instance_path(below, arrival.study_uid, arrival.series_uid, arrival.sop_instance_uid)

    def is_unsolicited(self, path: str) -> bool:
        """Whether this is the place of something that nobody asked for."""
        return path.startswith(f"{self._unsolicited}{os.sep}")
