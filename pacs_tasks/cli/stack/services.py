"""The services of the commands that run processes. Each function returns an exit code."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import click

from pacs_tasks import embedded
from pacs_tasks.cli.stack.processes import Stack, address_to_call, check_port, is_listening
from pacs_tasks.connection import connect
from pacs_tasks.embedded.launch import command, environment, worker_arguments
from pacs_tasks.embedded.places import Places
from pacs_tasks.extras import installed, require
from pacs_tasks.fleet.receivers import running
from pacs_tasks.privacy import plain
from pacs_tasks.sealing import IN_CLEAR
from pacs_tasks.settings import Settings

#: Seconds that the receiver, Flower and the HTTP API have to answer.
START_LIMIT = 60.0
LOGIN = "PACS_TASKS_FLOWER_BASIC_AUTH"


def run_worker(settings: Settings) -> int:
    """Run a Celery worker."""
    require("worker")
    return _run("workers", worker_arguments(settings), settings)


def run_receiver(settings: Settings) -> int:
    """Run the receiver."""
    require("worker")
    return _run("workers.receiver", [], settings)


def run_flower(settings: Settings) -> int:
    """Run Flower, which needs a login.

    Raises
    ------
    ConfigurationError
        If no login is set or its password is weak, the port is in use, or the extra ``flower`` is not installed.
    """
    require("flower")
    login = settings.flower_login()
    if settings.flower_port:
        check_port("Flower", "PACS_TASKS_FLOWER_PORT", settings.flower_address, settings.flower_port)
    return _run("workers.flowerconfig", [], settings, {LOGIN: login})


def run_serve(settings: Settings) -> int:
    """Run the HTTP API and its console.

    Raises
    ------
    ConfigurationError
        If what they need is not installed, or the port is in use.
    """
    require("serve")
    if settings.serve_port:
        check_port("The HTTP API", "PACS_TASKS_SERVE_PORT", settings.serve_address, settings.serve_port)
    return _run("pacs_tasks.serve", [], settings)


def run_up(settings: Settings) -> int:
    """Run the whole stack until Ctrl-C or SIGTERM.

    Raises
    ------
    ConfigurationError
        If a port is in use, the password of Flower is weak, no Redis can be used, or an extra is not installed.
    """
    require("worker")
    require("flower")
    receiver_port = check_port(
        "The receiver", "PACS_TASKS_RECEIVER_PORT", settings.receiver_host, settings.receiver_port
    )
    flower_port = check_port("Flower", "PACS_TASKS_FLOWER_PORT", settings.flower_address, settings.flower_port)
    login = settings.flower_login() if settings.flower_basic_auth else f"pacs:{secrets.token_urlsafe(12)}"
    ports = {"receiver_port": receiver_port, "flower_port": flower_port}
    if installed("serve"):
        ports["serve_port"] = check_port(
            "The HTTP API", "PACS_TASKS_SERVE_PORT", settings.serve_address, settings.serve_port
        )
    settings = settings.model_copy(update=ports)
    try:
        with _server(settings) as url, Stack() as stack:
            return _keep_up(stack, settings, url, login)
    finally:
        if settings.redis_url is None and not embedded.stop(settings, spare_attached=True):
            click.echo("Another command still uses the private server. The server ends after that command.", err=True)


def _keep_up(stack: Stack, settings: Settings, url: str, login: str) -> int:
    variables = environment(settings, url)
    # They end in this order: the worker may need the receiver until its last task is done.
    stack.start("flower", "workers.flowerconfig", [], {**variables, LOGIN: login})
    if installed("serve"):
        stack.start("serve", "pacs_tasks.serve", [], variables)
    if settings.redis_url is not None:
        arguments = [*worker_arguments(settings), "--hostname", f"up-{os.getpid()}@%h"]
        stack.start("worker", "workers", arguments, variables)
    stack.start("receiver", "workers.receiver", [], variables)

    def broken() -> bool:
        return settings.redis_url is None and bool(embedded.failure(settings))

    def ready() -> bool:
        listening = is_listening(settings.flower_address, settings.flower_port)
        if installed("serve"):
            listening = listening and is_listening(settings.serve_address, settings.serve_port)
        return listening and _announced(settings, url)

    dead = stack.wait(START_LIMIT, lambda: broken() or ready())
    if dead is None and not broken() and not stack.is_stopping:
        if not ready():
            click.echo(
                f"The receiver, Flower and the HTTP API do not answer within {START_LIMIT:.0f} s. See their output "
                "above.",
                err=True,
            )
            return 1
        _introduce(settings, login)
        dead = stack.wait(until=broken)
    if dead is not None:
        why = "\n".join(f"    {plain(line)}" for line in dead.tail)
        click.echo(f"The {dead.name} ended with {dead.process.returncode}. Its last lines:\n{why}", err=True)
        return 1
    if broken():
        click.echo(plain(embedded.failure(settings)), err=True)
        return 1
    click.echo("Stopping ...", err=True)
    return 0


def _introduce(settings: Settings, login: str) -> None:
    user, _, password = login.partition(":")
    shown = f", user {user}, password {password}" if not settings.flower_basic_auth else ""
    how = ", TLS" if settings.receiver_tls else ""
    lines = [
        "Ready. Press Ctrl-C to stop.",
        f"  Flower:   http://{address_to_call(settings.flower_address)}:{settings.flower_port}{shown}",
        f"  Receiver: AE title {settings.receiver_ae_title}, port {settings.receiver_port}{how} (configure your PACS)",
        f"  Received: {settings.received}",
    ]
    if installed("serve"):
        lines.append(
            f"  Console:  http://{address_to_call(settings.serve_address)}:{settings.serve_port}, with a token of "
            "`pacs-tasks token new`"
        )
    if settings.redis_url is None:
        lines.append(f"  Logs of the private server and its worker: {Places.of(settings).log('worker').parent}")
        # With the Redis of a fleet, the worker reports it.
        lines += [] if settings.keys else [IN_CLEAR]
    click.echo("\n".join(lines), err=True)


def _announced(settings: Settings, url: str) -> bool:
    """Whether the receiver is announced in Redis. A test connection would show in its log."""
    with connect(url, settings.redis_timeout) as client:
        return any(each.port == settings.receiver_port for each in running(client))


@contextmanager
def _server(settings: Settings) -> Iterator[str]:
    """The URL of the Redis of the fleet, once it answers, or of the private server."""
    if settings.redis_url is None:
        with embedded.attach(settings) as url:
            yield url
    else:
        connect(settings.redis_url, settings.redis_timeout).close()
        yield settings.redis_url


def _run(module: str, arguments: Sequence[str], settings: Settings, more: Mapping[str, str] | None = None) -> int:
    """Run one process in the foreground, on the terminal of this one.

    With the Redis of a fleet, this process becomes that process where the system supports it, so that it gets all
    signals directly. With the private server this process stays, since the server ends when no process uses it.
    """
    if settings.redis_url is not None and sys.platform != "win32":
        variables = {**environment(settings, settings.redis_url), **(more or {})}
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, command(module, *arguments), variables)  # noqa: S606 - it is ours
    with ExitStack() as entered:
        url = settings.redis_url or entered.enter_context(embedded.attach(settings))
        stack = entered.enter_context(Stack())
        variables = {**environment(settings, url), **(more or {})}
        child = stack.start(module, module, arguments, variables, prefix=False)
        stack.wait()
        stopped = stack.is_stopping
        stack.end()
        return 0 if stopped else child.process.returncode
