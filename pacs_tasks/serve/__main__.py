"""The process of ``pacs-tasks serve``: ``python -m pacs_tasks.serve``."""

from __future__ import annotations

import logging
import signal
import sys

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from pacs_tasks.client import PacsClient
from pacs_tasks.errors import PacsTasksError
from pacs_tasks.journal.logs import log_plainly, write_lines
from pacs_tasks.privacy import keep_private
from pacs_tasks.serve.application import create_app
from pacs_tasks.serve.protocol import Limits, limited
from pacs_tasks.settings import Settings, settings

#: Seconds that open connections have to end after SIGTERM: those that watch a job never end by themselves.
_PATIENCE = 3
#: Open files that this process wants: each connection is one.
_MOST_FILES = 16_384
#: Connections that wait to be accepted.
_BACKLOG = 2_048


def _raise_limit_of_files() -> int:
    """Allow as many connections as the system does: each who watches a job has one. Return the limit."""
    most = _MOST_FILES
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(soft, most if hard == resource.RLIM_INFINITY else min(hard, most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def serve(config: Settings, files: int) -> None:
    """Serve until SIGINT or SIGTERM.

    Parameters
    ----------
    config
        The settings.
    files
        The most open files. A quarter is for Redis, uploads and connections that are about to end.

    Raises
    ------
    PacsTasksError
        If the Redis cannot be used.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn ends in order on a signal, and then raises it again.
        signal.signal(number, lambda *_: None)
    with PacsClient(config=config) as client:
        uvicorn.run(
            create_app(config, client),
            host=config.serve_address,
            port=config.serve_port,
            http=limited(Limits(of_all=files * 3 // 4)),
            # So many are accepted before any can end for there being too many.
            backlog=min(_BACKLOG, files // 8),
            # Nothing here speaks it, and such a connection would have none of our limits.
            ws="none",
            # A line for each request would hold ids of jobs, and be the most of the log.
            access_log=False,
            # JSON lines are written by the output of all loggers.
            log_config=None if config.log_format == "json" else LOGGING_CONFIG,
            server_header=False,
            # Who the caller is follows from tokens and from what the console trusts, never from such a header.
            proxy_headers=False,
            timeout_graceful_shutdown=_PATIENCE,
        )


def main() -> int:
    """Run the process, and return its exit code."""
    log_plainly()
    config = settings()
    keep_private(config.group_access)
    files = _raise_limit_of_files()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    write_lines(config.log_format)
    try:
        serve(config, files)
    except PacsTasksError as error:
        print(error, file=sys.stderr)  # noqa: T201 - whoever started this process reads it
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
