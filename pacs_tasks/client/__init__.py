"""The Python client: it enqueues requests and follows their jobs::

    from pacs_tasks import PacsClient, RemoteAE, StoreDirectoryRequest

    with PacsClient() as client:
        job = client.enqueue(StoreDirectoryRequest(remote=RemoteAE(host="192.168.1.100"), directory="/data/study"))
        job.wait()
        print(job.outcome().category)

Other rooms import from here :class:`PacsClient`, :class:`Job` and :func:`job_id_of`, and from :mod:`.asynchronous` the
same for asyncio.
"""

from pacs_tasks.client.job import Job
from pacs_tasks.client.pacs_client import PacsClient, job_id_of

__all__ = ["Job", "PacsClient", "job_id_of"]
