"""Traces by OpenTelemetry, where ``PACS_TASKS_TRACES`` names a collector: one from the request to the C-STORE.

A span has the operation, the id of the job, the remote and numbers, and nothing of a request. The context goes from the
enqueuer to the parts in the header ``traceparent`` of their messages (W3C Trace Context), which Celery's own
instrumentation writes and reads as well. Without the setting nothing is loaded.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

#: The header of messages and of HTTP requests.
HEADER = "traceparent"
#: Milliseconds that a collector may take.
_LIMIT = 3_000
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@contextmanager
def span(collector: str | None, name: str, parent: object = None, /, **attributes: str | int) -> Iterator[None]:
    """Record what happens in the block as a span; nothing without a collector.

    Parameters
    ----------
    collector
        The address to which spans go: ``http://collector:4318/v1/traces``.
    parent
        The header ``traceparent`` of a message. Without a valid one, the span that this thread is in, if any.
    """
    provider = _provider(collector, os.getpid()) if collector else None
    if provider is None:
        yield
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    valid = isinstance(parent, str) and _TRACEPARENT.fullmatch(parent)
    context = TraceContextTextMapPropagator().extract({HEADER: parent}) if valid else None
    tracer = provider.get_tracer("pacs_tasks")
    shown = {f"pacs_tasks.{key}": value for key, value in attributes.items()}
    # The text of an error may be private.
    with tracer.start_as_current_span(
        name, context, attributes=shown, record_exception=False, set_status_on_exception=False
    ):
        yield


def carried(collector: str | None) -> Mapping[str, str]:
    """Give the headers of a message that is published within a span; none without a collector."""
    if not collector or _provider(collector, os.getpid()) is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {name: value for name, value in carrier.items() if name == HEADER}


def trace_published(collector: str) -> None:
    """Have all tasks that this process publishes by Celery carry the span within which it does so."""
    from celery.signals import before_task_publish

    def add_header(headers: dict[str, Any], **_: object) -> None:
        headers |= carried(collector)

    before_task_publish.connect(add_header, weak=False)


def flush(collector: str | None) -> None:
    """Send the spans that this process still has; those that the collector does not take are lost."""
    provider = _provider(collector, os.getpid()) if collector else None
    if provider is not None:
        provider.force_flush(_LIMIT)


@cache
def _provider(collector: str, _: int) -> TracerProvider | None:
    """Make the provider of this process, whose thread sends spans now and then; a fork makes its own."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.error("PACS_TASKS_TRACES needs OpenTelemetry, so there are no traces. Install `pacs-tasks[otel]`.")
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": "pacs-tasks"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector, timeout=_LIMIT / 1000)))
    return provider
