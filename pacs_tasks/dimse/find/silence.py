"""Having pydicom say nothing: it warns and logs of values that break the Standard, and repeats them."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_one_at_a_time = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """No word of pydicom within. Filters belong to the process, so one thread at a time sets them."""
    told = logging.getLogger("pydicom")
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, told.disabled = told.disabled, True
        try:
            yield
        finally:
            told.disabled = before
