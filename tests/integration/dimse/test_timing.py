"""Response times are counted where the tasks are loaded, whether a Redis answers or not."""

from __future__ import annotations

import subprocess
import sys

from pacs_tasks.testing import TestPACS
from tests.support.ports import free_port
from tests.support.processes import environment

_ECHO = """
import sys
from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.tasks.engine import associations

outcome = echo(LocalAE(), RemoteAE(host="127.0.0.1", port=int(sys.argv[1]), ae_title=sys.argv[2]), Timeouts.of(20))
print(outcome.category.value)
"""


def test_a_response_that_is_counted_asks_for_no_redis(pacs: TestPACS) -> None:
    """Counting once connected to Redis: C-ECHO failed in a process that has loaded the tasks and has none."""
    remote = pacs.remote
    env = environment(PACS_TASKS_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    arguments = [sys.executable, "-c", _ECHO, str(remote.port), remote.ae_title]
    ended = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.returncode) == ("success\n", 0), ended.stderr
