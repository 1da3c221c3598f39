"""The Celery tasks: read the request, call :mod:`pacs_tasks.dimse`, record the outcome. Only this room retries.

Importing this package registers every task with :data:`pacs_tasks.app.app`. Only workers import it.
"""

from pacs_tasks.tasks import echo
from pacs_tasks.tasks.engine import resume
from pacs_tasks.tasks.find import batch as find_batch
from pacs_tasks.tasks.find import tasks as find
from pacs_tasks.tasks.retrieve import direct
from pacs_tasks.tasks.retrieve import tasks as retrieve
from pacs_tasks.tasks.store import preflight
from pacs_tasks.tasks.store import tasks as store
from pacs_tasks.tasks.verify import commit
from pacs_tasks.tasks.verify import tasks as verify

__all__ = ["commit", "direct", "echo", "find", "find_batch", "preflight", "resume", "retrieve", "store", "verify"]
