"""Records of another version."""

from __future__ import annotations

import json

import pytest

from pacs_tasks import EchoRequest, InvalidRequestError, PacsClient
from pacs_tasks.ledger.keys import checked_job_key


@pytest.mark.parametrize("change", ["task", "request"])
def test_a_request_of_another_version_hides_no_job(change: str, redis_url: str) -> None:
    """The list is complete; only the request of that job cannot be read."""
    with PacsClient(redis_url) as client:
        odd, known = client.enqueue(EchoRequest()), client.enqueue(EchoRequest())
        request = json.dumps({**json.loads(EchoRequest().model_dump_json()), "remote": {"charset": "of tomorrow"}})
        value = {"task": "pacs_tasks.of_tomorrow", "request": request}[change]
        client.ledger.client.hset(checked_job_key(odd.id), change, value)
        assert {each.job_id for each in client.jobs()} == {odd.id, known.id}
        with pytest.raises(InvalidRequestError, match=f"Another version of .* job {odd.id}"):
            odd.request()
