"""URLs that a request may name, and those that it may not."""

from __future__ import annotations

import pytest

from pacs_tasks.errors import InvalidRequestError
from pacs_tasks.request import StoreDirectoryRequest, StorePathsRequest, StoreRequest, build
from pacs_tasks.source import is_below, is_url

_SECRET = "hunter2"
_FORBIDDEN = {
    "file:///etc/passwd": "begins with s3://",
    "FILE:///etc/passwd": "begins with s3://",
    "local:///etc/passwd": "begins with s3://",
    "http://server/1": "begins with s3://",
    "ftp://server/1": "begins with s3://",
    "simplecache::s3://bucket/1": "absolute",
    f"s3://user:{_SECRET}@bucket/1": "no user and no password",
    f"https://{_SECRET}@server/1": "no user and no password",
    f"abfs://user:{_SECRET}@container/1": "no user and no password",
    f"https://server/1?X-Amz-Signature={_SECRET}": "no query",
    f"https://server/1#{_SECRET}": "no query",
    "s3://": "names a bucket",
    "s3:///1": "names a bucket",
    "s3://bucket/1::file:///etc/passwd": "no ::",
    "https://server\\@other/1": "no user and no password",
    "https://server/a\\..\\b": "no backslash",
    "s3://bucket/a\n": "no control character",
    "s3://bucket/a/../b": "no . or ..",
    "https://server/a/%2e%2E/b": "no . or ..",
    "https://server/a/..%252fb": "no . or ..",
}


@pytest.mark.parametrize("url", _FORBIDDEN)
def test_a_url_that_leads_elsewhere_or_holds_a_secret_is_refused_without_being_repeated(url: str) -> None:
    for request, name in ((StoreRequest, "path"), (StoreDirectoryRequest, "directory"), (StorePathsRequest, "paths")):
        with pytest.raises(InvalidRequestError) as raised:
            build(request, {name: [url] if name == "paths" else url})
        assert _FORBIDDEN[url] in raised.value.message
        assert _SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a b/张三?#%41.dcm", "gs://bucket", "https://server:8443/a/1.dcm", "abfs://c@account.dfs.example/1"],
)
def test_a_url_of_an_object_or_of_what_is_below_it_is_accepted(url: str) -> None:
    assert build(StoreRequest, {"path": url}).path == url


def test_a_path_is_no_url_whatever_its_name_is() -> None:
    assert not any(map(is_url, ("/data/s3://bucket", "C:\\data", "D:/data", "/a")))


def test_a_prefix_ends_between_slashes() -> None:
    assert is_below("s3://bucket/a/1", ["s3://bucket/a"])
    assert is_below("s3://bucket/a/1", ["s3://bucket/a/"])
    assert is_below("s3://bucket/a", ["s3://bucket/a"])
    for other in ("s3://bucket/ab", "s3://bucket2/a", "s3://bucket", "S3://bucket/a/1", "gs://bucket/a/1"):
        assert not is_below(other, ["s3://bucket/a"])
