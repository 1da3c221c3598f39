"""The Python client: it enqueues requests and follows their jobs."""

from pacs_tasks.client.job import Job
from pacs_tasks.client.pacs_client import PacsClient

__all__ = ["Job", "PacsClient"]
