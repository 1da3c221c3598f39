"""``python -m tests.benchmarks``: measure, or show what was measured; see ``--help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError
from rich.console import Console

from pacs_tasks.errors import PacsTasksError
from tests.benchmarks.files import FULL, SMALL
from tests.benchmarks.machine import machine, missing
from tests.benchmarks.measuring import Bench, BenchError, Work, measure
from tests.benchmarks.picture import over_time, picture, speeds, traces
from tests.benchmarks.report import markdown, show
from tests.benchmarks.results import Results, WorkResult
from tests.benchmarks.works import WORKS
from tests.support import nursery
from tests.support.processes import ROOT, hide_our_scripts

_ROUNDS: Final = 3
#: Columns of tables that go to no terminal.
_WIDE: Final = 180


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench BENCH=...", description=__doc__)
    names = [work.name for work in WORKS]
    parser.add_argument("--small", action="store_true", help="few and small files: shows that everything works")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--rounds", type=_positive, help=f"how often each contestant works ({_ROUNDS}; small: 1)")
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench.json", help="where the figures go")
    parser.add_argument("--svg", type=Path, default=ROOT / "build/bench.svg", help="where the picture goes")
    parser.add_argument("--time-svg", type=Path, default=ROOT / "build/bench-time.svg", help="and that over time")
    parser.add_argument("--from", type=Path, dest="earlier", help="measure nothing: take the figures of this file")
    parser.add_argument("--readme", action="store_true", help="print the tables of the READMEs as well")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main() -> int:
    """Give the exit code: 0, 1 where a work could not be measured, 2 where something is missing."""
    arguments = _arguments()
    hide_our_scripts()
    for name in [name for name in os.environ if name.startswith("PACS_TASKS_")]:
        del os.environ[name]
    # Whoever ends us ends our peers and removes our files too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = _earlier(arguments.earlier) if arguments.earlier else _measured(arguments)
    except BenchError as error:
        _say(f"{error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; what was started has been ended, and what was written removed")
        return 130
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    show(results, console)
    if arguments.readme:
        print(f"\n{markdown(results)}")
    if not arguments.earlier:
        _write(arguments.json, results.model_dump_json(indent=2) + "\n")
    if speeds(results):
        _write(arguments.svg, picture(results))
    if traces(results):
        _write(arguments.time_svg, over_time(traces(results)))
    return 1 if any(work.failure for work in results.works) else 0


def _earlier(path: Path) -> Results:
    try:
        return Results.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} holds no figures of an earlier run: {error}") from None


def _measured(arguments: argparse.Namespace) -> Results:
    if absent := missing():
        raise BenchError(absent)
    works = [work for work in WORKS if not arguments.only or work.name in arguments.only]
    rounds = arguments.rounds or (1 if arguments.small else _ROUNDS)
    recipes = SMALL if arguments.small else FULL
    with (
        tempfile.TemporaryDirectory(prefix="pacs-tasks-bench-") as directory,
        Bench(Path(directory), recipes, _say, arguments.small) as bench,
    ):
        # Whoever is killed leaves its temporary files behind.
        os.environ["TMPDIR"] = directory
        if arguments.small:
            nursery.open_at_first_use()
        bench.check_space([name for work in works for name in work.files])
        done = tuple(_attempt(bench, work, rounds) for work in works)
    return Results(machine=machine(), small=arguments.small, rounds=rounds, works=done)


def _attempt(bench: Bench, work: Work, rounds: int) -> WorkResult:
    """Measure a work; if that fails, the others are measured all the same."""
    try:
        return measure(bench, work, rounds)
    except (BenchError, PacsTasksError, RedisError, AssertionError, RuntimeError, OSError) as error:
        _say(f"{work.name} could not be measured: {error}")
        return WorkResult(name=work.name, title=work.title, failure=str(error))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    _say(f"written: {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
