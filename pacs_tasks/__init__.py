"""DICOM transfers as Celery tasks over Redis."""
