"""The HTTP API and its console: ``pacs-tasks serve``. It needs the extra ``serve``.

:func:`pacs_tasks.serve.application.create_app` makes the ASGI application from the settings and an open
:class:`~pacs_tasks.client.PacsClient`. It imports no pynetdicom, pydicom or Celery.

The routes of the API are ``/jobs``, ``/remotes``, ``/uploads``, ``/openapi.json`` and ``/health``. The console has all
others: ``create_app`` calls ``pacs_tasks.serve.console.mount(app)`` last, which adds a router of its own at ``/`` and
its static files, both with ``include_in_schema=False``. A route gets from :mod:`pacs_tasks.serve.access`, as
dependencies of FastAPI:

``services: Shared``
    The settings, the client, the access, the watch and the uploads of this process. ``services.watch.follow(job_id)``
    yields the progress of a job as it changes.
``caller: Reader`` (``Submitter``)
    Who calls, with the scopes that the route needs; ``caller.may(Scope.PATIENTS)`` decides about patient data.
    :mod:`pacs_tasks.serve.routes.jobs` gives of a job what a caller may see.
``services.access.sign_ons.append(function)``
    How a console that logs in by cookie or by a trusted proxy header says who calls: the function gets the connection
    and returns a ``Caller`` or None. The API then accepts it too, and refuses its unsafe methods from other origins.
"""
