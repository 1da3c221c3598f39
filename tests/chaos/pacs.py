"""A TestPACS in a process of its own, so that it can be killed: ``python -m tests.chaos.pacs PORT CONTROL DIRECTORY``.

What it holds lies in the directory, and so does a journal of the C-STORE requests that came whole: both outlive it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from pacs_tasks.ae import RemoteAE
from pacs_tasks.testing import Faults, Silence, TestPACS
from tests.chaos import control
from tests.support.ports import answers, connections, free_port
from tests.support.processes import ROOT, Process, environment, started

AE_TITLE: Final = "CHAOS"
_JOURNAL: Final = "stores.journal"


class _Journal(list[str]):
    """A list of which each new item is in a file when it is in the list."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.read_text("ascii").split() if path.exists() else [])
        self._file = path.open("a", buffering=1, encoding="ascii")

    def append(self, item: str) -> None:
        self._file.write(f"{item}\n")
        super().append(item)


def _faults(silence: str | None = None, **others: Any) -> Faults:
    return Faults(silence=None if silence is None else Silence(silence), **others)


def _serve(port: int, control_port: int, directory: Path) -> None:
    held = sorted(directory.rglob("*.dcm"))
    with TestPACS(AE_TITLE, directory, instances=held, port=port) as pacs:
        pacs.stores = _Journal(directory / _JOURNAL)

        def command(question: dict[str, Any]) -> Any:
            if "faults" in question:
                pacs.faults = _faults(**question["faults"])
            if "destinations" in question:
                pacs.destinations = {title: (host, to) for title, (host, to) in question["destinations"].items()}
            if "held" in question:
                return {uid: hashlib.sha256(each.data_set).hexdigest() for uid, each in pacs.instances.items()}
            return {"requests": len(pacs.stores), "associations": pacs.associations}

        control.serve(control_port, command)
        ending = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ending.set())
        ending.wait()


class Pacs:
    """The suite's side of it.

    Parameters
    ----------
    stack
        Ends it.
    directory
        Of this PACS alone.
    """

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack, self.directory = stack, directory
        self.port, self._control = free_port(), free_port()
        self._told: dict[str, Any] = {}
        self._process: Process
        directory.mkdir(exist_ok=True)

    @property
    def remote(self) -> RemoteAE:
        return RemoteAE(ae_title=AE_TITLE, host="127.0.0.1", port=self.port)

    def start(self) -> None:
        """Start it, or start it again with the same faults and with what it holds."""
        arguments = [str(self.port), str(self._control), str(self.directory)]
        self._process = self._stack.enter_context(
            started(
                [sys.executable, "-m", "tests.chaos.pacs", *arguments],
                self.directory / "pacs.log",
                lambda _: answers(self._control),
                env=environment(),
                cwd=ROOT,
                timeout=60,
                end_timeout=2,
            )
        )
        control.ask(self._control, self._told)

    def faults(self, **faults: Any) -> None:
        """What it does wrong from now on; see :class:`pacs_tasks.testing.Faults`."""
        self._tell(faults=faults)

    def deliver_to(self, **destinations: tuple[str, int]) -> None:
        """Host and port of each AE title that C-MOVE may name."""
        self._tell(destinations=destinations)

    def _tell(self, **what: Any) -> None:
        self._told |= what
        control.ask(self._control, what)

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        self._process.kill()

    def pause(self) -> None:
        """Let it do nothing any more, with every connection open."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def freeze(self) -> int:
        """Stop it before it is killed; how many associations it has: what is under way on each may have to go again."""
        self.pause()
        return connections(self.port)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def requests(self) -> int:
        """How many C-STORE requests have come whole."""
        return int(control.ask(self._control, {})["requests"])

    def stores(self) -> Counter[str]:
        """How many of them there were for each SOP Instance UID."""
        return Counter((self.directory / _JOURNAL).read_text("ascii").split())

    def held(self) -> Mapping[str, str]:
        """The SHA-256 of each data set that it holds, by SOP Instance UID."""
        found: dict[str, str] = control.ask(self._control, {"held": True})
        return found


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
