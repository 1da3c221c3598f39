"""A local S3 (moto's server), to which tests speak plain HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.support.processes import started

#: What a worker reads it with.
CREDENTIALS: Mapping[str, str] = MappingProxyType(
    {
        "AWS_ACCESS_KEY_ID": "key-of-the-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
)
_ADDRESS = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class ObjectStore:
    """A running S3."""

    address: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a worker that may read it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.address}

    def put(self, name: str, content: bytes = b"") -> str:
        """Make a bucket (``bucket``), an object (``bucket/key``) or a policy; return its URL for a request."""
        self._request("PUT", quote(name, safe="/?"), content)
        return f"s3://{name}"

    def delete(self, name: str) -> None:
        self._request("DELETE", quote(name), None)

    def _request(self, method: str, name: str, content: bytes | None) -> None:
        # It looks at who asks, and not at the signature.
        credential = f"{CREDENTIALS['AWS_ACCESS_KEY_ID']}/20261126/us-east-1/s3/aws4_request"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"}
        headers["Content-Type"] = "application/octet-stream"
        request = Request(f"{self.address}/{name}", data=content, headers=headers, method=method)
        with urlopen(request, timeout=30) as response:
            response.read()


@contextmanager
def object_store(directory: Path) -> Iterator[ObjectStore]:
    """An empty S3 on a loopback port."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    log = directory / "object-store.log"
    with started(command, log, lambda process: _ADDRESS.search(process.said()) is not None, timeout=60) as process:
        found = _ADDRESS.search(process.said())
        assert found is not None
        yield ObjectStore(found[1])
