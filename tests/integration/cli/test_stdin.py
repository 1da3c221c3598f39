"""Content of a pipe: the workers see it in the spool, from which it goes when it is sent."""

from __future__ import annotations

import subprocess
import zipfile
from collections import Counter
from pathlib import Path

from pacs_tasks import PacsClient
from pacs_tasks.testing import EVERY_INSTANCE, Faults, TestPACS
from tests.support import workers
from tests.support.command import Terminal
from tests.support.dicom_files import data_set, write_series
from tests.support.waiting import wait_until


def run(terminal: Terminal, content: bytes, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command with this on its stdin."""
    return subprocess.run(
        [*terminal.entry, *map(str, arguments)],
        input=content,
        capture_output=True,
        env=terminal.environment(),
        cwd=terminal.directory,
        timeout=90,
        check=False,
    )


def test_a_file_or_an_archive_on_stdin_is_sent_and_leaves_nothing(
    redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """One that the PACS refuses stays for a retry, and goes after that; one that nobody may enqueue leaves nothing."""
    spool = tmp_path / "spool"
    peer = ("--ip", pacs.host, "--port", pacs.port, "--pacs-ae-title", pacs.ae_title)
    first, *others = write_series(tmp_path / "made", 3)
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as file:
        for each in others:
            file.write(each, each.name)
    settings = (("PACS_TASKS_SPOOL_DIR", str(spool)),)
    terminal = Terminal(tmp_path, redis_url, settings)
    with workers.worker(redis_url, tmp_path, concurrency=1, **dict(settings)), PacsClient(redis_url) as client:
        sent = run(terminal, first.read_bytes(), "send-file", "-", *peer)
        assert sent.returncode == 0, sent
        detached = run(terminal, archive.read_bytes(), "send", "-", *peer, "--detach")
        job = client.job(detached.stdout.decode().strip())
        job.wait(60)
        assert job.progress().counters.success == 2
        assert Counter(each.data_set for each in pacs.instances.values()) == Counter(map(data_set, (first, *others)))
        assert [Path(each.path).parent.name for each in job.receipts()] == ["stdin", "stdin"]
        wait_until(lambda: not list(spool.iterdir()), 30, "an empty spool")

        pacs.faults = Faults(store_status={EVERY_INSTANCE: 0xA900})
        failed = run(terminal, first.read_bytes(), "send-file", "--file", "-", *peer)
        assert failed.returncode == 1, failed
        (kept,) = spool.rglob("stdin")
        assert kept.read_bytes() == first.read_bytes()
        assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        pacs.faults = Faults()
        assert terminal.run("retry", kept.parent.name).code == 0
        wait_until(lambda: not list(spool.iterdir()), 30, "an empty spool")

    refused = run(terminal, b"x", "send-file", "-", *peer, "--key", "a")
    assert refused.returncode == 2, refused
    unseen = run(Terminal(tmp_path, redis_url), b"x", "send-file", "-", *peer)
    assert b"PACS_TASKS_SPOOL_DIR" in unseen.stderr, unseen
    nowhere = run(Terminal(tmp_path, "redis://127.0.0.1:1/0", settings), b"x", "send", "-", *peer)
    assert nowhere.returncode == 1, nowhere
    assert not list(spool.iterdir())
