"""PACS that others wrote: Orthanc and DCMTK, each on a free port, with its files in a temporary directory."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pacs_tasks.ae import RemoteAE
from tests.support.dicom_files import split
from tests.support.ports import answers, free_port
from tests.support.processes import Process, environment, started

#: AE title -> host, port.
Destinations = Mapping[str, tuple[str, int]]
NOWHERE: Final[Destinations] = {}
#: What DCMTK's programs are told to switch Nagle's algorithm off, which they leave on.
_TUNED: Final = "TCP_NODELAY"


def dcmtk_environment(*, tuned: bool = True) -> dict[str, str]:
    """The environment of DCMTK's programs and of Orthanc: tuned, since tests need not be slow, or as installed."""
    kept = {name: value for name, value in environment().items() if name != _TUNED}
    return {**kept, _TUNED: "1"} if tuned else kept


def orthanc_program() -> str | None:
    """Orthanc, which Debian installs where only administrators look."""
    return shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin") or shutil.which("Orthanc")


def chromium_program() -> str | None:
    """Debian's Chromium."""
    return shutil.which("chromium")


def dcmtk_missing() -> list[str]:
    """The programs of DCMTK that tests use and that are not installed."""
    wanted = ("storescp", "dcmqrscp", "echoscu", "storescu", "dcmsend", "findscu", "movescu", "getscu", "wlmscpfs")
    return [name for name in wanted if shutil.which(name) is None]


@dataclass(frozen=True)
class Peer:
    """A PACS that listens on loopback."""

    ae_title: str
    port: int
    process: Process

    @property
    def remote(self) -> RemoteAE:
        return RemoteAE(ae_title=self.ae_title, host="127.0.0.1", port=self.port)

    @property
    def options(self) -> list[str]:
        """How the command line names it."""
        return ["--ip", "127.0.0.1", "--port", str(self.port), "--pacs-ae-title", self.ae_title]


@dataclass(frozen=True)
class Orthanc(Peer):
    """Orthanc, and its REST interface as evidence of what it holds."""

    http_port: int

    def rest(self, path: str) -> Any:
        return json.loads(self._fetch(path))

    def _fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            return bytes(answer.read())

    def delete(self, orthanc_id: str) -> None:
        """Have it forget an instance."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/instances/{orthanc_id}", method="DELETE")
        with urllib.request.urlopen(request, timeout=30):
            return

    def add(self, path: Path) -> None:
        """Have it take a file by REST."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/instances", path.read_bytes())
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    def count(self) -> int:
        return int(self.rest("/statistics")["CountInstances"])

    def instances(self) -> dict[str, str]:
        """Orthanc's own id of every instance, by SOP Instance UID."""
        return {each["MainDicomTags"]["SOPInstanceUID"]: each["ID"] for each in self.rest("/instances?expand")}

    def file(self, orthanc_id: str) -> bytes:
        """The file that it keeps of an instance."""
        return self._fetch(f"/instances/{orthanc_id}/file")

    def data_set(self, orthanc_id: str) -> bytes:
        """The encoded data set of that file."""
        return split(self.file(orthanc_id))


@contextmanager
def orthanc(
    directory: Path,
    ae_title: str = "ORTHANC",
    destinations: Destinations = NOWHERE,
    *,
    tuned: bool = True,
    ports: tuple[int, int] | None = None,
    **settings: Any,
) -> Iterator[Orthanc]:
    """Orthanc that takes every SOP class and calling AE, and answers C-FIND, C-MOVE and C-GET.

    ``ports`` are those of DICOM and HTTP, for one that is started again.
    """
    port, http_port = ports or (free_port(), free_port())
    config = {
        "StorageDirectory": str(directory / "orthanc"),
        "IndexDirectory": str(directory / "orthanc"),
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": ae_title,
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "UnknownSopClassAccepted": True,
        "DefaultEncoding": "Utf8",
        "OverwriteInstances": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        # It takes AE titles with spaces, but no such names.
        "DicomModalities": {title.replace(" ", "-"): [title, host, to] for title, (host, to) in destinations.items()},
        "Plugins": [],
        **settings,
    }
    path = directory / "orthanc.json"
    path.write_text(json.dumps(config))

    def ready(_: Process) -> bool:
        return answers(port) and answers(http_port)

    command: list[str | Path] = [orthanc_program() or "Orthanc", path]
    with started(
        command, directory / "orthanc.log", ready, env=dcmtk_environment(tuned=tuned), end_timeout=20
    ) as process:
        yield Orthanc(ae_title, port, process, http_port)
        # It would take 3.5 s to end of itself.
        process.kill()


