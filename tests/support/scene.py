"""A machine on which somebody reads the documents and types what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pacs_tasks import embedded
from pacs_tasks.settings import Settings
from pacs_tasks.testing import TestPACS
from tests.support import nursery
from tests.support.dicom_files import write, write_series, write_text
from tests.support.known_study import known_study
from tests.support.ports import free_port
from tests.support.processes import environment
from tests.support.redis_server import RedisServer

#: The instances in the directory of the examples.
SENT = 8


@dataclass
class Scene:
    """A machine on which someone reads: a home directory with files, a PACS, a Redis with a worker."""

    home: Path
    pacs: TestPACS
    redis_url: str
    redis_process: RedisServer

    def real(self, text: str) -> str:
        """A text of the documents with the addresses and paths of this test."""
        for told, instead in (
            ("/home/me", str(self.home)),
            ("192.168.1.100", "127.0.0.1"),
            ("11112", str(self.pacs.port)),
            ("redis://192.168.1.10:6379/0", self.redis_url),
        ):
            text = text.replace(told, instead)
        return text

    def variables(self) -> dict[str, str]:
        """An environment as after "Name your PACS", with free ports."""
        return environment(
            PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            HOME=str(self.home),
            XDG_CONFIG_HOME=str(self.home / ".config"),
            XDG_DATA_HOME=str(self.home / ".local/share"),
            PACS_TASKS_IP="127.0.0.1",
            PACS_TASKS_PORT=str(self.pacs.port),
            PACS_TASKS_PACS_AE_TITLE=self.pacs.ae_title,
            PACS_TASKS_REDIS_URL=self.redis_url,
            PACS_TASKS_IDLE_TIMEOUT="0",
            PACS_TASKS_CONCURRENCY="1",
            PACS_TASKS_RECEIVER_HOST="127.0.0.1",
            PACS_TASKS_RECEIVER_PORT=str(free_port()),
            PACS_TASKS_FLOWER_PORT=str(free_port()),
            PACS_TASKS_SERVE_PORT=str(free_port()),
        )

    def run(self, *command: str, cwd: Path | None = None, **variables: str) -> str:
        """What a command prints; it must end with 0."""
        done = subprocess.run(
            command,
            cwd=cwd or self.home,
            env=self.variables() | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, said
        assert "Traceback" not in said
        return said

    def shell(self, script: str) -> str:
        """What a script prints, whose `pacs-tasks` is forked."""
        path = nursery.search_path(self.variables()["PATH"])
        return self.run("bash", "-euo", "pipefail", "-c", self.real(script), PATH=path)


@contextmanager
def reading(home: Path, redis_url: str, redis_process: RedisServer) -> Iterator[Scene]:
    """A scene below ``home``; the Redis of this URL has a worker."""
    study = known_study()
    write(study[0], home / "image1.dcm")
    write_series(home / "dicom_files/series1", SENT - 3)
    write_series(home / "dicom_files/series2", 3, series=2)
    write_text(home / "dicom_files/report.txt")
    with TestPACS("MY_PACS", instances=study) as pacs:
        (home / "pacs-tasks.toml").write_text(
            f'[remotes.archive]\nhost = "127.0.0.1"\nport = {pacs.port}\nae_title = "MY_PACS"\ncharset = "GB18030"\n'
        )
        yield Scene(home, pacs, redis_url, redis_process)
        embedded.stop(Settings(data_dir=home / ".local/share/pacs-tasks"))
