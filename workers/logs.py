"""What Celery and kombu would log of messages: whole bodies, headers and errors that quote them."""

from __future__ import annotations

import logging

#: Their templates hold whole messages, or values of them.
_TEMPLATES = (
    "Received and deleted unknown message",
    "Received unregistered task",
    "Received invalid task message",
    "Can't decode message body",
    "Couldn't convert ETA",
    "Cannot process event on channel",
    "Could not restore message",
    "pidbox received method",
    "pidbox command error",
    "Control command error",
    "No such control command",
)
_LOGGERS = ("celery.worker.consumer.consumer", "celery.worker.strategy", "celery.worker.pidbox", "kombu.pidbox",
            "kombu.transport.redis", "kombu.transport.virtual.base")  # fmt: skip


def _without_body(record: logging.LogRecord) -> bool:
    """Keep of a line about a message only what happened."""
    template = str(record.msg)
    for each in _TEMPLATES:
        if template.startswith(each):
            record.msg, record.args, record.exc_info, record.exc_text = (
                f"{each} (its content is private)",
                (),
                None,
                None,
            )
    return True


def hide_bodies() -> None:
    """Let no line of Celery or kombu show a message.

    :mod:`workers.transport` refuses such messages before they come that far, so this is the second net.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_without_body)
