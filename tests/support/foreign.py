"""The worker of another service: ``celery -A tests.support.foreign worker``. It imports nothing of ours."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("foreign", broker=os.environ.get("FOREIGN_REDIS"), backend=os.environ.get("FOREIGN_REDIS"))
app.conf.task_default_queue = "foreign"


@app.task(name="foreign.note")  # type: ignore[untyped-decorator]
def note(value: Any) -> Any:
    """Return what a callback receives."""
    return value
