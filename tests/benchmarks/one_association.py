"""Send a directory over one association, as a part does, without Celery and Redis: a process that is timed.

``python -m tests.benchmarks.one_association HOST PORT CALLED_AET DIRECTORY``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pacs_tasks.ae import LocalAE, RemoteAE
from pacs_tasks.dimse import c_store
from pacs_tasks.dimse.files.part10 import read_instance
from pacs_tasks.dimse.upper_layer.association import Association, Timeouts
from pacs_tasks.dimse.upper_layer.contexts import contexts_for
from pacs_tasks.outcome import InstanceCategory


def main(host: str, port: str, called_aet: str, directory: str) -> None:
    """Print how many instances the peer took, and the seconds from the first header read to the release."""
    began = time.perf_counter()
    instances = [
        read_instance(str(path)) for path in sorted(each for each in Path(directory).rglob("*") if each.is_file())
    ]
    remote = RemoteAE(ae_title=called_aet, host=host, port=int(port))
    sent = 0
    for proposed, batch in contexts_for(instances):
        with Association.open(LocalAE(), remote, proposed, Timeouts.of(30.0)) as assoc:
            outcomes = c_store.store_all(assoc, batch)
            sent += sum(outcome.category is InstanceCategory.SUCCESS for _, outcome in outcomes)
    print(json.dumps({"sent": sent, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
