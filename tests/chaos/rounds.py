"""Rounds, side by side: most of each is waiting."""

from __future__ import annotations

import random
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import redis

from pacs_tasks.errors import PacsTasksError
from tests.chaos.cases.case import Case
from tests.chaos.results import CaseResult, Round
from tests.chaos.stage import InterruptedRoundError, RoundError, Stage

Say = Callable[[str], None]
#: What a round that fails may end with: its check, a program that does not start, or what is under test.
_FAILURES = (RoundError, AssertionError, RuntimeError, TimeoutError, OSError, PacsTasksError, redis.RedisError)


@dataclass(frozen=True)
class Run:
    """What is played, and how.

    Parameters
    ----------
    files
        Files or instances of a round.
    jobs
        Rounds that are played at once.
    work, logs
        Where rounds have their files, and where those of a round that failed are kept.
    """

    rounds: int
    files: int
    jobs: int
    seed: int
    work: Path
    logs: Path
    say: Say

    def play(self, cases: Sequence[Case]) -> tuple[CaseResult, ...]:
        """Play every round of every case."""
        ending = threading.Event()
        played: dict[str, list[Round]] = {case.name: [] for case in cases}
        # Round by round, so that cases that wait long and those that compute are played side by side.
        wanted = [(case, number) for number in range(1, self.rounds + 1) for case in cases]
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="round") as pool:
            names: dict[Future[Round], str] = {
                pool.submit(self._round, case, number, ending): case.name for case, number in wanted
            }
            try:
                for done in as_completed(names):
                    played[names[done]].append(done.result())
            except BaseException:
                ending.set()
                pool.shutdown(cancel_futures=True)
                raise
        return tuple(
            CaseResult(
                name=case.name,
                title=case.title,
                rounds=tuple(sorted(played[case.name], key=lambda each: each.number)),
            )
            for case in cases
        )

    def _round(self, case: Case, number: int, ending: threading.Event) -> Round:
        if ending.is_set():
            raise InterruptedRoundError
        # So that a round is repeated as the first of another run.
        seed = self.seed + number - 1
        directory = self.work / f"{case.name}-{number}"
        directory.mkdir()
        began = time.monotonic()
        stage = Stage(directory, random.Random(f"{case.name} {seed}"), self.files, ending)
        failure, found = "", {}
        try:
            with stage:
                found = asdict(case.play(stage))
        except InterruptedRoundError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in one round, the others are played
            told = f"{error}" or type(error).__name__
            failure = told if isinstance(error, _FAILURES) else "".join(traceback.format_exception(error))
            stage.note(f"FAILED: {failure}")
        played = Round(
            number=number,
            seed=seed,
            strikes=stage.strikes,
            recovery=stage.recovery,
            seconds=time.monotonic() - began,
            failure=failure,
            logs=self._kept(directory, stage.events) if failure else "",
            events=tuple(stage.events),
            **found,
        )
        shutil.rmtree(directory)
        self.say(f"{case.name} {number}: {failure or 'ok'} ({played.seconds:.0f} s, seed {seed})")
        return played

    def _kept(self, directory: Path, events: Sequence[str]) -> str:
        """Keep the logs of a round, and say where."""
        kept = self.logs / directory.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for log in directory.rglob("*.log"):
            target = kept / log.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, target)
        (kept / "events").write_text("\n".join(events) + "\n", "utf-8")
        return str(kept)
