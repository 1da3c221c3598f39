"""What each process of the receiver does: it stores instances and records storage commitment reports.

Expected and unsolicited instances have separate directories.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from redis import RedisError

from pacs_tasks.connection import QUICK, LateConnection
from pacs_tasks.dimse.files.final_name import OTHER_CONTENT
from pacs_tasks.dimse.files.storage import kept_path
from pacs_tasks.dimse.scp.c_store import NOT_AUTHORISED, OUT_OF_RESOURCES, Arrival, Refusal
from pacs_tasks.dimse.scp.limits import Limits, Space
from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.status import commitment_failure
from pacs_tasks.errors import BrokerUnavailableError, PacsTasksError
from pacs_tasks.fleet.receivers import EXPECTED_FOR, INCOMING, UNSOLICITED, ExpectedSeries, count_reception
from pacs_tasks.fleet.senders import Expectation, Stranger
from pacs_tasks.journal.logs import log_plainly, write_lines
from pacs_tasks.ledger.commitments import is_known, record_report
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.outcome.verification import CommitmentReport
from pacs_tasks.settings import Settings, Unsolicited
from workers.receiver.callers import KnownCallers
from workers.receiver.directory import UnsolicitedQuota

logger = logging.getLogger("pacs_tasks.receiver")

_UNSOLICITED = Refusal(NOT_AUTHORISED, "No job has requested this series; other series are refused", counted=True)
#: A sender may try again after this status (PS3.4 table B.2-1).
_UNCERTAIN = Refusal(OUT_OF_RESOURCES, "Cannot check in Redis whether it was requested; try again")
_FULL = Refusal(OUT_OF_RESOURCES, "There is no room for instances that no job has requested")
FORMAT = "%(asctime)s %(levelname)s %(message)s"
#: Seconds between two logs of the counts.
_LOG = 5.0
#: Seconds that associations may take to end when the receiver ends.
STOP_LIMIT = 10.0
#: Seconds for which the answer that a series is expected is reused.
_REUSE_EXPECTED = 1.0
#: Seconds for which the answer that a series is not expected is reused, if its sender names no C-MOVE. Such instances
#: are rarely anything but unsolicited, and one request to Redis for each would slow them down.
_REUSE_UNEXPECTED = 0.5
#: After a failure, no request is sent for a second and four times the time that the failed one took, so that receiving
#: keeps four fifths of its speed.
_PAUSE = 1.0
_PAUSES = 4
#: Answers that are remembered; without a limit, senders would decide how many there are.
_MOST_REMEMBERED = 1000
#: Strangers that are recorded for one owner of an expectation.
_MOST_STRANGERS = 10


class Expectations:
    """Which series jobs expect at this receiver, with as few requests to Redis as possible. Thread-safe."""

    def __init__(self, redis_url: str, timeout: float, receiver_ae_title: str) -> None:
        self._redis, self._ae_title = LateConnection(redis_url, min(timeout, QUICK)), receiver_ae_title
        #: Study and series to the answer, and when it was given.
        self._answers: dict[tuple[str, str], tuple[tuple[Expectation, ...], float]] = {}
        #: Who else sent what an owner expects.
        self._strangers: dict[str, set[Stranger]] = {}
        self._lock = threading.Lock()
        self._away_until = 0.0
        self._lost = False

    def has(self, arrival: Arrival) -> bool | None:
        """Whether a job expects this instance from its sender; None if Redis is away.

        While Redis is away, a series that was expected a moment ago still counts as expected.
        """
        known = self._known(arrival)
        if known is None:
            # If Redis does not answer, only the first thread waits for it.
            with self._lock:
                known = self._known(arrival)
                known = self._request(arrival) if known is None else known
        if known is False:
            self._note_stranger(arrival)
        return known

    def _known(self, arrival: Arrival) -> bool | None:
        expected, at = self._answers.get((arrival.study_uid, arrival.series_uid), ((), float("-inf")))
        age = time.monotonic() - at
        if _accepted(expected, arrival):
            return True if age < _REUSE_EXPECTED else None
        return False if age < _REUSE_UNEXPECTED and arrival.originator is None else None

    def _request(self, arrival: Arrival) -> bool | None:
        named = arrival.study_uid, arrival.series_uid
        began = time.monotonic()
        if began >= self._away_until:
            try:
                expected = self._expected.expectations(self._ae_title, *named)
            except (BrokerUnavailableError, RedisError) as error:
                now = time.monotonic()
                self._away_until = now + _PAUSE + _PAUSES * (now - began)
                self._log(error)
            else:
                self._log(None)
                if len(self._answers) >= _MOST_REMEMBERED:
                    self._answers.clear()
                self._answers[named] = expected, time.monotonic()
                return _accepted(expected, arrival)
        expected, at = self._answers.get(named, ((), 0.0))
        return True if _accepted(expected, arrival) and began - at < EXPECTED_FOR else None

    def _note_stranger(self, arrival: Arrival) -> None:
        """Record, once for each owner, who else sent what it expects, so that its outcome can say so."""
        expected, _ = self._answers.get((arrival.study_uid, arrival.series_uid), ((), 0.0))
        for each in expected:
            if arrival.sender is None:
                return
            stranger = each.stranger(arrival.sender, arrival.originator)
            with self._lock:
                if len(self._strangers) >= _MOST_REMEMBERED:
                    self._strangers.clear()
                known = self._strangers.setdefault(each.owner, set())
                if stranger in known or len(known) >= _MOST_STRANGERS:
                    continue
                known.add(stranger)
                logger.warning(
                    "%s sent an instance of a series that a job expects from another AE; it is unsolicited.", stranger
                )
                with contextlib.suppress(BrokerUnavailableError, RedisError):
                    self._expected.record_stranger(each.owner, stranger)

    @cached_property
    def _expected(self) -> ExpectedSeries:
        return ExpectedSeries(self._redis.client())

    def _log(self, error: Exception | None) -> None:
        """Log once that Redis is away, and once that it is back."""
        if error is not None and not self._lost:
            logger.warning("The receiver cannot check what jobs expect: %s", error)
        elif error is None and self._lost:
            logger.info("The receiver can check again what jobs expect.")
        self._lost = error is not None

    def close(self) -> None:
        with self._lock:
            self._redis.close()


def _accepted(expected: tuple[Expectation, ...], arrival: Arrival) -> bool:
    """Whether somebody expects an instance from its sender."""
    sender, originator = arrival.sender, arrival.originator
    return sender is not None and any(each.accepts(sender, originator) for each in expected)


class Places:
    """Gives each instance its path below the receiver's directory, or refuses it."""

    def __init__(self, config: Settings, expectations: Expectations, space: Space) -> None:
        self._incoming, self._unsolicited = config.received / INCOMING, config.received / UNSOLICITED
        self._refuses = config.unsolicited is Unsolicited.REFUSE
        self._expectations = expectations
        self._quota = UnsolicitedQuota(self._unsolicited, config.unsolicited_quota, config.unsolicited_when_full, space)

    def place(self, arrival: Arrival) -> Path | Refusal:
        """Return the path of an instance, or why it is refused (see :data:`pacs_tasks.dimse.scp.c_store.Place`)."""
        expected = self._expectations.has(arrival)
        if not expected and self._refuses:
            return _UNCERTAIN if expected is None else _UNSOLICITED
        if not expected and not self._quota.admits(arrival.path):
            return _FULL
        # If Redis is away, the instance is kept: a job that expects it will request it again.
        below = self._incoming if expected else self._unsolicited
        return kept_path(below, arrival.study_uid, arrival.series_uid, arrival.sop_instance_uid)

    def is_unsolicited(self, path: str) -> bool:
        """Whether this is the path of an unsolicited instance."""
        return path.startswith(f"{self._unsolicited}{os.sep}")


