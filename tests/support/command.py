"""The command line as a person runs it: a process, its exit code, what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import nursery
from tests.support.processes import ROOT, environment

#: ``python dicom_pacs_transfer.py``, the name that existing users know.
TRANSFER = (sys.executable, str(ROOT / "dicom_pacs_transfer.py"))
#: ``pacs-tasks``, its new name.
PACS_TASKS = (str(Path(sys.executable).with_name("pacs-tasks")),)


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    arguments: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"{self.arguments} -> {self.code} in {self.seconds:.1f} s\n{self.stdout}\n--- stderr\n{self.stderr}"


@dataclass(frozen=True)
class Terminal:
    """Where commands run: a directory of their own, with the settings that every command here gets.

    ``redis_url`` None lets a private server of this directory serve them; end it with :meth:`stop`.
    """

    directory: Path
    redis_url: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    entry: tuple[str, ...] = TRANSFER

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def environment(self) -> dict[str, str]:
        values = {"PACS_TASKS_DATA_DIR": str(self.data_dir), "XDG_CONFIG_HOME": str(self.directory / "config")}
        if self.redis_url is not None:
            values["PACS_TASKS_REDIS_URL"] = self.redis_url
        return environment(**{**values, **dict(self.settings)})

    @contextmanager
    def starts(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on while the test does something else; killed at the end if it still runs."""
        popen = nursery.start(
            [*self.entry, *map(str, arguments)],
            self.environment(),
            self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with popen:
            try:
                yield popen
            finally:
                if popen.poll() is None:
                    popen.kill()

    def run(self, *arguments: object, timeout: float = 120.0) -> Result:
        """Run a command to its end; it must not show a traceback, whatever goes wrong."""
        began = time.monotonic()
        with self.starts(*arguments) as popen:
            return self.finished(popen, began, timeout)

    def finished(self, popen: subprocess.Popen[str], began: float, timeout: float = 120.0) -> Result:
        """The result of a command that was started, after its end."""
        try:
            stdout, stderr = popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            popen.kill()
            stdout, stderr = popen.communicate(timeout=10)
            raise AssertionError(f"no end within {timeout} s: {popen.args!r}\n{stdout}\n--- stderr\n{stderr}") from None
        assert isinstance(popen.args, list)
        arguments = tuple(os.fsdecode(part) for part in popen.args)
        result = Result(arguments, popen.returncode, stdout, stderr, time.monotonic() - began)
        assert "Traceback" not in stdout + stderr, str(result)
        return result
