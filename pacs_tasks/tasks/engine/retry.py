"""Tasks that come again: later, because they say so, or at once, because their broker took nothing from them."""

from __future__ import annotations

from typing import Any, NoReturn

from celery import Task
from celery.exceptions import BackendError, Reject
from kombu.exceptions import OperationalError

from pacs_tasks.connection import AWAY
from pacs_tasks.errors import BrokerUnavailableError

#: How a task learns that its Redis is away or full, whichever of us, Celery and kombu spoke to it.
BROKER_AWAY = (BrokerUnavailableError, OperationalError, BackendError, *AWAY)


def come_again(task: Task, countdown: float, **options: Any) -> NoReturn:
    """End the running task, and have it come again in ``countdown`` seconds.

    Where the broker does not take that, the message goes back as it was. Celery's own ``retry`` would drop it then, and
    nobody would come back to a part until the job has stood still for a minute.
    """
    try:
        raise task.retry(countdown=countdown, max_retries=None, **options)
    except Reject as error:
        raise Reject(error.reason, requeue=True) from None


def go_back(error: Exception) -> NoReturn:
    """Without its Redis a task can tell nobody anything: its message goes back, and the next one finds out."""
    raise Reject(error.message if isinstance(error, BrokerUnavailableError) else type(error).__name__, requeue=True)
