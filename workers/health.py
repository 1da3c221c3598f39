"""Health checks: ``python -m workers.health worker|receiver|redis|flower|serve`` prints one line and exits with 0 or 1.

``worker`` checks the worker that Celery calls ``celery@HOSTNAME``, or another one by its name: ``worker send-1@host``.
``alive`` does the same for whoever would restart it: a worker whose Redis is away waits, so that it exits with 0.
Each check sends a request to the process itself and has a time limit. Containers and people use them.

Only a check that needs Celery imports it: a container is checked several times a minute, and Celery takes 0.5 s of CPU.
"""

from __future__ import annotations

import http.client
import importlib
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.connection import connect
from pacs_tasks.errors import (
    AssociationRejectedError,
    BrokerUnavailableError,
    ConfigurationError,
    PacsTasksError,
    TLSError,
)
from pacs_tasks.outcome import Category
from pacs_tasks.privacy import plain
from pacs_tasks.settings import Settings, load

#: Seconds for the whole check, and for each of its requests.
LIMIT = 10.0
STEP = 4.0
#: What some checks need beside this module. It is imported before the time of the check begins.
_NEEDED = MappingProxyType(
    {"worker": "pacs_tasks.app", "alive": "pacs_tasks.app", "receiver": "pacs_tasks.dimse.c_echo"}
)
#: Addresses that a process can listen at, but nobody can call, and the address to call instead.
_ANYWHERE = MappingProxyType({"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"})  # noqa: S104


def _redis_url(config: Settings) -> str:
    if config.redis_url is None:
        raise ConfigurationError("There is no Redis to check. Set PACS_TASKS_REDIS_URL.")
    return config.redis_url


def check_redis(config: Settings, _name: str = "") -> str:
    connect(_redis_url(config), STEP).close()
    return "Redis answers."


def check_worker(config: Settings, name: str = "") -> str:
    """Ping a worker through the broker, as `celery inspect ping` does."""
    from pacs_tasks.app import create

    check_redis(config)
    name = name or f"celery@{socket.gethostname()}"
    with create(_redis_url(config), config) as app:
        answers = app.control.ping(destination=[name], timeout=STEP, limit=1)
    if not answers:
        raise PacsTasksError(f"Worker {name} does not answer. Check its log.")
    return f"Worker {name} answers."


def check_alive(config: Settings, name: str = "") -> str:
    """Check a worker that nobody should restart because its Redis is away."""
    try:
        return check_worker(config, name)
    except BrokerUnavailableError as error:
        return f"The worker waits for its Redis. {error}"


def check_receiver(config: Settings, _name: str = "") -> str:
    """Send a C-ECHO to the receiver (PS3.4 annex A)."""
    from pacs_tasks.dimse.c_echo import echo
    from pacs_tasks.dimse.upper_layer.association import Timeouts
    from pacs_tasks.dimse.upper_layer.connecting import open_wire

    host = _ANYWHERE.get(config.receiver_host, config.receiver_host)
    tls = config.receiver_tls
    if tls is not None:
        # The receiver must show its own certificate, by whatever authority and for whatever name.
        tls = tls.model_copy(update={"ca_file": tls.certificate_file, "check_hostname": False})
    remote = RemoteAE(ae_title=config.receiver_ae_title, host=host, port=config.receiver_port, tls=tls)
    try:
        outcome = echo(LocalAE(ae_title="HEALTH"), remote, Timeouts.of(STEP))
    except TLSError:
        if config.receiver_tls_ca is None:
            raise
        # The receiver demands a certificate of another authority. A TLS handshake proves that it runs.
        open_wire(remote, STEP, STEP, lambda: None).close()
        return f"Receiver {remote} answers. It accepts only callers with a certificate that it trusts."
    except AssociationRejectedError:
        # It runs, and the settings do not name this caller.
        return f"Receiver {remote} answers. It accepts only the callers that its settings name."
    if outcome.category is not Category.SUCCESS:
        raise PacsTasksError(f"Receiver {remote} answers {outcome.status}. Check its log.")
    return f"Receiver {remote} answers."


def check_flower(config: Settings, _name: str = "") -> str:
    return _check_http("Flower", config.flower_address, config.flower_port, "/healthcheck")


def check_serve(config: Settings, _name: str = "") -> str:
    """Request what the HTTP API answers without a token; it asks the Redis."""
    return _check_http("The HTTP API", config.serve_address, config.serve_port, "/health")


def _check_http(name: str, address: str, port: int, path: str) -> str:
    host = _ANYWHERE.get(address, address)
    connection = http.client.HTTPConnection(host, port, timeout=STEP)
    try:
        connection.request("GET", path)
        code = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise PacsTasksError(f"{name} at {host}:{port} does not answer ({error}). Check its log.") from None
    finally:
        connection.close()
    if code != http.client.OK:
        raise PacsTasksError(f"{name} at {host}:{port} answers HTTP status {code}. Check its log.")
    return f"{name} at {host}:{port} answers."


CHECKS: Mapping[str, Callable[[Settings, str], str]] = MappingProxyType(
    {
        "worker": check_worker,
        "alive": check_alive,
        "receiver": check_receiver,
        "redis": check_redis,
        "flower": check_flower,
        "serve": check_serve,
    }
)


def check(kind: str, name: str, lines: list[str]) -> int:
    """Make one check, and add one line to ``lines``."""
    try:
        lines.append(CHECKS[kind](load(), name))
    except PacsTasksError as error:
        lines.append(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - any error means that the process is not well
        lines.append(f"{kind.capitalize()} cannot be checked: {type(error).__name__}: {error}")
        return 1
    return 0


def main(arguments: Sequence[str] = ()) -> int:
    """Check the process that the first argument names; return the exit code."""
    kind, name, *rest = [*(arguments or sys.argv[1:]), "", ""]
    if kind not in CHECKS or any(rest):
        sys.stderr.write(f"Usage: python -m workers.health {'|'.join(CHECKS)} [WORKER_NAME]\n")
        return 2
    if kind in _NEEDED:
        importlib.import_module(_NEEDED[kind])
    lines: list[str] = []
    codes: list[int] = []
    # No time limit of a library covers a name server that does not answer, hence the thread.
    checking = threading.Thread(target=lambda: codes.append(check(kind, name, lines)), daemon=True)
    checking.start()
    checking.join(LIMIT)
    # All but the lookups of the Redis's name has a limit of its own: nobody should restart a worker for these.
    code = codes[0] if codes else int(kind != "alive")
    late = f"{kind.capitalize()} does not answer within {LIMIT:.0f} s."
    line = lines[0] if codes else late if code else "The worker waits for its Redis. The name server does not answer."
    print(plain(line), file=sys.stderr if code else sys.stdout, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
