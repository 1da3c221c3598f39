"""The record of storage commitment (PS3.4 annex J): the requests of a job, and what the remote reported.

It belongs to the job that sent the instances. A transaction is one field of a hash, however many instances it covers.
A report reaches the process that requested it or a receiver, perhaps twice, perhaps days later: for each instance, the
first report counts.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, cast

from pydantic import Field

from pacs_tasks.ae import Value
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.ledger.keys import Scripts, job_key, transaction_key
from pacs_tasks.ledger.outcomes import TRANSFERRED, Instances, LineOutcome
from pacs_tasks.outcome import InstanceCategory, InstanceOutcome, Status, StatusCategory
from pacs_tasks.outcome.verification import Commitment, CommitmentReport, CommitmentState

#: Reports about one transaction may come at the same time; an honest remote needs fewer tries than this.
_TRIES = 20

#: Gives the meaning of a Failure Reason, (0008,1197).
Meaning = Callable[[int], Status]


class Transaction(Value):
    """One request to a remote, for the receipts ``start`` up to ``stop`` of a job and for the lines ``others``."""

    peer: str
    #: Unix seconds.
    asked: float
    start: int = 0
    stop: int = 0
    others: tuple[int, ...] = ()
    #: Time of the first report in Unix seconds; 0 before that.
    reported: float = 0.0
    #: Index to Failure Reason, (0008,1197).
    failed: Mapping[int, int] = Field(default_factory=dict)
    #: Failure Reason to its meaning.
    meanings: Mapping[int, Status] = Field(default_factory=dict)
    #: Indices that no report has named.
    unnamed: tuple[int, ...] = ()
    #: Why the remote rejected the request.
    refused: str = ""

    @property
    def answered(self) -> bool:
        return bool(self.reported or self.refused)

    @property
    def has_failures(self) -> bool:
        """Whether the remote rejected the request, or did not commit to all of its instances."""
        return bool(self.refused or self.failed or self.unnamed)

    @property
    def size(self) -> int:
        return self.stop - self.start + len(self.others)

    def failure(self, index: int) -> Status | None:
        """Give the Failure Reason of one of its instances, if the remote reported one."""
        code = self.failed.get(index)
        if code is None:
            return None
        unknown = Status(code=code, category=StatusCategory.PERMANENT, meaning="failure reason without a known meaning")
        return self.meanings.get(code, unknown)

    def commitment(self, index: int) -> Commitment:
        """Give the state of one of its instances."""
        state, when, reason = CommitmentState.FAILED, self.reported, ""
        if self.refused:
            when, reason = self.asked, self.refused
        elif not self.reported:
            state, when = CommitmentState.PENDING, self.asked
        elif failure := self.failure(index):
            reason = str(failure)
        elif index in self.unnamed:
            reason = "the report of the PACS does not name this instance"
        else:
            state = CommitmentState.COMMITTED
        return Commitment(state=state, time=when, peer=self.peer, reason=reason)


class Group(NamedTuple):
    """Some of the instances that a job sent: index and outcome of each, and the places of their receipts."""

    members: list[tuple[int, InstanceOutcome]]
    start: int = 0
    stop: int = 0

    def transaction(self, remote: str) -> Transaction:
        """Make the request for these instances."""
        others = tuple(index for index, _ in self.members) if self.stop == 0 else ()
        return Transaction(peer=remote, asked=time.time(), start=self.start, stop=self.stop, others=others)


class Commitments:
    """The transactions of one job."""

    def __init__(self, ledger: Ledger, job_id: str) -> None:
        self._ledger, self._redis, self._job_id = ledger, ledger.client, job_id
        self._key = job_key(job_id, "commitments")
        self._run = Scripts(ledger.client).run
        self._instances = Instances(ledger, job_id)
        self._sealer = ledger.seals.of(job_id)

    def groups(self, size: int) -> Iterator[Group]:
        """Read the instances that the job sent, or that were already there, at most ``size`` at a time."""
        count = self._instances.receipt_count()
        for start in range(0, count, size):
            stop = min(start + size, count)
            yield Group(self._instances.receipts(start, stop), start, stop)
        others = [each for each in self._ledger.problems(self._job_id) if each[1].category in TRANSFERRED]
        for start in range(0, len(others), size):
            yield Group(others[start : start + size])

    def begin(self, transaction_uid: str, transaction: Transaction) -> None:
        """Record a request before it is sent: the report may come before the response to it."""
        self._redis.set(transaction_key(transaction_uid), self._job_id, ex=self._ledger.keep)
        self._redis.hset(self._key, transaction_uid, self._sealed(transaction_uid, transaction))
        self._ledger.touch(self._job_id)

    def reject(self, transaction_uid: str, reason: str) -> None:
        """Record that the remote rejected a request."""
        self._change(transaction_uid, lambda before: before.model_copy(update={"refused": reason}))

    def record_report(self, report: CommitmentReport, meaning: Meaning) -> bool:
        """Record a report; false if there is no such transaction any more."""
        return self._change(report.transaction_uid, lambda before: self._reported(before, report, meaning))

    def unanswered(self, transaction_uids: Collection[str]) -> set[str]:
        """Give those of the transactions that have no answer."""
        known = self._transactions(transaction_uids)
        return {uid for uid in transaction_uids if uid in known and not known[uid].answered}

    def totals(self, transaction_uids: Collection[str]) -> tuple[dict[CommitmentState, int], list[InstanceOutcome]]:
        """Count the instances of these transactions by state, and give those that failed, in order."""
        counts = dict.fromkeys(CommitmentState, 0)
        problems: dict[int, InstanceOutcome] = {}
        for each in self._transactions(transaction_uids).values():
            if not each.has_failures:
                counts[CommitmentState.COMMITTED if each.answered else CommitmentState.PENDING] += each.size
                continue
            members = self._members(each)
            states = {index: each.commitment(index) for index, _ in members}
            failed = [member for member in members if states[member[0]].state is CommitmentState.FAILED]
            counts[CommitmentState.FAILED] += len(failed)
            counts[CommitmentState.COMMITTED] += len(members) - len(failed)
            subjects = self._instances.subjects(index for index, _ in failed)
            for index, outcome in failed:
                status, reason = each.failure(index), states[index].reason
                problems[index] = _failed_outcome(outcome, subjects[index], status, reason)
        return counts, [problems[index] for index in sorted(problems)]

    def latest(self) -> LatestCommitments:
        """Read the state of each instance now."""
        fields = cast("dict[str, str]", self._redis.hgetall(self._key))
        return LatestCommitments([self._read(uid, text) for uid, text in fields.items()])

    def _transactions(self, uids: Collection[str]) -> dict[str, Transaction]:
        texts = cast("list[str | None]", self._redis.hmget(self._key, list(uids))) if uids else []
        found = zip(uids, texts, strict=True)
        return {uid: self._read(uid, text) for uid, text in found if text is not None}

    def _sealed(self, uid: str, transaction: Transaction) -> str:
        return self._sealer.seal(transaction.model_dump_json(), f"commitments {uid}")

    def _read(self, uid: str, text: str) -> Transaction:
        return Transaction.model_validate_json(self._sealer.unseal(text, f"commitments {uid}"))

    def _members(self, transaction: Transaction) -> list[tuple[int, InstanceOutcome]]:
        found = self._instances.receipts(transaction.start, transaction.stop) if transaction.stop else []
        return [*found, *self._instances.problems(transaction.others).items()]

    def _reported(self, before: Transaction, report: CommitmentReport, meaning: Meaning) -> Transaction:
        """Give the transaction after a report, which counts for the instances that no earlier report named."""
        failed, unnamed = dict(before.failed), []
        for index, outcome in self._members(before):
            uid = outcome.sop_instance_uid
            if before.reported and index not in before.unnamed:
                continue
            if uid in report.failed:
                failed[index] = report.failed[uid]
            elif uid not in report.committed:
                unnamed.append(index)
        changed = {
            "reported": before.reported or time.time(),
            "failed": failed,
            "meanings": {code: meaning(code) for code in set(failed.values())},
            "unnamed": tuple(unnamed),
            "refused": "",
        }
        return before.model_copy(update=changed)

    def _change(self, transaction_uid: str, change: Callable[[Transaction], Transaction]) -> bool:
        """Change a transaction in one step, even if others do so at the same time; false if there is none."""
        for _ in range(_TRIES):
            text = cast("str | None", self._redis.hget(self._key, transaction_uid))
            if text is None:
                return False
            before = self._read(transaction_uid, text)
            after = change(before)
            arguments = [transaction_uid, text, self._sealed(transaction_uid, after)]
            if after == before or self._run("replace", [self._key], arguments):
                self._ledger.touch(self._job_id)
                return True
        raise PacsTasksError("The record of this transaction keeps changing. Report once and wait for the response.")


def _failed_outcome(sent: InstanceOutcome, subject: str, status: Status | None, reason: str) -> InstanceOutcome:
    """Make the outcome of a sent instance to which the remote did not commit; a status gives the reason itself."""
    return InstanceOutcome(
        subject=subject,
        category=InstanceCategory.FAILED,
        sop_class_uid=sent.sop_class_uid,
        sop_instance_uid=sent.sop_instance_uid,
        status=status,
        reason="" if status else reason,
    )


class LatestCommitments:
    """Finds, for each instance of a job, the transaction that was answered last, or requested last if none was."""

    def __init__(self, transactions: list[Transaction]) -> None:
        # Those with an answer come last, so that they win.
        self._transactions = sorted(transactions, key=lambda each: (each.answered, each.reported or each.asked))
        self._of_place = array("l", [-1]) * max((each.stop for each in transactions), default=0)
        self._of_index: dict[int, int] = {}
        for number, each in enumerate(self._transactions):
            self._of_place[each.start : each.stop] = array("l", [number]) * (each.stop - each.start)
            self._of_index.update(dict.fromkeys(each.others, number))

    def of(self, line: LineOutcome) -> Commitment | None:
        """Give the state of an instance; nothing if commitment was never requested."""
        number = self._of_index.get(line.number, -1)
        if line.place is not None and line.place < len(self._of_place):
            number = self._of_place[line.place]
        return self._transactions[number].commitment(line.number) if number >= 0 else None


def record_report(ledger: Ledger, report: CommitmentReport, meaning: Meaning) -> bool:
    """Record a report for whichever job; false if the transaction is unknown, or its job has expired."""
    job_id = cast("str | None", ledger.client.get(transaction_key(report.transaction_uid)))
    return job_id is not None and Commitments(ledger, job_id).record_report(report, meaning)


def is_known(ledger: Ledger, transaction_uid: str) -> bool:
    """Whether a job awaits a report about this transaction, or did so not long ago."""
    return bool(ledger.client.exists(transaction_key(transaction_uid)))
