"""A planted patient: whatever a command, a task, a failure or a remote does, nobody but the caller sees the name.

With keys, this includes the files of the Redis. Without keys these hold the name, which shows that the search finds it.
"""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from pacs_tasks import FindRequest, GetRequest, InvalidRequestError, JobFailedError, MoveRequest, SealingError
from pacs_tasks.client import PacsClient
from pacs_tasks.operations import FIND_QUEUE, OPERATIONS
from pacs_tasks.request import AnyRequest
from pacs_tasks.sealing import SEALED, new_key, sealed_request
from pacs_tasks.settings import Settings
from pacs_tasks.testing import EVERY_INSTANCE, Faults, Report, TestPACS
from tests.support import nursery, workers
from tests.support.command import PACS_TASKS, Result, Terminal
from tests.support.dicom_files import UID_ROOT, study_uid, write_series
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server
from tests.support.service import another_service
from tests.support.waiting import wait_until

NAME, PATIENT_ID, WARD = "Zyxwvut^Planted", "PLANTED-ID-77", "Ward-Planted"
#: What must not be seen: name, id, path and UIDs.
NEEDLES = ("Zyxwvut", PATIENT_ID, WARD, f"{UID_ROOT}.1")
KEY = new_key()
_LOGIN = "watcher:only-for-this-test"


def found_in(content: bytes) -> list[str]:
    """The needles in a file or text, also those within base64, which is how Celery writes its messages."""
    found = []
    for needle in NEEDLES:
        plain = needle.encode()
        forms = [plain, plain.upper(), *(_within_base64(plain, shift) for shift in range(3))]
        if any(each in content for each in forms):
            found.append(needle)
    return found


def _within_base64(plain: bytes, shift: int) -> bytes:
    """The characters of base64 that only ``plain`` decides, after so many other bytes."""
    first, last = (shift * 8 + 5) // 6, (shift + len(plain)) * 8 // 6
    return base64.b64encode(bytes(shift) + plain)[first:last]


@dataclass
class Stage:
    """A fleet on which the planted patient has been: what each place holds afterwards."""

    sealed: bool
    #: The place of each text to the text.
    places: dict[str, bytes] = field(default_factory=dict)
    #: What the caller's own terminal showed, and the tasks of all jobs.
    shown: str = ""
    tasks: set[str] = field(default_factory=set)


