"""Is it well? ``python -m workers.health worker|receiver|redis|flower`` says so in one line and by its exit code.

``worker`` asks the one that Celery calls ``celery@HOSTNAME``, or the one named after it: ``worker send-1@host``. For
the health checks of containers and for people. Each check is bounded in time and asks the process itself.
"""

from __future__ import annotations

import http.client
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.app import create
from pacs_tasks.connection import connect
from pacs_tasks.dimse.c_echo import echo
from pacs_tasks.dimse.upper_layer.association import Timeouts
from pacs_tasks.dimse.upper_layer.connect import open_wire
from pacs_tasks.errors import ConfigurationError, PacsTasksError, TLSError
from pacs_tasks.outcome import Category
from pacs_tasks.settings import Settings, load

#: Seconds for the whole check, and for each thing that it asks.
LIMIT = 10.0
STEP = 4.0
#: Addresses to listen at, which are none to call.
_ANYWHERE = MappingProxyType({"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"})  # noqa: S104


def _redis_url(config: Settings) -> str:
    if config.redis_url is None:
        raise ConfigurationError("there is no Redis to ask; set PACS_TASKS_REDIS_URL")
    return config.redis_url


def check_redis(config: Settings, _name: str = "") -> str:
    connect(_redis_url(config), STEP).close()
    return "redis answers"


def check_worker(config: Settings, name: str = "") -> str:
    """Ping the worker of this machine through the broker, as `celery inspect ping` does."""
    check_redis(config)
    name = name or f"celery@{socket.gethostname()}"
    with create(_redis_url(config), config) as app:
        answers = app.control.ping(destination=[name], timeout=STEP, limit=1)
    if not answers:
        raise PacsTasksError(f"worker {name} does not answer; look into its log")
    return f"worker {name} answers"


def check_receiver(config: Settings, _name: str = "") -> str:
    """Echo the receiver (C-ECHO, PS3.4 annex A)."""
    host = _ANYWHERE.get(config.receiver_host, config.receiver_host)
    tls = config.receiver_tls
    if tls is not None:
        # Its own certificate is the one to expect here, whoever signed it and for whatever name.
        tls = tls.model_copy(update={"ca_file": tls.certificate_file, "check_hostname": False})
    remote = RemoteAE(ae_title=config.receiver_ae_title, host=host, port=config.receiver_port, tls=tls)
    try:
        outcome = echo(LocalAE(ae_title="HEALTH"), remote, Timeouts.of(STEP))
    except TLSError:
        if config.receiver_tls_ca is None:
            raise
        # It demands certificates of other authorities than its own: that it shakes hands is answer enough.
        open_wire(remote, STEP, STEP, lambda: None).close()
        return f"receiver {remote} answers, and takes only callers whom it knows"
    if outcome.category is not Category.SUCCESS:
        raise PacsTasksError(f"receiver {remote} answers {outcome.status}")
    return f"receiver {remote} answers"


def check_flower(config: Settings, _name: str = "") -> str:
    host = _ANYWHERE.get(config.flower_address, config.flower_address)
    connection = http.client.HTTPConnection(host, config.flower_port, timeout=STEP)
    try:
        connection.request("GET", "/healthcheck")
        code = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise PacsTasksError(f"Flower at {host}:{config.flower_port} does not answer ({error})") from None
    finally:
        connection.close()
    if code != http.client.OK:
        raise PacsTasksError(f"Flower at {host}:{config.flower_port} answers {code}")
    return f"Flower at {host}:{config.flower_port} answers"


CHECKS: Mapping[str, Callable[[Settings, str], str]] = MappingProxyType(
    {"worker": check_worker, "receiver": check_receiver, "redis": check_redis, "flower": check_flower}
)


def check(kind: str, name: str, said: list[str]) -> int:
    """Make one check, and add one line to ``said``."""
    try:
        said.append(CHECKS[kind](load(), name))
    except PacsTasksError as error:
        said.append(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the one asked about is not well
        said.append(f"{kind} cannot be asked: {type(error).__name__}: {error}")
        return 1
    return 0


def main(arguments: Sequence[str] = ()) -> int:
    """Check what the first argument names."""
    kind, name, *rest = [*(arguments or sys.argv[1:]), "", ""]
    if kind not in CHECKS or any(rest):
        print(f"usage: python -m workers.health {'|'.join(CHECKS)} [WORKER_NAME]", file=sys.stderr)  # noqa: T201
        return 2
    said: list[str] = []
    codes: list[int] = []
    # A thread, because no time limit of a library covers a name server that does not answer.
    asking = threading.Thread(target=lambda: codes.append(check(kind, name, said)), daemon=True)
    asking.start()
    asking.join(LIMIT)
    code = codes[0] if codes else 1
    line = said[0] if codes else f"{kind} does not answer within {LIMIT:.0f} s"
    print(line, file=sys.stderr if code else sys.stdout, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
