"""Errors keep what is private apart from what is not."""

from __future__ import annotations

import pytest
from celery.backends.base import Backend

from pacs_tasks import errors
from pacs_tasks.app import create
from pacs_tasks.settings import load


def test_the_public_error_leaves_its_subject_out() -> None:
    """A path may hold a patient's name; it is for the one who asked, not for Flower."""
    error = errors.UnreadableInputError("no such file", "/data/Secret.dcm")
    assert str(error) == "/data/Secret.dcm: no such file"
    assert str(error.public()) == "no such file"
    assert type(error.public()) is errors.UnreadableInputError


def test_a_record_gives_back_the_class_that_was_raised() -> None:
    """Also after a JSON round trip; a class of a newer version becomes a failed job."""
    back = errors.from_record("PeerBusyError", "try later")
    assert type(back) is errors.PeerBusyError
    assert isinstance(back, errors.PeerUnavailableError)
    assert type(errors.from_record("FromTheFuture", "x")) is errors.JobFailedError


@pytest.mark.parametrize("name", ["PacsTasksError", "PeerUnavailableError", "InvalidRequestError"])
def test_celery_gives_the_error_back_as_it_was(name: str) -> None:
    """The JSON result backend rebuilds an exception from its positional arguments."""
    backend = Backend(app=create("redis://127.0.0.1:1/0", load(redis_url=None)))
    error = errors.from_record(name, "what happened", "about whom")
    back = backend.exception_to_python(backend.prepare_exception(error))
    assert (type(back), str(back)) == (type(error), "about whom: what happened")


def test_the_docstring_draws_every_error() -> None:
    """The tree in the module's docstring is the tree of classes."""
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    assert errors.__doc__ is not None
    drawn = set(errors.__doc__.split())
    assert {each.__name__ for each in classes} <= drawn
