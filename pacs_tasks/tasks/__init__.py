"""The Celery tasks: read the request, call :mod:`pacs_tasks.dimse`, record the outcome. Only this room retries.

Importing this package registers every task with :data:`pacs_tasks.app.app`. Only workers import it.
"""

from pacs_tasks.tasks import find, preflight, store, webhooks
from pacs_tasks.tasks.engine import claim
from pacs_tasks.tasks.retrieve import tasks as retrieve
from pacs_tasks.tasks.verify import tasks as verify

__all__ = ["claim", "find", "preflight", "retrieve", "store", "verify", "webhooks"]
