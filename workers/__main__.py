"""``python -m workers``: what ``celery -A workers.dimse worker`` runs, with the same options.

Celery's command line loads all its commands, and Flower's, before it begins one: a seventh of the CPU that the start of
a worker takes. ``pacs-tasks worker``, ``pacs-tasks up`` and the private server start theirs by this.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run a worker until it is told to end; exit with its exit code."""
    options = sys.argv[1:]
    # Celery starts this again for --detach, and finds the pool here.
    sys.argv = ["celery", "-A", "workers.dimse", "worker", *options]
    from celery import maybe_patch_concurrency

    maybe_patch_concurrency(sys.argv)
    from celery.bin.base import CLIContext
    from celery.bin.worker import worker

    from workers.dimse import app

    context = CLIContext(app=app, no_color=False, workdir=None)
    worker.main(options, "celery worker", obj=context, auto_envvar_prefix="CELERY_WORKER")


if __name__ == "__main__":
    main()
