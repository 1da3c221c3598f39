"""Bodies of tasks in threads: when they are detached, and when not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.signals import before_task_publish

from pacs_tasks.tasks.engine import background
from pacs_tasks.tasks.engine.base import WaitingTask
from tests.support.waiting import wait_until

LIMIT = 10.0


@pytest.fixture
def tasks() -> Iterator[ThreadPoolExecutor]:
    """Threads of tasks; no body is left at the end."""
    with ThreadPoolExecutor() as pool:
        yield pool
    assert background.end_all(LIMIT)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What bodies wait for; it comes at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


def run(call: Callable[[], Any], job_id: str = "job", *, may_detach: bool = True) -> Any:
    return background.run(call, job_id, lambda _: may_detach, lambda: "ticket")


def begun(tasks: ThreadPoolExecutor, released: threading.Event, job_id: str = "job") -> Future[Any]:
    """A task whose body waits and may not be detached."""
    inside = threading.Event()

    def body() -> None:
        inside.set()
        released.wait(LIMIT)

    future = tasks.submit(run, body, job_id, may_detach=False)
    assert inside.wait(LIMIT)
    return future


def test_a_task_has_the_result_of_its_body() -> None:
    assert run(lambda: 5) == 5


def test_a_task_has_the_error_of_its_body() -> None:
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        run(fail)


def test_a_body_that_waits_is_detached(released: threading.Event) -> None:
    known: list[bool] = []

    def body() -> None:
        released.wait(LIMIT)
        known.append(background.current().detached)

    assert run(body) == "ticket"
    assert (background.in_background(), background.in_background("job"), background.in_background("other")) == (1, 1, 0)
    released.set()
    wait_until(lambda: not background.in_background(), LIMIT)
    assert known == [True]


def test_a_body_knows_for_how_long_its_task_has_ended(released: threading.Event) -> None:
    known: list[float] = []

    def body() -> None:
        released.wait(LIMIT)
        known.extend([background.current().detached_for(), background.current().detached_for()])

    begin = time.monotonic()
    assert run(body) == "ticket"
    released.set()
    wait_until(lambda: not background.in_background(), LIMIT)
    assert 0.0 < known[0] <= known[1] < time.monotonic() - begin


def test_a_body_that_may_not_be_detached_is_waited_for(tasks: ThreadPoolExecutor, released: threading.Event) -> None:
    future = begun(tasks, released)
    assert background.in_background() == 0
    released.set()
    assert future.result(LIMIT) is None


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="the system has no clock of a thread's CPU time")
def test_a_body_that_works_is_not_detached(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it may get any part of the time, so here any counts as much."""
    monkeypatch.setattr(background, "_LITTLE_CPU", 0.0)

    def work() -> str:
        until = time.thread_time() + 0.15
        while time.thread_time() < until:
            sum(range(1_000))
        return "done"

    assert run(work) == "done"


def test_a_body_that_is_to_publish_is_not_detached(tasks: ThreadPoolExecutor, released: threading.Event) -> None:
    """The task does not even ask whether it might be."""
    asked: list[bool] = []

    def may_detach(_: str) -> bool:
        asked.append(True)
        return True

    def body() -> str:
        assert background.current().keep()
        released.wait(0.2)
        return "published"

    assert background.run(body, "job", may_detach, lambda: "ticket") == "published"
    assert not asked


def test_a_detached_body_may_not_publish(released: threading.Event) -> None:
    kept: list[bool] = []

    def body() -> None:
        released.wait(LIMIT)
        kept.append(background.current().keep())

    assert run(body) == "ticket"
    released.set()
    wait_until(lambda: kept, LIMIT)
    assert kept == [False]


def test_a_body_for_a_far_remote_is_detached_at_once(released: threading.Event) -> None:
    """However busy it is."""
    background.note_distance("far", 1.0)
    background.note_distance("near", 0.001)

    def body(remote: str) -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            background.expect_to_wait(remote)
        released.wait(LIMIT)

    assert run(lambda: body("far")) == "ticket"