class _Scene:
    """Commands, services and faults about the planted patient."""

    def __init__(self, directory: Path, server: RedisServer, archive: TestPACS, other: TestPACS, *, sealed: bool):
        self.directory, self.server, self.archive, self.other, self.sealed = directory, server, archive, other, sealed
        self.key = KEY if sealed else ""
        remotes = json.dumps({"other": other.remote.model_dump(mode="json")})
        settings = ("PACS_TASKS_ENCRYPTION_KEYS", self.key), ("PACS_TASKS_REMOTES", remotes)
        self.terminal = Terminal(directory, server.url(), settings, PACS_TASKS)
        self.peer = ["--ip", archive.host, "--port", archive.port, "--pacs-ae-title", archive.ae_title]
        self.logs: list[Path] = []
        self.shown = ""
        self.tasks: set[str] = set()

    def run(self, *arguments: object, code: int | None = 0) -> Result:
        """Run a command with a log of its own at DEBUG."""
        self.logs.append(self.directory / f"command-{len(self.logs)}.log")
        logging = ["--log-level", "DEBUG", "--log-file", self.logs[-1]]
        result = self.terminal.run(*arguments, *logging)
        assert code is None or result.code == code, str(result)
        self.shown += result.stdout + result.stderr
        return result

    def commands(self) -> None:
        """Every command that transfers, queries, verifies or reports, with success."""
        ward, peer = self.directory / WARD, self.peer
        files = write_series(ward / "in", 3, patient_name=NAME, patient_id=PATIENT_ID, charset="ISO_IR 192", rows=2)
        batch = ward / "batch.csv"
        batch.write_text(f"PatientName,PatientID\n{NAME},{PATIENT_ID}\n", encoding="utf-8")
        self.run("send-dir", "--dir", ward / "in", "--dry-run", *peer)
        self.run("send-file", "--file", files[0], *peer)
        self.run("send-dir", "--dir", ward / "in", "--files-per-task", "1", *peer)
        for command in ("verify", "report", "status"):
            self.run(command, "last")
        self.archive.faults = Faults(report=Report.SAME_ASSOCIATION)
        self.run("send", files[1], *peer)
        self.run("verify", "last", "--commit")
        self.archive.faults = Faults()
        self.run("query", "--patient-name", NAME, "--patient-id", PATIENT_ID, *peer)
        self.run("query", "--batch", batch, *peer)
        for name, method in (("get", "get"), ("move", "move")):
            out = ["--output-dir", ward / name, "--method", method]
            self.run("retrieve", "--study-uid", study_uid(), *out, *peer)
        self.run("retrieve", "--patient-id", PATIENT_ID, "--to-remote", "other", *peer)
        self.run("retrieve", "--batch", batch, "--output-dir", ward / "batch", *peer)
        self.run("jobs")
        self.run("echo", *peer)

    def failures(self) -> None:
        """Failures of every kind; the remote repeats the name in its comments."""
        ward, peer = self.directory / WARD, self.peer
        self.archive.faults = Faults(find_status=0xC001, retrieve_status=0xC002, comment=f"no {NAME} (or {PATIENT_ID})")
        result = self.run("query", "--patient-id", PATIENT_ID, *peer, code=1)
        assert NAME in result.stdout + result.stderr, str(result)
        result = self.run("retrieve", "--study-uid", study_uid(), "--output-dir", ward / "a", *peer, code=None)
        assert NAME in result.stdout + result.stderr, str(result)
        assert result.code
        self.run("retrieve", "--patient-id", PATIENT_ID, "--output-dir", ward / "b", *peer, code=None)
        self.archive.faults = Faults(retrieve_status=0xC002, comment=f"no {NAME}")
        self.run("retrieve", "--study-uid", study_uid(), "--output-dir", ward / "c", *peer, code=None)
        self.archive.faults = Faults(store_status={EVERY_INSTANCE: 0xA900}, comment=f"not {NAME}")
        self.run("send-dir", "--dir", ward / "in", *peer, code=None)
        self.archive.faults = Faults(store_status={EVERY_INSTANCE: 0xB000}, action_status=0x0110, comment=NAME)
        self.run("send-dir", "--dir", ward / "in", *peer, code=None)
        self.run("verify", "last", "--commit", code=None)
        self.archive.faults = Faults()
        self.run("retry", "last", code=None)
        self.run("send-dir", "--dir", ward / "nowhere", *peer, code=2)
        self.run("send-dir", "--dir", ward / "in", "--port", free_port(), "--give-up-after", "0", code=None)

    def services(self) -> None:
        """Another service: right, wrong and damaged requests, and what Celery gives it."""
        request = FindRequest(remote=self.archive.remote, keys={"PatientName": NAME})
        self.archive.faults = Faults(find_status=0xC001, comment=NAME)
        with another_service(self.server.url()) as app:
            for number, fields in enumerate(self._payloads(request)):
                result = app.send_task(
                    request.task, kwargs={"request": fields}, queue=FIND_QUEUE, task_id=f"service-{number}"
                )
                try:
                    said: object = result.get(timeout=60)
                except (InvalidRequestError, JobFailedError, SealingError) as error:
                    said = error
                assert not found_in(repr(said).encode()), said
                result.forget()
        self.archive.faults = Faults()

    def _payloads(self, request: AnyRequest) -> Iterator[Mapping[str, Any]]:
        if self.sealed:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("pacs_tasks.sealing.settings", lambda: Settings(encryption_keys=KEY))
                payload = sealed_request(request, "service-0")
            # The second is copied under another id.
            yield from (payload, payload, {SEALED: "nonsense"})
            return
        yield request.model_dump(mode="json")
        yield {NAME: 1}
        yield {"charset": NAME}
        yield {"keys": {"PatientName": f"{NAME}\ud800"}}
        yield {"keys": {NAME: ""}}
        yield {"level": NAME, "keys": {"PatientID": [PATIENT_ID]}}

    def crash(self) -> None:
        """A defect: the record of a job is not what the code expects."""
        config = Settings(encryption_keys=KEY if self.sealed else None)
        with PacsClient(self.server.url(), config) as client:
            uids, remote = {"study_uid": study_uid()}, self.archive.remote
            for request in (
                MoveRequest(remote=remote, move_aet="OTHER", **uids),
                GetRequest(remote=remote, output_dir=str(self.directory / WARD / "one"), **uids),
            ):
                client.enqueue(request).wait(30)
            assert client.ledger.open("crashed", "pacs_tasks.find", FindRequest(keys={"PatientName": NAME}))
            client.ledger.client.hset("pacs_tasks:job:crashed", "request", NAME if not self.sealed else "damaged")
            client.job("crashed")._broker.publish("pacs_tasks.find", "crashed")
            wait_until(lambda: client.job("crashed").progress().state.finished, 30, "the end of the damaged job")
            self.tasks = {each.task for each in client.jobs(1000)}