@dataclass(frozen=True)
class Directory(Peer):
    """A peer of DCMTK that keeps one file for each instance in a directory."""

    directory: Path

    def files(self) -> list[Path]:
        """The files of the instances it holds."""
        return sorted(path for path in self.directory.iterdir() if path.is_file() and path.name != "index.dat")


@contextmanager
def storescp(
    directory: Path, ae_title: str = "STORESCP", *options: str, tuned: bool = True, port: int | None = None
) -> Iterator[Directory]:
    """DCMTK's receiver: every SOP class and transfer syntax, data sets written exactly as they come."""
    port, kept = port or free_port(), directory / f"storescp-{ae_title}"
    kept.mkdir()
    command: list[str | Path] = ["storescp", "-od", kept, "-aet", ae_title, "+xa", "-pm", "+B", *options, str(port)]
    log = directory / f"storescp-{ae_title}.log"
    with started(command, log, lambda _: answers(port), env=dcmtk_environment(tuned=tuned)) as process:
        yield Directory(ae_title, port, process, kept)


@contextmanager
def dcmqrscp(
    directory: Path, ae_title: str = "DCMQRSCP", destinations: Destinations = NOWHERE, *options: str
) -> Iterator[Directory]:
    """DCMTK's archive, which checks the called AE title.

    Send to it over one association at a time. With two at once its processes give different instances the same file
    name: version 3.6.7 answers Success to six and keeps three, whoever sends, DCMTK's own storescu too.
    """
    port, kept = free_port(), directory / f"dcmqrscp-{ae_title}"
    kept.mkdir()
    hosts = "".join(
        f"to{number} = ({title}, {host}, {to})\n" for number, (title, (host, to)) in _numbered(destinations)
    )
    config = directory / f"dcmqrscp-{ae_title}.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{ae_title} {kept} RW (200, 1024mb) ANY\nAETable END\n"
    )
    command: list[str | Path] = ["dcmqrscp", "-c", config, *options]
    log = directory / f"dcmqrscp-{ae_title}.log"
    with started(command, log, lambda _: answers(port), env=dcmtk_environment()) as process:
        yield Directory(ae_title, port, process, kept)


@contextmanager
def wlmscpfs(directory: Path, ae_title: str = "WORKLIST", *options: str) -> Iterator[Directory]:
    """DCMTK's worklist: it answers with the files ``*.wl`` of its directory, which the test writes at any time."""
    port, kept = free_port(), directory / "worklists" / ae_title
    kept.mkdir(parents=True)
    (kept / "lockfile").touch()
    command: list[str | Path] = ["wlmscpfs", "-dfp", kept.parent, *options, str(port)]
    log = directory / f"wlmscpfs-{ae_title}.log"
    with started(command, log, lambda _: answers(port), env=dcmtk_environment()) as process:
        yield Directory(ae_title, port, process, kept)


def _numbered(destinations: Destinations) -> list[tuple[int, tuple[str, tuple[str, int]]]]:
    return list(enumerate(destinations.items()))


def version_of(program: str) -> str:
    """The first line of what a program says about its version."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    return (said.stdout or said.stderr).strip().splitlines()[0].strip("$ ")
