"""The commands that run processes: they stay until Ctrl-C or SIGTERM; the demo ends by itself."""

from __future__ import annotations

from pacs_tasks.cli.commands.shared import command, later
from pacs_tasks.cli.invocation import Invocation
from pacs_tasks.cli.output.exit_codes import ExitCode
from pacs_tasks.cli.stack.processes import run_flower, run_receiver, run_up, run_worker


@command("worker", "PACS_TASKS_REDIS_URL=redis://192.168.1.10:6379/0 pacs-tasks worker")
def worker(invocation: Invocation) -> int:
    """Serve the queues of PACS_TASKS_REDIS_URL on this machine."""
    return run_worker(invocation.settings)


@command("receiver", "PACS_TASKS_RECEIVER_AE_TITLE=MY_RECEIVER pacs-tasks receiver")
def receiver(invocation: Invocation) -> int:
    """Receive what C-MOVE delivers (a Storage SCP)."""
    return run_receiver(invocation.settings)


@command("flower", "PACS_TASKS_FLOWER_BASIC_AUTH=name:password pacs-tasks flower")
def flower(invocation: Invocation) -> int:
    """Show workers and tasks in a browser."""
    return run_flower(invocation.settings)


@command("up", "pacs-tasks up")
def up(invocation: Invocation) -> int:
    """Run the whole stack on this machine: server, worker, receiver, Flower. Ctrl-C ends it."""
    return _ended(invocation, run_up(invocation.settings))


@command("demo", "pacs-tasks demo")
def demo(invocation: Invocation) -> int:
    """Start everything, send, query, retrieve by C-MOVE and C-GET, compare, and end everything."""
    terminal = invocation.terminal
    complete = later("stack.demo", "run_demo")(invocation.settings, terminal.say if terminal.json else terminal.line)
    return _ended(invocation, ExitCode.DONE if complete else ExitCode.FAILED)


def _ended(invocation: Invocation, code: int) -> int:
    """The exit code, and the JSON document where one was asked for: all else goes to stderr then."""
    if invocation.terminal.json:
        invocation.terminal.document({"exit_code": code})
    return code
