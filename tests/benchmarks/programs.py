"""The contestants' programs, each timed as a whole process: DCMTK's, pynetdicom's, and one of ours."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.files import Files
from tests.benchmarks.measuring import BenchError, Figure
from tests.support.peers import Peer, dcmtk_environment
from tests.support.processes import ROOT, environment

#: Seconds after which a program counts as stuck. The slowest work takes three minutes on an idle machine.
LIMIT: Final = 1800.0

_Command = list[str | Path]
#: Sends files to a peer and gives figures by their names.
Send = Callable[[Peer, Files], Mapping[str, Figure]]


@dataclass(frozen=True)
class Sender:
    """A program that sends a directory to a peer."""

    name: str
    send: Send
    #: Whether it sends data sets as they are; else it decodes them, and encodes them again as the peer prefers.
    exact: bool = True


def timed(command: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None) -> tuple[float, str]:
    """Run a command to its end; give its seconds and what it printed.

    Raises
    ------
    BenchError
        If it does not end with 0, or not in time.
    """
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(env),
            cwd=cwd,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not end within {LIMIT:.0f} s") from None
    seconds = time.perf_counter() - began
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace")[-2000:]
        raise BenchError(f"{command[0]} ended with {done.returncode}: {said}")
    return seconds, done.stdout.decode("utf-8", "replace")


def how(*, tuned: bool) -> str:
    """How DCMTK's programs are run, in words."""
    return "tuned" if tuned else "as installed"


def dcmsend(*, tuned: bool) -> Sender:
    """DCMTK's faster sender."""
    name = f"dcmsend, {how(tuned=tuned)}"

    def send(peer: Peer, files: Files) -> Mapping[str, Figure]:
        command: _Command = ["dcmsend", "-aec", peer.ae_title, "+sd", "127.0.0.1", str(peer.port), files.directory]
        return {name: Figure(timed(command, dcmtk_environment(tuned=tuned))[0])}

    return Sender(name, send)


def storescu(*, tuned: bool) -> Sender:
    """DCMTK's older sender."""
    name = f"storescu, {how(tuned=tuned)}"

    def send(peer: Peer, files: Files) -> Mapping[str, Figure]:
        command: _Command = ["storescu", "-aec", peer.ae_title, "+sd", "127.0.0.1", str(peer.port), files.directory]
        return {name: Figure(timed(command, dcmtk_environment(tuned=tuned))[0])}

    return Sender(name, send)


def pynetdicom_storescu() -> Sender:
    """The app that pynetdicom ships."""
    name = "pynetdicom's storescu"

    def send(peer: Peer, files: Files) -> Mapping[str, Figure]:
        command = [sys.executable, "-m", "pynetdicom", "storescu", "-aec", peer.ae_title]
        return {name: Figure(timed([*command, "127.0.0.1", str(peer.port), files.directory], environment())[0])}

    return Sender(name, send, exact=False)


def one_association() -> Sender:
    """Ours without Celery and Redis: a process that sends over one association."""
    name = "pacs_tasks.dimse"

    def send(peer: Peer, files: Files) -> Mapping[str, Figure]:
        module = "tests.benchmarks.one_association"
        command: _Command = [sys.executable, "-m", module, "127.0.0.1", str(peer.port), peer.ae_title, files.directory]
        seconds, said = timed(command, environment(), ROOT)
        answer = json.loads(said)
        if answer["sent"] != files.count:
            raise BenchError(f"{name} sent {answer['sent']} of {files.count} instances of {files.name}")
        return {name: Figure(seconds), once_started(name): Figure(answer["seconds"])}

    return Sender(name, send)


def once_started(name: str) -> str:
    """The name of a figure of ours that leaves out the start of Python."""
    return f"{name}, once started"


def _study(files: Files) -> list[str]:
    return ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={files.study_uid}"]


def getscu(peer: Peer, files: Files, directory: Path, *, tuned: bool) -> float:
    """DCMTK's C-GET; gives its seconds."""
    command: _Command = [
        "getscu",
        "-S",
        "-aec",
        peer.ae_title,
        "-od",
        directory,
        *_study(files),
        "127.0.0.1",
        str(peer.port),
    ]
    return timed(command, dcmtk_environment(tuned=tuned))[0]


def pynetdicom_getscu(peer: Peer, files: Files, directory: Path) -> float:
    """pynetdicom's C-GET; gives its seconds."""
    command: _Command = [sys.executable, "-m", "pynetdicom", "getscu", "-S", "-aec", peer.ae_title]
    return timed([*command, "-od", directory, *_study(files), "127.0.0.1", str(peer.port)], environment())[0]


def movescu(peer: Peer, files: Files, destination: str, *, tuned: bool) -> float:
    """DCMTK's C-MOVE to another AE; gives its seconds."""
    command = ["movescu", "-S", "-aec", peer.ae_title, "-aem", destination, *_study(files), "127.0.0.1", str(peer.port)]
    return timed(command, dcmtk_environment(tuned=tuned))[0]
