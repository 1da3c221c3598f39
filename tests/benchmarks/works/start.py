"""How long a command takes beside its work, as a multiple of what importing its libraries takes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from pacs_tasks import embedded
from pacs_tasks.settings import Settings
from tests.benchmarks.evidence import check_files
from tests.benchmarks.files import FULL, ONE_MB
from tests.benchmarks.measuring import Bar, Bench, Contestant, Figure, Work
from tests.benchmarks.programs import timed
from tests.support import peers
from tests.support.command import PACS_TASKS
from tests.support.processes import environment

#: A command takes so little time that one run of it says nothing.
_RUNS: Final = 7
_LIBRARIES: Final = "import redis, click, pydantic"
#: Each start, and how many times as long as the import it may take.
_LIMITS: Final[Mapping[str, float]] = {
    "--help": 0.8,
    "--version": 0.8,
    "from pacs_tasks import PacsClient": 1.2,
    "echo": 1.8,
    "send-file": 1.8,
}


def _run(name: str, command: Sequence[str], env: Mapping[str, str], runs: int) -> Mapping[str, Figure]:
    return {name: Figure(statistics.median(timed(command, env)[0] for _ in range(runs)))}


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    files = bench.files(ONE_MB)
    path = next(each for each in files.directory.rglob("*") if each.is_file())
    with bench.room() as room, peers.storescp(room) as peer:
        data_dir = room / "data"
        env = environment(PACS_TASKS_DATA_DIR=str(data_dir), PACS_TASKS_CONFIG="")
        commands = {
            _LIBRARIES: [sys.executable, "-c", _LIBRARIES],
            "--help": [*PACS_TASKS, "--help"],
            "--version": [*PACS_TASKS, "--version"],
            "from pacs_tasks import PacsClient": [sys.executable, "-c", "from pacs_tasks import PacsClient"],
            "echo": [*PACS_TASKS, "echo", *peer.options],
            "send-file": [*PACS_TASKS, "send-file", "--file", str(path), *peer.options],
        }
        try:
            # The first one starts the private server.
            timed(commands["send-file"], env)
            check_files("send-file", files, peer.directory)
            # Nobody looks at the figures of the small form.
            runs = _RUNS if bench.recipes is FULL else 1
            yield [Contestant(name, partial(_run, name, command, env, runs)) for name, command in commands.items()]
        finally:
            embedded.stop(Settings(data_dir=data_dir))


WORK: Final = Work(
    "start",
    (f"Start, as a multiple of `{_LIBRARIES}`", f"启动时间，以 `{_LIBRARIES}` 的倍数计"),
    (ONE_MB,),
    _scene,
    tuple(
        Bar(name, name, (_LIBRARIES,), limit, (f"`{name}`", f"`{name}`"), at_least=False)
        for name, limit in _LIMITS.items()
    ),
)
