"""Enqueue requests and follow their jobs."""

from pacs_tasks.client.job import Job
from pacs_tasks.client.pacs_client import PacsClient

__all__ = ["Job", "PacsClient"]