class Counts:
    """How many instances came; nothing else about them may be in a log."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._received = self._failed = self._unsolicited = self._unwelcome = self._twice = self._bytes = 0
        self._logged = (0, 0, 0, 0, 0)

    def add(self, outcome: InstanceOutcome) -> None:
        with self._lock:
            if outcome.category is InstanceCategory.FAILED:
                self._failed += 1
                self._unwelcome += outcome.status is not None and outcome.status.code == NOT_AUTHORISED
            else:
                self._received += 1
                self._bytes += outcome.size
                self._unsolicited += self._places.is_unsolicited(outcome.path)
                self._twice += OTHER_CONTENT in outcome.reason

    def figures(self) -> dict[str, int]:
        """Give the counts for those who watch the fleet."""
        with self._lock:
            expected = self._received - self._unsolicited
            counts = {"expected": expected, "unsolicited": self._unsolicited, "refused": self._failed}
            return {**counts, "bytes": self._bytes}

    def log(self) -> None:
        """Log the counts if they have changed."""
        with self._lock:
            counts = (self._received, self._failed, self._unsolicited, self._unwelcome, self._twice)
        if counts != self._logged:
            again = self._twice != self._logged[-1]
            self._logged = counts
            logger.info(
                "Received %d instances and refused %d; unsolicited were %d of those received and %d of those refused.",
                *counts[:-1],
            )
            if again:
                logger.warning(
                    "%d instances came again with other content; the older files are kept under names with a number.",
                    counts[-1],
                )


class Reports:
    """Records storage commitment reports in Redis."""

    def __init__(self, redis_url: str, config: Settings) -> None:
        self._redis, self._keep = LateConnection(redis_url, config.redis_timeout), config.keep_jobs
        self._lock = threading.Lock()

    def record(self, report: CommitmentReport) -> bool:
        """Record a report; false if its transaction is unknown.

        Raises
        ------
        BrokerUnavailableError
            If Redis is away. The remote receives a failure status and may report again.
        """
        return self._answer(lambda ledger: record_report(ledger, report, commitment_failure))

    def knows(self, transaction_uid: str) -> bool:
        """Whether a report about this transaction can be recorded; raises as :meth:`record`."""
        return self._answer(lambda ledger: is_known(ledger, transaction_uid))

    def _answer(self, run: Callable[[Ledger], bool]) -> bool:
        try:
            with self._lock:
                client = self._redis.client()
            return run(Ledger(client, self._keep))
        except RedisError as error:
            raise BrokerUnavailableError(f"Redis did not record the report ({error}). Check that it runs.") from None

    def close(self) -> None:
        with self._lock:
            self._redis.close()


class Figures:
    """What one process of a receiver has counted, for those who watch the fleet: sent to Redis at intervals."""

    def __init__(self, redis_url: str, timeout: float, ae_title: str) -> None:
        self._redis, self._ae_title = LateConnection(redis_url, timeout), ae_title
        self._sent: Mapping[str, int] = {}

    def send(self, counts: Mapping[str, int]) -> None:
        """Add to Redis what was counted since the last call; later if it does not answer."""
        new = {name: number - self._sent.get(name, 0) for name, number in counts.items()}
        if not any(new.values()):
            return
        try:
            count_reception(self._redis.client(), self._ae_title, new)
        except (PacsTasksError, RedisError) as error:
            logger.debug("figures are sent later (%s)", type(error).__name__)
        else:
            self._sent = dict(counts)

    def close(self) -> None:
        self._redis.close()


def receive(
    config: Settings, redis_url: str, listener: socket.socket, ending: threading.Event, begins: Callable[[], None]
) -> None:
    """Receive until ``ending`` is set; call ``begins`` once it does. Each process of the receiver runs this."""
    log_plainly()
    logging.basicConfig(format=FORMAT, level=logging.INFO, stream=sys.stderr)
    write_lines(config.log_format)
    expectations = Expectations(redis_url, config.redis_timeout, config.receiver_ae_title)
    space = Space(config.received, config.keep_free_bytes)
    places = Places(config, expectations, space)
    counts, reports = Counts(places), Reports(redis_url, config)
    figures = Figures(redis_url, config.redis_timeout, config.receiver_ae_title)
    callers = KnownCallers(config, redis_url)
    callers.start()
    scp = StorageSCP(
        config.receiver_host,
        config.receiver_port,
        config.received,
        on_instance=counts.add,
        listener=listener,
        tls=config.receiver_tls,
        on_report=reports.record,
        knows_transaction=reports.knows,
        place=places.place,
        callers=callers,
        max_associations=config.receiver_max_associations,
        max_per_caller=config.receiver_max_per_caller,
        limits=Limits(config.max_instance_bytes, config.receiver_max_association_bytes, space),
    )
    scp.start()
    begins()
    try:
        while not ending.wait(_LOG):
            counts.log()
            figures.send(counts.figures())
    finally:
        scp.stop(STOP_LIMIT)
        reports.close()
        expectations.close()
        callers.close()
        counts.log()
        figures.send(counts.figures())
        figures.close()
