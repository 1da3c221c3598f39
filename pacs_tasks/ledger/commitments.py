"""The record of storage commitment: what was asked for, in which transaction, and what was reported.

It belongs to the job that sent the instances. A transaction is one field of a hash, however many instances it is
about: which of them it asked for, and the exceptions. A report comes to the process that asked or to a receiver, maybe
twice, maybe days later: what a report says first about an instance stands.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple, cast

from pacs_tasks.dimse.status import commitment_failure
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import key, transaction
from pacs_tasks.ledger.outcomes import Instances, LineOutcome
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome
from pacs_tasks.outcome.verification import Commitment, CommitmentReport, CommitmentState

#: Two reports about one transaction may come at once; so many tries are enough for any honest peer.
_TRIES = 20

#: commitments; transaction, what it was, what it shall be. 1 if it still was that.
_REPLACE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


@dataclass(frozen=True)
class Transaction:
    """One request to a peer, about the receipts ``start`` up to ``stop`` of a job and about the indices ``others``."""

    peer: str
    #: Unix seconds.
    asked: float
    start: int = 0
    stop: int = 0
    others: tuple[int, ...] = ()
    #: When the first report came, in Unix seconds; 0 before that.
    reported: float = 0.0
    #: Index to Failure Reason, (0008,1197).
    failed: Mapping[int, int] = field(default_factory=dict)
    #: Indices that no report has named.
    unnamed: tuple[int, ...] = ()
    #: Why the peer did not take the request.
    refused: str = ""

    @classmethod
    def read(cls, text: str) -> Transaction:
        """Read what :meth:`written` wrote."""
        fields = json.loads(text)
        failed = {int(index): reason for index, reason in fields.pop("failed").items()}
        others, unnamed = tuple(fields.pop("others")), tuple(fields.pop("unnamed"))
        return cls(others=others, failed=failed, unnamed=unnamed, **fields)

    def written(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @property
    def answered(self) -> bool:
        return bool(self.reported or self.refused)

    @property
    def size(self) -> int:
        return self.stop - self.start + len(self.others)

    def about(self, index: int) -> Commitment:
        """The last word about one of its instances."""
        if self.refused:
            return self._word(CommitmentState.FAILED, self.asked, self.refused)
        if not self.reported:
            return self._word(CommitmentState.PENDING, self.asked)
        if index in self.failed:
            return self._word(CommitmentState.FAILED, self.reported, str(commitment_failure(self.failed[index])))
        if index in self.unnamed:
            return self._word(CommitmentState.FAILED, self.reported, "the PACS's report does not name this instance")
        return self._word(CommitmentState.COMMITTED, self.reported)

    def _word(self, state: CommitmentState, when: float, reason: str = "") -> Commitment:
        return Commitment(state=state, time=when, peer=self.peer, reason=reason)


class Group(NamedTuple):
    """Some of what a job has sent: index and outcome of each, and where the receipts among them stand."""

    members: list[tuple[int, InstanceOutcome]]
    start: int = 0
    stop: int = 0

    def transaction(self, peer: str) -> Transaction:
        """The request that is about them."""
        others = tuple(index for index, _ in self.members) if self.stop == 0 else ()
        return Transaction(peer=peer, asked=time.time(), start=self.start, stop=self.stop, others=others)


class Commitments:
    """The transactions of one job."""

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger = ledger
        self._redis = ledger.client
        self._job_id = job_id
        self._key = key(job_id, "commitments")
        self._instances = Instances(ledger, job_id)

    def groups(self, size: int) -> Iterator[Group]:
        """What the job has sent, warnings included, at most ``size`` at a time."""
        count = self._instances.receipts()
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield Group(self._instances.at(start, stop), start, stop)
        warned = [each for each in self._ledger.problems(self._job_id) if each[1].category is InstanceCategory.WARNING]
        for start in range(0, len(warned), size):
            yield Group(warned[start : start + size])

    def begin(self, transaction_uid: str, asked: Transaction) -> None:
        """Note a request before it is made: the report may be here before the answer to it."""
        self._redis.set(transaction(transaction_uid), self._job_id, ex=self._ledger.keep)
        self._redis.hset(self._key, transaction_uid, asked.written())
        self._ledger.touch(self._job_id)

    def refuse(self, transaction_uid: str, reason: str) -> None:
        """Note that the peer did not take a request."""
        self._change(transaction_uid, lambda asked: replace(asked, refused=reason))

    def take(self, report: CommitmentReport) -> bool:
        """Note a report; false if there is no such transaction any more."""
        return self._change(report.transaction_uid, lambda asked: self._told(asked, report))

    def open(self, transaction_uids: Collection[str]) -> set[str]:
        """Those that are not answered."""
        known = self._transactions(transaction_uids)
        return {uid for uid in transaction_uids if uid in known and not known[uid].answered}

    def totals(self, transaction_uids: Collection[str]) -> tuple[dict[CommitmentState, int], list[InstanceOutcome]]:
        """How many instances of these transactions are in which state, and what has failed, by name and in order."""
        counts = dict.fromkeys(CommitmentState, 0)
        problems: dict[int, InstanceOutcome] = {}
        for asked in self._transactions(transaction_uids).values():
            if asked.answered and (asked.refused or asked.failed or asked.unnamed):
                words = [(index, outcome, asked.about(index)) for index, outcome in self._members(asked)]
                failed = [each for each in words if each[2].state is CommitmentState.FAILED]
                counts[CommitmentState.FAILED] += len(failed)
                counts[CommitmentState.COMMITTED] += len(words) - len(failed)
                subjects = self._instances.subjects(index for index, *_ in failed)
                problems.update((each[0], _problem(subjects[each[0]], asked, *each)) for each in failed)
            else:
                counts[CommitmentState.COMMITTED if asked.answered else CommitmentState.PENDING] += asked.size
        return counts, [problems[index] for index in sorted(problems)]

    def last_words(self) -> LastWords:
        """The state of each instance now."""
        fields = cast("dict[str, str]", self._redis.hgetall(self._key))
        return LastWords([Transaction.read(text) for text in fields.values()])

    def _transactions(self, uids: Collection[str]) -> dict[str, Transaction]:
        texts = cast("list[str | None]", self._redis.hmget(self._key, list(uids))) if uids else []
        return {uid: Transaction.read(text) for uid, text in zip(uids, texts, strict=True) if text is not None}

    def _members(self, asked: Transaction) -> list[tuple[int, InstanceOutcome]]:
        found = self._instances.at(asked.start, asked.stop) if asked.stop else []
        return [*found, *self._instances.others(asked.others).items()]

    def _told(self, asked: Transaction, report: CommitmentReport) -> Transaction:
        """The transaction as it is after a report: what has not been named before is what the report says."""
        failed, unnamed = dict(asked.failed), []
        for index, outcome in self._members(asked):
            uid = outcome.sop_instance_uid
            if asked.reported and index not in asked.unnamed:
                continue
            if uid in report.failed:
                failed[index] = report.failed[uid]
            elif uid not in report.committed:
                unnamed.append(index)
        reported = asked.reported or time.time()
        return replace(asked, reported=reported, failed=failed, unnamed=tuple(unnamed), refused="")

    def _change(self, transaction_uid: str, change: Callable[[Transaction], Transaction]) -> bool:
        """Change a transaction in one step, whoever else does so at the same time; false if there is none."""
        for _ in range(_TRIES):
            before = cast("str | None", self._redis.hget(self._key, transaction_uid))
            if before is None:
                return False
            after = change(Transaction.read(before)).written()
            replaced = self._redis.register_script(_REPLACE)
            if after == before or replaced(keys=[self._key], args=[transaction_uid, before, after]):
                self._ledger.touch(self._job_id)
                return True
        raise PacsTasksError("the record of this transaction changes all the time; report once and wait for the answer")


def _problem(
    subject: str, asked: Transaction, index: int, outcome: InstanceOutcome, word: Commitment
) -> InstanceOutcome:
    reason = asked.failed.get(index)
    return InstanceOutcome(
        subject=subject,
        category=InstanceCategory.FAILED,
        sop_class_uid=outcome.sop_class_uid,
        sop_instance_uid=outcome.sop_instance_uid,
        status=None if reason is None else commitment_failure(reason),
        reason=word.reason if reason is None else "",
    )


class LastWords:
    """For each instance of a job the transaction that was answered last, or asked last where none was answered."""

    def __init__(self, transactions: list[Transaction]) -> None:
        # What was answered stands behind what was not, so that it wins.
        self._transactions = sorted(transactions, key=lambda each: (each.answered, each.reported or each.asked))
        self._of_place = array("l", [-1]) * max((each.stop for each in transactions), default=0)
        self._of_index: dict[int, int] = {}
        for number, each in enumerate(self._transactions):
            self._of_place[each.start : each.stop] = array("l", [number]) * (each.stop - each.start)
            self._of_index.update(dict.fromkeys(each.others, number))

    def about(self, line: LineOutcome) -> Commitment | None:
        """The last word about an instance; nothing if commitment was never asked for."""
        number = self._of_index.get(line.number, -1)
        if line.place is not None and line.place < len(self._of_place):
            number = self._of_place[line.place]
        return self._transactions[number].about(line.number) if number >= 0 else None


def take(ledger: Ledger, report: CommitmentReport) -> bool:
    """Note a report about whichever job; false if the transaction is none of ours, or its job has expired."""
    job_id = cast("str | None", ledger.client.get(transaction(report.transaction_uid)))
    return job_id is not None and Commitments(ledger, job_id).take(report)
