"""The number of associations in use, for people, programs and Prometheus."""

from __future__ import annotations

import base64
import http.client
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_tasks import Associations, PacsClient
from pacs_tasks.fleet.leases import AssociationLeases, name_of
from pacs_tasks.testing import TestPACS
from tests.support import workers
from tests.support.command import Terminal
from tests.support.leases import held, in_line
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, environment, started
from tests.support.waiting import wait_until


@pytest.fixture
def client(redis_url: str) -> Iterator[PacsClient]:
    """A client of a Redis of this test's own."""
    with PacsClient(redis_url) as running:
        yield running


@pytest.fixture
def terminal(redis_url: str, tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, redis_url)


def test_status_shows_the_associations_of_a_job_and_of_all(
    client: PacsClient, terminal: Terminal, redis_url: str, pacs: TestPACS, tmp_path: Path
) -> None:
    """It shows them while a job waits for its turn, and none when all is done."""
    (tmp_path / "pacs-tasks.toml").write_text(
        f'[remotes.archive]\nae_title = "TESTPACS"\nhost = "127.0.0.1"\nport = {pacs.port}\nmax_associations = 1\n'
    )
    budget, name = AssociationLeases(client.ledger.client), name_of(pacs.remote)
    worker = workers.worker(redis_url, tmp_path, concurrency=1, PACS_TASKS_UNHEARD_OF="1")
    with worker as process, held(budget, name) as give_back:
        assert "There is no setting PACS_TASKS_UNHEARD_OF" in process.said()
        job_id = terminal.run("echo", "--remote", "archive", "--detach").stdout.strip()
        job = client.job(job_id)
        waiting = Associations(remote=name, in_use=1, limit=1, waiting=1, ceiling=1)
        wait_until(lambda: job.associations() == waiting, 20, "the job stands in line")
        # The job returns to the queue; another task stays in the line.
        with in_line(budget, name):
            for about in ([job_id], []):
                assert re.search(r"1 of 1 in use, [12] waiting", terminal.run("status", *about).stdout)
            shown = terminal.run("status", job_id, "--json").json["associations"]
            assert (shown["remote"], shown["in_use"], shown["limit"], shown["waiting"] > 0) == (name, 1, 1, True)
        assert terminal.run("status", "--json").json["associations"][0]["remote"] == name
        give_back()
        job.wait(60)
    assert terminal.run("status", job_id, "--json").json["associations"] is None
    everything = terminal.run("status", "--json").json
    assert everything == {"associations": [], "exit_code": 0}
    assert "No association is open" in terminal.run("status").stderr


def _status(port: int, login: str) -> int:
    """The HTTP status that Flower gives somebody with this login (RFC 7617: in UTF-8)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        credentials = base64.b64encode(login.encode()).decode()
        connection.request("GET", "/workers", headers={"Authorization": f"Basic {credentials}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_flower_tells_prometheus(client: PacsClient, redis_url: str, tmp_path: Path) -> None:
    """The figures are at /metrics beside Flower's own. Its login may have any letters; a wrong one is no error."""
    budget, port = AssociationLeases(client.ledger.client), free_port()
    variables = environment(
        PACS_TASKS_REDIS_URL=redis_url,
        PACS_TASKS_DATA_DIR=str(tmp_path),
        PACS_TASKS_FLOWER_BASIC_AUTH="me:sécret",
        PACS_TASKS_FLOWER_PORT=str(port),
    )

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8")

    command = [sys.executable, "-m", "workers.flowerconfig"]
    with started(command, tmp_path / "flower.log", lambda _: answers(port), env=variables, cwd=ROOT, timeout=60):
        assert 'pacs_tasks_associations{remote="' not in metrics()
        with held(budget, "PACS at 10.0.0.1:104"), in_line(budget, "PACS at 10.0.0.1:104"):
            said = metrics()
        for name in ("pacs_tasks_associations", "pacs_tasks_associations_limit", "pacs_tasks_associations_waiting"):
            assert f'\n{name}{{remote="PACS at 10.0.0.1:104"}} 1.0\n' in said
        assert "flower_" in said
        logins = ("me:sécret", "me:secret", "me:sécrét", "")
        assert [_status(port, login) for login in logins] == [200, 401, 401, 401]
