"""The Celery tasks: decode the request, call :mod:`pacs_tasks.dimse`, record the outcome. Only here is retried.

Importing this package registers every task with :data:`pacs_tasks.app.app`.
"""

from pacs_tasks.tasks import commit, echo, find, find_batch, get, move, preflight, resume, retrieve, store, verify

__all__ = ["commit", "echo", "find", "find_batch", "get", "move", "preflight", "resume", "retrieve", "store", "verify"]
