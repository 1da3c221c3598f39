"""Our Storage SCP as a process of its own, whose memory, threads and descriptors can be counted.

``python -W error -m tests.support.receiver_process DIRECTORY SECONDS`` says its port, and serves until it is told to
end. SECONDS limits every silence.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from pacs_tasks.dimse.scp.storage_scp import StorageSCP
from pacs_tasks.dimse.upper_layer.association import Timeouts


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    ends = {signal.SIGTERM, signal.SIGINT}
    # Before any thread starts: all threads keep what is blocked now.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    directory, seconds = Path(sys.argv[1]), float(sys.argv[2])
    with StorageSCP("127.0.0.1", 0, directory, Timeouts.of(seconds), on_report=lambda _: True) as scp:
        print(f"port {scp.port}", flush=True)  # noqa: T201 - who started it reads this
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
