"""What a run found, as JSON has it."""

from __future__ import annotations

from statistics import median

from pydantic import BaseModel, ConfigDict


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Round(_Value):
    """One round of a case. Times are in seconds."""

    number: int
    #: Repeats the round: ``--only CASE --rounds 1 --seed SEED``.
    seed: int
    #: Files or instances of all jobs of the round.
    files: int = 0
    #: How many failures were injected.
    strikes: int = 0
    #: C-STORE requests that the PACS counted, and instances for which it counted more than one per job; None where
    #: the PACS does not count.
    sends: int | None = None
    twice: int | None = None
    #: Files whose receipt tells of more than one attempt.
    told_twice: int = 0
    #: From the first injected failure to the job's end.
    recovery: float | None = None
    #: The whole round, with all that it starts.
    seconds: float = 0.0
    #: What was found to be wrong, and where the logs are.
    failure: str = ""
    logs: str = ""
    #: What happened when.
    events: tuple[str, ...] = ()


class CaseResult(_Value):
    """All rounds of a case."""

    name: str
    title: str
    rounds: tuple[Round, ...]

    @property
    def failed(self) -> int:
        return sum(bool(each.failure) for each in self.rounds)

    @property
    def recovery(self) -> tuple[float, float] | None:
        """The median and the longest."""
        known = [each.recovery for each in self.rounds if each.recovery is not None]
        return (median(known), max(known)) if known else None


class Results(_Value):
    """A whole run."""

    seed: int
    files: int
    jobs: int
    seconds: float
    versions: dict[str, str]
    cases: tuple[CaseResult, ...]

    @property
    def failed(self) -> int:
        """How many rounds failed."""
        return sum(case.failed for case in self.cases)
