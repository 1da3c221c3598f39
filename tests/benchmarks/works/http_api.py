"""The HTTP API: jobs enqueued a second, and what a thousand who watch a job cost it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Final

from pacs_tasks import StoreDirectoryRequest
from pacs_tasks.ledger.tokens import Scope
from tests.benchmarks.files import TEN_THOUSAND
from tests.benchmarks.fleet import default_fleet
from tests.benchmarks.measuring import Bar, Bench, BenchError, Contestant, Figure, Work
from tests.support import peers
from tests.support.http_api import Api, serving
from tests.support.processes import Process
from tests.support.redis_server import redis_server
from tests.support.waiting import wait_until

#: Requests, and services that send them at once, each over one connection.
_REQUESTS: Final = 4_000
_SMALL_REQUESTS: Final = 40
_SERVICES: Final = 4
_WATCHERS: Final = 1_000
_SMALL_WATCHERS: Final = 20
_LIMIT: Final = 300.0
#: The nice value of what stands for other machines.
_OTHER_MACHINES: Final = 19

_RATE: Final = "POST /jobs a second"
_P99: Final = "POST /jobs, p99"
_ALONE: Final = "job that nobody watches"
_WATCHED: Final = "job that 1,000 watch"
_JOINED: Final = "job that 1,000 begin to watch while it runs"


def _submissions(bench: Bench) -> Contestant:
    """No worker serves this Redis: what is measured is the API."""

    def run() -> Mapping[str, Figure]:
        count = (_SMALL_REQUESTS if bench.small else _REQUESTS) // _SERVICES
        with bench.room() as room, redis_server(room, durable=True) as redis, serving(redis.url(), room) as server:
            service = server.as_one_who(Scope.SUBMIT)
            _submit(service, count // 10)
            began = time.monotonic()
            with ThreadPoolExecutor(_SERVICES) as pool:
                taken = [
                    each for found in pool.map(_submit, [service] * _SERVICES, [count] * _SERVICES) for each in found
                ]
            seconds = time.monotonic() - began
        p99 = statistics.quantiles(taken, n=100)[98]
        return {_RATE: Figure(len(taken) / seconds, "1/s"), _P99: Figure(1000 * p99, "ms")}

    return Contestant(_RATE, run)


def _submit(service: Api, count: int) -> list[float]:
    """The seconds that each of so many requests took."""
    body = json.dumps({"task": "pacs_tasks.store_directory", "request": {"directory": "/data/study"}})
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"}
    taken = []
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection:
        for _ in range(count):
            began = time.perf_counter()
            connection.request("POST", "/jobs", body, headers)
            response = connection.getresponse()
            text = response.read()
            taken.append(time.perf_counter() - began)
            if response.status != 202:
                raise BenchError(f"POST /jobs: {response.status} {text!r}")
    return taken


def _job(bench: Bench, name: str, watchers: int, *, joined: bool = False) -> Contestant:
    """Send files; with ``joined``, the watchers connect while that goes on, else before it begins."""

    def run() -> Mapping[str, Figure]:
        files = bench.files(TEN_THOUSAND)
        fleet = bench.shared(default_fleet)
        with (
            bench.room() as room,
            fleet.client() as client,
            serving(fleet.url, room) as server,
            peers.storescp(room, "STORESCP", "--fork") as peer,
            ExitStack() as stack,
        ):
            service = server.as_one_who(Scope.READ)
            with _paused(fleet.worker):
                job = client.enqueue(StoreDirectoryRequest(remote=peer.remote, directory=str(files.directory)))
                if watchers:
                    all_watch = stack.enter_context(_watching(service, job.id, watchers))
                    if not joined and not all_watch.wait(60):
                        raise BenchError(f"not all of {watchers} watch after 60 s")
            resumed = time.time()
            progress = job.wait(_LIMIT)
        if progress.finished is None or progress.counters.success != files.count:
            raise BenchError(f"{progress.counters.success} of {files.count} files were sent")
        # By Redis's clock, which is this machine's.
        return {name: Figure(progress.finished - resumed)}

    return Contestant(name, run)


@contextmanager
def _paused(worker: Process) -> Iterator[None]:
    """Have a worker and its children begin nothing during the block."""
    os.killpg(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(worker.pid, signal.SIGCONT)


@contextmanager
def _watching(service: Api, job_id: str, watchers: int) -> Iterator[threading.Event]:
    """Watch a job from so many connections, and check that each learns of its end; yield what tells that all watch.

    They stand for other machines, so they run when this one has nothing else to do.
    """
    ended: list[int] = []
    all_watch = threading.Event()

    def watch() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _OTHER_MACHINES)
        ended.append(asyncio.run(_watch(service, job_id, watchers, all_watch)))

    thread = threading.Thread(target=watch)
    thread.start()
    yield all_watch
    wait_until(lambda: not thread.is_alive(), 60, "all to learn of the end")
    if ended != [watchers]:
        raise BenchError(f"{ended} of {watchers} learnt of the end of the job")


async def _watch(service: Api, job_id: str, watchers: int, all_watch: threading.Event) -> int:
    request = (
        f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {service.token}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    watching = 0

    async def one() -> bool:
        nonlocal watching
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request)
        last = await reader.readuntil(b"event: ")
        watching += 1
        if watching == watchers:
            all_watch.set()
        while piece := await reader.read(1 << 16):
            last = (last + piece)[-4096:]
        writer.close()
        await writer.wait_closed()
        return b"event: end" in last

    return sum(await asyncio.gather(*(one() for _ in range(watchers))))


@contextmanager
def _scene(bench: Bench) -> Iterator[Sequence[Contestant]]:
    watchers = _SMALL_WATCHERS if bench.small else _WATCHERS
    yield [
        _submissions(bench),
        _job(bench, _ALONE, 0),
        _job(bench, _WATCHED, watchers),
        _job(bench, _JOINED, watchers, joined=True),
    ]


WORK: Final = Work(
    "http-api",
    (
        "10,000 files of 10 kB, watched over HTTP; jobs enqueued over HTTP",
        "通过 HTTP 监视 10,000 个文件的发送；通过 HTTP 提交任务",
    ),
    (TEN_THOUSAND,),
    _scene,
    (
        Bar(
            "watchers",
            _WATCHED,
            (_ALONE,),
            1.05,
            ("the job that nobody watches", "无人监视的任务"),
            at_least=False,
            own=True,
        ),
        Bar(
            "joined",
            _JOINED,
            (_ALONE,),
            None,
            ("1,000 that begin to watch at once", "同时开始监视的 1,000 个连接"),
            at_least=False,
            own=True,
        ),
        Bar(
            "submissions",
            _RATE,
            (),
            None,
            ("jobs enqueued a second by 4 services", "4 个服务每秒提交的任务数"),
            unit="1/s",
        ),
        Bar(
            "p99",
            _P99,
            (),
            None,
            ("99 of 100 are accepted within", "百分之九十九在此时间内被接受"),
            at_least=False,
            unit="ms",
        ),
    ),
    scheduling=True,
)