@pytest.fixture(scope="module", params=[True, False], ids=["sealed", "plain"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Everything happens once; the tests search what is left."""
    sealed: bool = request.param
    directory = tmp_path_factory.mktemp("stage")
    (directory / "redis").mkdir()
    found = Stage(sealed)
    with ExitStack() as stack:
        server = stack.enter_context(
            redis_server(directory / "redis", durable=True, more=["--rdbcompression", "no", "--appendfsync", "always"])
        )
        url, port = server.url(), free_port()
        other = stack.enter_context(TestPACS("OTHER"))
        archive = stack.enter_context(TestPACS("ARCHIVE"))
        archive.destinations = {"OTHER": (other.host, other.port), "PLANTED_RX": ("127.0.0.1", port)}
        scene = _Scene(directory, server, archive, other, sealed=sealed)
        # What runs to the end: the arguments and variables of a forked program are not in /proc.
        with nursery.none():
            worker = stack.enter_context(
                workers.worker(
                    url,
                    directory,
                    "planted",
                    level="DEBUG",
                    options="",
                    PACS_TASKS_ENCRYPTION_KEYS=scene.key,
                    PACS_TASKS_AUDIT=str(directory / "audit.jsonl"),
                    PACS_TASKS_AUDIT_PATIENTS="masked",
                )
            )
            receiver = stack.enter_context(
                workers.receiver(url, directory, port, "PLANTED_RX", PACS_TASKS_ENCRYPTION_KEYS=scene.key)
            )
            flower = stack.enter_context(workers.flower(url, directory, _LOGIN))
        events = stack.enter_context(_Events(url))
        scene.commands()
        scene.failures()
        scene.services()
        scene.crash()
        lines = (path for path in Path("/proc").glob("[0-9]*/cmdline") if _ours(path, directory))
        found.places["ps"] = b"".join(path.read_bytes() for path in lines)
        found.places["masked audit trail"] = (directory / "audit.jsonl").read_bytes()
        found.places |= {"worker": worker.log.read_bytes(), "receiver": receiver.log.read_bytes()}
        found.places |= {f"log of command {log.name}": log.read_bytes() for log in scene.logs if log.exists()}
        found.places["events"] = json.dumps(events.seen, default=str).encode()
        found.places |= dict(_flower_pages(flower))
        with redis.Redis.from_url(url) as client:
            found.places |= _keys(client)
            client.save()
        for file in (directory / "redis").rglob("*"):
            if file.is_file():
                found.places[f"redis file {file.name}"] = file.read_bytes()
        found.shown, found.tasks = scene.shown, scene.tasks
    return found


def _ours(cmdline: Path, directory: Path) -> bool:
    try:
        return str(directory).encode() in cmdline.with_name("environ").read_bytes()
    except OSError:
        return False


class _Events:
    """Records every event of workers, in a thread."""

    def __init__(self, url: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self._stack = ExitStack()
        app = self._stack.enter_context(another_service(url))
        connection = self._stack.enter_context(app.connection_for_read())
        self._receiver = app.events.Receiver(connection, handlers={"*": self.seen.append})
        self._thread = threading.Thread(target=self._receiver.capture, kwargs={"timeout": 600, "wakeup": True})

    def __enter__(self) -> _Events:
        self._thread.start()
        wait_until(lambda: self.seen, 15, "a heartbeat of the worker")
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.should_stop = True
        self._thread.join(15)
        self._stack.close()


def _flower_pages(address: str) -> Iterator[tuple[str, bytes]]:
    tasks = json.loads(_page(address, "/api/tasks?limit=1000"))
    assert len(tasks) > 10
    pages = ["/", "/workers", "/tasks", "/broker", "/metrics", "/api/workers?refresh=1", "/api/tasks?limit=1000"]
    pages += [f"/task/{uuid}" for uuid in list(tasks)[:20]] + [f"/api/task/info/{uuid}" for uuid in tasks]
    for page in pages:
        yield f"Flower {page}", _page(address, page)


def _page(address: str, path: str) -> bytes:
    token = base64.b64encode(_LOGIN.encode()).decode()
    request = urllib.request.Request(address + path, headers={"Authorization": f"Basic {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return cast(bytes, answer.read())


def _keys(client: redis.Redis) -> dict[str, bytes]:
    """Every key but those of the ledger, with its content."""
    found = {}
    for key in cast("list[bytes]", client.keys()):
        if key.startswith((b"pacs_tasks:job:", b"pacs_tasks:callers", b"pacs_tasks:expected")):
            continue
        read = {b"string": client.get, b"hash": client.hgetall, b"set": client.smembers}
        kind = cast(bytes, client.type(key))
        value = read[kind](key) if kind in read else client.lrange(key, 0, -1) if kind == b"list" else b""
        found[f"key {key.decode()}"] = key + repr(value).encode()
    return found


def test_nobody_but_the_caller_sees_it(stage: Stage) -> None:
    """Logs, events, results, Flower, metrics, queues and the list of processes hold nothing of the patient."""
    leaks = {place: found_in(content) for place, content in stage.places.items() if not place.startswith("redis file")}
    assert {place: found for place, found in leaks.items() if found} == {}
    assert stage.places["masked audit trail"].count(b"DICOM Instances Transferred") > 5
    assert any(place.startswith("key celery-task-meta") for place in stage.places)
    assert set(found_in(stage.shown.encode())) >= {"Zyxwvut", PATIENT_ID}


def test_the_files_of_redis_hold_it_only_without_a_key(stage: Stage) -> None:
    """Append-only file and snapshot, byte by byte. Without a key they hold all of it: the search finds it."""
    files = {place: content for place, content in stage.places.items() if place.startswith("redis file")}
    assert any("aof" in place for place in files)
    assert any("rdb" in place for place in files)
    found = {needle for content in files.values() for needle in found_in(content)}
    assert found == (set() if stage.sealed else set(NEEDLES))


def test_the_search_finds_base64() -> None:
    """Bodies of messages are base64; the place in it shifts the letters."""
    for shift in range(5):
        assert found_in(base64.b64encode(b"x" * shift + NAME.encode() + b"yz")) == ["Zyxwvut"]


def test_every_operation_was_on_the_stage(stage: Stage) -> None:
    """A new operation must be planted too."""
    assert stage.tasks == set(OPERATIONS)
