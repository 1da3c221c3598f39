"""A real PACS for tests, on a free port and with faults on demand.

It is built on the application entity of pynetdicom and shares no network code with :mod:`pacs_tasks.dimse`, so that
each checks the other. Other projects may use it too, for example as a pytest fixture::

    from collections.abc import Iterator

    import pytest
    from pacs_tasks.testing import Faults, TestPACS

    @pytest.fixture
    def pacs() -> Iterator[TestPACS]:
        with TestPACS(ae_title="ARCHIVE") as pacs:
            yield pacs

    def test_that_a_busy_archive_gets_another_request(pacs: TestPACS) -> None:
        pacs.faults = Faults(busy_associations=2)
        send_everything_to("127.0.0.1", pacs.port)
        assert len(pacs.instances) == 10
"""

from pacs_tasks.testing.faults import EVERY_INSTANCE, Faults, Rejection, Report, Silence
from pacs_tasks.testing.instances import StoredBytes
from pacs_tasks.testing.pacs import TestPACS

__all__ = ["EVERY_INSTANCE", "Faults", "Rejection", "Report", "Silence", "StoredBytes", "TestPACS"]
