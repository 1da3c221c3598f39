"""``make fuzz``: play cases of every target, in as many processes as there are cores; see ``--help``."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from uuid import uuid4

from tests.fuzz.targets import TARGETS, played, share

#: Cases that one process plays before its memory is looked at, and that are lost where it dies.
_CASES = 20_000


def main() -> int:
    """Give the exit code: 0, or 1 where something went wrong."""
    parser = argparse.ArgumentParser(prog="make fuzz FUZZ=...", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="of all targets together (1,000,000)")
    parser.add_argument("--seed", default=uuid4().hex[:8], help="to play the same cases again")
    parser.add_argument("--only", action="append", choices=[each.name for each in TARGETS], help="one target")
    arguments = parser.parse_args()
    targets = [each for each in TARGETS if not arguments.only or each.name in arguments.only]
    print(f"seed {arguments.seed}", flush=True)
    begun, failed = time.monotonic(), 0
    # A process each, so that nobody inherits what another has left behind.
    with ProcessPoolExecutor(mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        work = {}
        for target in targets:
            cases = arguments.cases if arguments.only else share(target, arguments.cases)
            for begin in range(0, cases, _CASES):
                chosen = f"{arguments.seed}/{begin}"
                work[pool.submit(played, target.name, chosen, min(_CASES, cases - begin))] = target.name, chosen
        for done in as_completed(work):
            name, chosen = work[done]
            problem = done.result()
            failed += bool(problem)
            print(f"{name} {chosen}: {'FAILED' if problem else 'ok'}", flush=True)
            if problem:
                print(problem, flush=True)
    print(f"{arguments.cases} cases in {time.monotonic() - begun:.0f} s, {failed} of {len(work)} runs failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