def test_a_body_is_detached_at_once_where_another_waits_for_the_same_remote(
    released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent remote seems near until one waits for it; the next ones need not be watched."""
    monkeypatch.setattr(background, "_SOON", 1.0)

    def body(remote: str) -> None:
        background.expect_to_wait(remote)
        released.wait(LIMIT)

    def took(remote: str) -> tuple[Any, bool]:
        begin = time.monotonic()
        ended = run(lambda: body(remote))
        return ended, time.monotonic() - begin >= background._SOON

    assert took("silent") == ("ticket", True)
    assert took("silent") == ("ticket", False)
    assert took("other") == ("ticket", True)
    released.set()
    wait_until(lambda: not background.in_background(), LIMIT)
    assert run(lambda: background.expect_to_wait("silent")) is None


def test_bodies_end_where_their_process_ends(tasks: ThreadPoolExecutor) -> None:
    def body() -> bool:
        wait_until(lambda: background.current().must_end, LIMIT)
        return background.current().must_end

    futures = [tasks.submit(run, body, may_detach=False) for _ in range(3)]
    wait_until(lambda: len(background._threads().bodies) == 3, LIMIT)
    assert background.end_all(LIMIT)
    assert all(future.result(LIMIT) for future in futures)


def test_a_body_that_does_not_end_is_not_waited_for_for_ever(
    tasks: ThreadPoolExecutor, released: threading.Event
) -> None:
    begun(tasks, released)
    assert not background.end_all(0.1)


def test_the_others_end_for_a_body_that_may_kill_its_process(tasks: ThreadPoolExecutor) -> None:
    other = tasks.submit(run, lambda: wait_until(lambda: background.current().must_end, LIMIT), may_detach=False)
    wait_until(lambda: background._threads().bodies, LIMIT)
    alone = tasks.submit(run, lambda: background.be_alone(LIMIT, lambda: None) and not background.current().must_end)
    assert alone.result(LIMIT)
    assert other.result(LIMIT)


def test_a_detached_body_cannot_be_alone(released: threading.Event) -> None:
    alone: list[bool] = []

    def body() -> None:
        released.wait(LIMIT)
        alone.append(background.be_alone(LIMIT, lambda: None))

    assert run(body) == "ticket"
    released.set()
    wait_until(lambda: alone, LIMIT)
    assert alone == [False]


def test_a_body_learns_that_its_time_is_over(monkeypatch: pytest.MonkeyPatch, released: threading.Event) -> None:
    """In the background no signal of Celery comes."""
    monkeypatch.setattr(background, "LONGEST_TASK", 0)
    errors: list[type[BaseException]] = []

    def body() -> None:
        background.current().check_time()
        released.wait(LIMIT)
        try:
            background.current().check_time()
        except SoftTimeLimitExceeded as error:
            errors.append(type(error))

    assert run(body) == "ticket"
    released.set()
    wait_until(lambda: errors, LIMIT)


def test_threads_serve_one_body_after_the_other() -> None:
    threads = {run(threading.get_ident) for _ in range(20)}
    assert len(threads) <= background._SPARE_THREADS + 1


@pytest.mark.parametrize(("seconds", "tickets"), [(0.5, 1), (1.5, 2)])
def test_a_ticket_comes_at_once_when_the_work_is_done_after_the_first_one_came(
    tasks: ThreadPoolExecutor,
    released: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    tickets: int,
) -> None:
    """The chord of a job waits for the tasks of its parts, and a ticket that came too early for up to ten seconds."""
    monkeypatch.setattr("pacs_tasks.tasks.engine.base.others_wait", lambda *_: True)
    monkeypatch.setattr(background, "_SOON", 0.0)
    monkeypatch.setattr(background.Body, "detached_for", lambda _: seconds)
    published: list[dict[str, Any]] = []

    def note(headers: dict[str, Any], **_: Any) -> None:
        published.append(headers)

    def waits() -> None:
        released.wait(LIMIT)

    with Celery(broker="memory://", set_as_current=False) as celery:
        task = celery.task(base=WaitingTask, name="waits")(waits)
        task.push_request(id="part", called_directly=False, retries=3, delivery_info={"routing_key": "parts"})
        before_task_publish.connect(note)
        try:
            with pytest.raises(Ignore):
                task()
            released.set()
            wait_until(lambda: not background.in_background(), LIMIT, "the end of the body")
        finally:
            before_task_publish.disconnect(note)
            task.pop_request()
    due = [datetime.fromisoformat(each["eta"]) for each in published]
    assert {each["id"] for each in published} == {"part"}
    assert (len(due), min(due)) == (tickets, due[-1])


def test_a_part_that_waits_asks_to_go_on_in_the_background_instead_of_ending_its_turn(
    tasks: ThreadPoolExecutor, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a job whose remote is slow would have as many associations as there are processes while others run."""
    monkeypatch.setattr(background, "_SOON", LIMIT)
    asked: list[bool] = []

    def body() -> None:
        released.wait(0.05)
        asked.extend([background.current().ask(), background.current().ask()])
        released.wait(LIMIT)

    assert run(body) == "ticket"
    assert asked == [True, False]


def test_a_part_that_works_does_not_ask(tasks: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine gives a thread a small part of its time.
    monkeypatch.setattr(background, "_LITTLE_CPU", 0.01)

    def body() -> bool:
        begun = time.thread_time()
        while time.thread_time() - begun < 0.05:
            pass
        return background.current().ask()

    assert run(body, may_detach=False) is False
