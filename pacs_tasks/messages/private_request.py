"""The task messages of a worker, as events, log lines and Flower show them."""

from __future__ import annotations

from typing import Any, cast

from celery.worker.request import Request

from pacs_tasks.messages.shown import checked, shown_result


class PrivateRequest(Request):  # type: ignore[misc]  # Celery ships no annotations
    """A task message of which events, log lines and `inspect` show only what is harmless, whoever published it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fields = self._request_dict
        fields |= {name: checked(fields.get(name)) for name in ("argsrepr", "kwargsrepr")}
        self._argsrepr, self._kwargsrepr = fields["argsrepr"], fields["kwargsrepr"]

    def info(self, *_: Any, **__: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", super().info(safe=True))

    def send_event(self, event: str, **fields: Any) -> None:
        """Send an event. A job that did not do all has failed for whoever watches, although Celery has its summary."""
        if event == "task-succeeded":
            good, result = shown_result(self.name, fields["result"])
            fields["result"] = result
            if not good:
                event, fields["exception"] = "task-failed", result
        super().send_event(event, **fields)
