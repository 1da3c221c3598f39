"""Flower, the monitor of workers and tasks: ``python -m workers.flowerconfig``.

Its events pass :mod:`workers.transport`, as the messages of a worker do: a malformed one would interrupt it.

This is also a configuration file of Flower: ``celery -A pacs_tasks.app flower --conf=workers/flowerconfig.py``. The
names at the end are Flower's options. Of the arguments and results, Flower shows ids, ranges, counts and remotes
(:mod:`pacs_tasks.messages.shown`), and nothing else.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import hmac
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

# Flower would read the module's name as its option --logging.
from logging import StreamHandler, getLogger
from types import SimpleNamespace
from typing import Any

import redis
from celery.events.state import Task
from celery.states import PENDING
from flower import urls, views
from prometheus_client import REGISTRY
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop
from tornado.web import OutputTransform

from pacs_tasks.app import DEFAULT_REDIS_URL
from pacs_tasks.connection import LateConnection
from pacs_tasks.errors import BrokerUnavailableError, PacsTasksError
from pacs_tasks.journal.logs import log_plainly, write_lines
from pacs_tasks.ledger.jobs import Ledger
from pacs_tasks.messages.shown import checked, job_of
from pacs_tasks.metrics import FleetCollector
from pacs_tasks.privacy import directory_mode, keep_private
from pacs_tasks.settings import Settings, load, remark_on_variables

logger = getLogger("pacs_tasks.flower")

#: Seconds without a request to Redis after it gave no answer: Flower does nothing else while it waits.
_PAUSE = 5.0
#: Seconds that Flower's threads have to end: less than the ten after which an engine kills a container.
_END_LIMIT = 5.0
#: Tasks that Flower remembers.
max_tasks = 10_000


#: The one script inside Flower's pages, in workers.html, which the policy allows by its hash.
INLINE_SCRIPT = "\nvar autorefresh = 1;\n"
_HASH = base64.b64encode(hashlib.sha256(INLINE_SCRIPT.encode()).digest()).decode()
#: Pages load nothing from elsewhere, and nobody shows them in a frame. DataTables writes style attributes.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'self'; script-src 'self' 'sha256-{_HASH}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class SafeHeaders(OutputTransform):
    """Adds :data:`HEADERS` to every response, also to those of files and errors."""

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        _finishing: bool,
    ) -> tuple[int, HTTPHeaders, bytes]:
        for name, value in HEADERS.items():
            headers[name] = value
        return status_code, headers, chunk


def _same(expected: str, given: str) -> bool:
    """Compare logins as bytes. Flower compares texts, for which hmac raises TypeError unless both are ASCII."""
    return hmac.compare_digest(expected.encode(), given.encode())


class Remotes:
    """The remotes of jobs, for people; each is read once from the ledger.

    Parameters
    ----------
    fleet
        Returns the Redis of the fleet, over a connection with a short timeout.
    """

    def __init__(self, fleet: Callable[[], redis.Redis]) -> None:
        self._fleet = fleet
        self._known: dict[str, str] = {}
        self._away_until = 0.0

    def of(self, job_id: str) -> str:
        """Give the remote of a job; empty if it is not known, or Redis did not answer in the last seconds."""
        if job_id not in self._known and time.monotonic() >= self._away_until:
            try:
                found = Ledger(self._fleet()).progress(job_id).remote
            except (BrokerUnavailableError, redis.RedisError):
                self._away_until = time.monotonic() + _PAUSE
                return ""
            except (PacsTasksError, LookupError, TypeError, ValueError):
                # The job has expired, or is not in the ledger yet.
                return ""
            if len(self._known) >= max_tasks:
                self._known.clear()
            self._known[job_id] = found
        return self._known.get(job_id, "")


def show(task: Any) -> Any:
    """Leave in a task only what Flower may show, and add the remote of its job."""
    job_id = job_of(task.kwargs)
    task.args, task.kwargs, task.result = checked(task.args), checked(task.kwargs), checked(task.result or "")
    if job_id and (remote := _remotes.of(job_id)):
        task.args += f", {remote}"
    return task


def _keeps_files(config: Settings) -> bool:
    """Make the directory of Flower's database; false, with a line in the log, if it cannot be written."""
    keep_private(config.group_access)
    directory = config.data_dir.expanduser()
    with suppress(OSError):
        directory.mkdir(mode=directory_mode(config.group_access), parents=True, exist_ok=True)
    if os.access(directory, os.W_OK):
        return True
    logger.warning("Flower forgets its tasks when it ends: it cannot write to PACS_TASKS_DATA_DIR.")
    return False


def _check_messages() -> None:
    """Have events pass our transport, and hide what messages hold in logs."""
    from workers.transport import hide_bodies  # noqa: PLC0415 - it takes a while to load; by now, SIGTERM is held

    hide_bodies()


def _hold_sigterm() -> None:
    """Have Flower's event loop handle SIGTERM between its callbacks, and hold the signal until the loop runs.

    Flower itself exits from wherever it is. While a class is created, that raises another error before Python 3.12;
    while a thread starts, it leaves a thread that never ends.
    """
    if sys.platform != "win32":

        def end() -> None:
            IOLoop.current().stop()
            threading.Thread(target=_end_anyway, daemon=True).start()

        def handle() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        IOLoop.current().add_callback(handle)


def _end_anyway() -> None:
    """End the process if Flower's threads do not: each tries for ever to reach a Redis that has gone."""
    time.sleep(_END_LIMIT)
    # Python would do it after the threads. Flower saves its tasks there.
    atexit._run_exitfuncs()
    os._exit(0)


def main() -> int:
    """Run Flower with this file as its configuration."""
    try:
        load().flower_login()
    except PacsTasksError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.argv = ["celery", "-A", "pacs_tasks.app", "flower", f"--conf={__file__}"]
    _hold_sigterm()
    runpy.run_module("celery", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Flower reads this file under another name, and uses the names below.
try:
    _config = load()
    basic_auth = [_config.flower_login()]
except PacsTasksError as _error:
    sys.exit(str(_error))
log_plainly()
if _config.log_format == "json" and not getLogger().handlers:
    # Tornado adds its own output only where there is none.
    getLogger().addHandler(StreamHandler())
write_lines(_config.log_format)
if _remark := remark_on_variables():
    logger.warning("%s", _remark)
# The event of the publisher, which shows less, may come after that of the worker.
Task.merge_rules[PENDING] = ("exchange", "routing_key", "root_id", "parent_id")
views.hmac = SimpleNamespace(compare_digest=_same)
urls.settings["transforms"] = [SafeHeaders]
_fleet = LateConnection(_config.redis_url or DEFAULT_REDIS_URL).client
_remotes = Remotes(_fleet)
REGISTRY.register(FleetCollector(_fleet))
_check_messages()
address = _config.flower_address
port = _config.flower_port
format_task = show
tasks_columns = "name,uuid,state,args,result,received,runtime,worker"
#: Jobs are cancelled and retried with our own commands, which the ledger records.
read_only = True
#: Seconds for which a worker that is gone is still shown.
purge_offline_workers = 60
#: What Flower has seen outlives it: it saves at its end, and at intervals in milliseconds.
persistent = _keeps_files(_config)
db = str(_config.data_dir.expanduser() / "flower")
state_save_interval = 300_000
