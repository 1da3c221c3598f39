"""Flower's pages: what a browser is told about them, and that they work all the same."""

from __future__ import annotations

import base64
import hashlib
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.browser import chromium, page_of
from tests.support.ports import answers, free_port
from tests.support.processes import ROOT, Process, environment, started
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

LOGIN = "me:tall-otter-92-lamp"


@pytest.fixture(scope="module")
def flower(shared_redis_url: str, shared_worker: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Flower that lists the shared worker."""
    assert shared_worker.running()
    port, directory = free_port(), tmp_path_factory.mktemp("flower")
    variables = environment(
        PACS_TASKS_REDIS_URL=shared_redis_url,
        PACS_TASKS_DATA_DIR=str(directory),
        PACS_TASKS_FLOWER_BASIC_AUTH=LOGIN,
        PACS_TASKS_FLOWER_PORT=str(port),
        PACS_TASKS_UNHEARD_OF="1",
    )
    command = [sys.executable, "-m", "workers.flowerconfig"]
    with started(
        command, directory / "flower.log", lambda _: answers(port), env=variables, cwd=ROOT, timeout=60
    ) as running:
        assert "There is no setting PACS_TASKS_UNHEARD_OF" in running.said()
        yield f"127.0.0.1:{port}"


def _get(address: str, path: str, login: str = LOGIN) -> tuple[int, Message, str]:
    request = urllib.request.Request(f"http://{address}{path}")
    request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, ""


@pytest.mark.parametrize(
    ("path", "login", "status"),
    [
        *[
            (path, LOGIN, 200)
            for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/metrics", "/healthcheck")
        ],
        *[("/static/js/flower.js", LOGIN, 200), ("/nothing", LOGIN, 404), ("/static/nothing", LOGIN, 404)],
        *[("/workers", "me:wrong", 401), ("/task/nothing", LOGIN, 404)],
    ],
)
def test_nobody_frames_a_page_or_adds_a_script(flower: str, path: str, login: str, status: int) -> None:
    """Every answer says so, also those of files and errors."""
    code, headers, _ = _get(flower, path, login)
    assert code == status
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["frame-ancestors"] == "'none'"
    assert policy["default-src"] == "'self'"
    assert "unsafe" not in policy["script-src"]


@pytest.mark.parametrize("path", ["/workers", "/tasks", "/broker"])
def test_the_script_in_a_page_is_the_one_that_is_allowed(flower: str, path: str) -> None:
    """A newer Flower with another one fails here, where no browser is installed."""
    _, headers, page = _get(flower, path)
    inside = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", page, re.DOTALL)
    assert bool(inside) == (path == "/workers")
    for script in inside:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in headers["Content-Security-Policy"]
    assert not re.search(r"\son\w+=", page)


@pytest.mark.chromium
def test_the_pages_work_in_a_browser(flower: str) -> None:
    """Their scripts run, and the browser blocks nothing."""
    name, _, password = LOGIN.partition(":")
    login = {"username": name, "password": password}
    with chromium() as program, page_of(program, http_credentials=login) as page:
        for path, works in (
            ("workers", ".dataTables_wrapper"),
            ("tasks", ".dataTables_wrapper"),
            ("broker", "th:text('Consumers')"),
        ):
            page.goto(f"http://{flower}/{path}")
            expect(page.locator(works).first).to_be_visible()
            # Every script of the page has come and run.
            page.wait_for_load_state("networkidle")


def test_it_ends_and_saves_its_tasks_although_its_redis_has_gone(tmp_path: Path) -> None:
    """Its threads try on and on to reach Redis; an engine would kill it, with all that it has seen."""
    port, data = free_port(), tmp_path / "data"
    with redis_server(tmp_path) as server:
        variables = environment(
            PACS_TASKS_REDIS_URL=server.url(),
            PACS_TASKS_DATA_DIR=str(data),
            PACS_TASKS_FLOWER_BASIC_AUTH=LOGIN,
            PACS_TASKS_FLOWER_PORT=str(port),
        )
        command = [sys.executable, "-m", "workers.flowerconfig"]
        log = tmp_path / "flower.log"
        with started(command, log, lambda _: answers(port), env=variables, cwd=ROOT, timeout=60) as flower:
            wait_until(lambda: "Inspect method" in flower.said(), 20, "Flower to ask for workers")
            server.process.kill()
            # It asks workers for their events every five seconds: then a thread of it tries on and on.
            wait_until(lambda: "trying again in 4 seconds" in flower.said(), 30, "Flower to miss Redis")
            flower.popen.send_signal(signal.SIGTERM)
            assert flower.popen.wait(10) == 0, flower.said()
        assert any(data.iterdir())
