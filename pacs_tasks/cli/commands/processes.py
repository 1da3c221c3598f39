"""The commands that run processes until Ctrl-C or SIGTERM, and the demo."""

from __future__ import annotations

from pacs_tasks.cli.declarations import ADDRESS, command
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode


@command("worker", "PACS_TASKS_REDIS_URL=redis://192.168.1.10:6379/0 pacs-tasks worker", without=("remote", "detach"))
def worker(invocation: Invocation) -> int:
    """Run a worker that serves the queues of PACS_TASKS_REDIS_URL."""
    from pacs_tasks.cli.stack.services import run_worker

    return run_worker(invocation.settings)


@command("receiver", "PACS_TASKS_RECEIVER_AE_TITLE=MY_RECEIVER pacs-tasks receiver", without=("remote", "detach"))
def receiver(invocation: Invocation) -> int:
    """Run a receiver for what C-MOVE delivers (a Storage SCP)."""
    from pacs_tasks.cli.stack.services import run_receiver

    return run_receiver(invocation.settings)


@command("flower", "PACS_TASKS_FLOWER_BASIC_AUTH=name:password pacs-tasks flower", without=(*ADDRESS, "detach"))
def flower(invocation: Invocation) -> int:
    """Run Flower, which shows workers and tasks in a browser."""
    from pacs_tasks.cli.stack.services import run_flower

    return run_flower(invocation.settings)


@command("serve", "PACS_TASKS_REDIS_URL=redis://192.168.1.10:6379/0 pacs-tasks serve", without=("remote", "detach"))
def serve(invocation: Invocation) -> int:
    """Run the HTTP API, by which services enqueue jobs, and the console, which shows them in a browser."""
    from pacs_tasks.cli.stack.services import run_serve

    return run_serve(invocation.settings)


@command("up", "pacs-tasks up", without=("remote", "detach"))
def up(invocation: Invocation) -> int:
    """Run the whole stack on this machine until Ctrl-C: server, worker, receiver, Flower and the HTTP API."""
    from pacs_tasks.cli.stack.services import run_up

    return invocation.terminal.end({}, run_up(invocation.settings))


@command("demo", "pacs-tasks demo", without=(*ADDRESS, "detach"))
def demo(invocation: Invocation) -> int:
    """Start everything, send, query, retrieve by C-MOVE and C-GET, compare, and stop everything."""
    from pacs_tasks.extras import require

    require("worker")
    require("flower")
    from pacs_tasks.cli.stack.demo import run_demo

    terminal = invocation.terminal
    complete = run_demo(invocation.settings, terminal.say if terminal.json else terminal.line)
    return terminal.end({}, ExitCode.DONE if complete else ExitCode.FAILED)
