"""``python -m tests.chaos``: kill, cut and fill up everything, and look whether anything was lost; see ``--help``."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.chaos.cases import CASES
from tests.chaos.report import show
from tests.chaos.results import Results
from tests.chaos.rounds import Run
from tests.support import nursery, peers
from tests.support.processes import ROOT, hide_our_scripts
from tests.support.redis_server import redis_program

_ROUNDS: Final = 5
_FILES: Final = 300
#: Rounds wait for a part of their time. More of them at once save no time, and cases fail where answers come later than
#: they allow.
_JOBS: Final = min((os.cpu_count() or 1) + 1, 6)
#: Columns of a table that goes to no terminal.
_WIDE: Final = 180


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos CHAOS=...", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--rounds", type=_positive, default=_ROUNDS, help=f"of each case ({_ROUNDS})")
    parser.add_argument("--files", type=_positive, default=_FILES, help=f"of each round ({_FILES})")
    parser.add_argument("--jobs", type=_positive, default=_JOBS, help=f"rounds that are played at once ({_JOBS})")
    parser.add_argument("--only", action="append", choices=names, metavar="CASE", help=f"one of {', '.join(names)}")
    parser.add_argument(
        "--fork", action="store_true", help="fork our programs instead of starting them: takes less CPU"
    )
    parser.add_argument("--seed", type=int, help="of everything that is left to chance, to repeat a round")
    parser.add_argument("--json", type=Path, default=ROOT / "build/chaos.json", help="where the figures go")
    parser.add_argument("--logs", type=Path, default=ROOT / "build/chaos", help="where logs of rounds go that failed")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main() -> int:
    """Give the exit code: 0, 1 where a round failed, 2 where something is missing."""
    arguments = _arguments()
    hide_our_scripts()
    for name in [name for name in os.environ if name.startswith("PACS_TASKS_")]:
        del os.environ[name]
    # Whoever ends us ends what we started too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.platform != "linux":
        _say("the chaos suite needs Linux: it finds processes and connections in /proc")
        return 2
    cases = [case for case in CASES if not arguments.only or case.name in arguments.only]
    missing = [case.name for case in cases if case.needs_orthanc and not peers.orthanc_program()]
    if missing:
        _say(f"Orthanc is not installed (Debian: apt-get install orthanc), and {', '.join(missing)} need it")
        return 2
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    _say(f"seed {seed}")
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="pacs-tasks-chaos-") as work:
            # Whoever is killed leaves its temporary files behind.
            os.environ["TMPDIR"] = work
            if arguments.fork:
                nursery.open_at_first_use()
            run = Run(arguments.rounds, arguments.files, arguments.jobs, seed, Path(work), arguments.logs, _say)
            played = run.play(cases)
    except KeyboardInterrupt:
        _say("interrupted; what was started has been ended, and what was written removed")
        return 130
    results = Results(
        seed=seed,
        files=arguments.files,
        jobs=arguments.jobs,
        seconds=time.monotonic() - began,
        versions=_versions(),
        cases=played,
    )
    show(results, Console(width=None if sys.stdout.isatty() else _WIDE))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(results.model_dump_json(indent=2) + "\n", "utf-8")
    _say(f"written: {arguments.json}")
    return 1 if results.failed else 0


def _versions() -> dict[str, str]:
    orthanc = peers.orthanc_program()
    return {
        "Python": sys.version.split()[0],
        "Redis": peers.version_of(redis_program()),
        **({"Orthanc": peers.version_of(orthanc)} if orthanc else {}),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
