"""The engine under every task: how a job is claimed, planned, divided into parts, retried and recorded.

Task modules import from here: ``base`` (registration, the worker's ledger, retries), ``job`` (serve a job), ``part``
(serve a part), ``associations`` (under leases, and sessions over them), ``claim``, ``pace`` and ``permissions``. The
worker also imports the watches in ``claim`` and what it needs to end its tasks.
"""
